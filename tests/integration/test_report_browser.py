"""The report page in a real browser: policy enforced, nothing logged, controls at work, hostile names shown as text."""

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from musc_ray.report import GroupReport, RunReport, WorstImage, render

webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium (PyPI)")
from selenium.webdriver.common.by import By  # noqa: E402 - only after the check above
from selenium.webdriver.common.keys import Keys  # noqa: E402

HOSTILE = """"><script>window.owned = 1</script><img src=x onerror='window.owned = 1'>"""
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    chromedriver = shutil.which("chromedriver")
    if not (browser and chromedriver):
        pytest.skip("needs Chromium and chromedriver (Debian packages chromium and chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in [*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(chromedriver))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("report") / "index.html"
    path.write_text(render(make_report()), encoding="utf-8")
    return path.as_uri()


def make_report() -> RunReport:
    rng = np.random.default_rng(0)
    sizes = [(400, 300), (90, 200), (640, 64), (300, 300)]
    worst = [
        WorstImage(
            image_id=f"id-{rank}",
            uri=f"s3://plant/{HOSTILE if rank == 1 else 'a long name ' * 6 + 'x' * 60}.png",
            rank=rank,
            score=1 - rank / 10,
            score_raw=2 - rank / 10,
            percentile=100 - rank,
            patch_map=rng.random((16, 16), dtype=np.float32),
            picture=Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)),
            label=HOSTILE,
        )
        for rank, size in enumerate(sizes, start=1)
    ]
    scores = rng.random(300, dtype=np.float32)
    return RunReport(
        run_id="run-" + "0123456789" * 6,
        source=f"s3://plant/{HOSTILE}",
        created_at=datetime(2026, 3, 4, tzinfo=UTC),
        groups=[GroupReport(HOSTILE, scores, scores, worst, 0.0, 1.0), GroupReport("b", scores, scores, [], 0.0, 1.0)],
        settings={"a_rather_long_name_of_a_setting": "y" * 80, HOSTILE: HOSTILE},
        counts={"images": 300},
        stage_seconds={"extract": 3.0, "mutual": 1.0},
        versions={"musc_ray": "0.1.0"},
        errors=[{"uri": "z" * 90, "group": "g", "stage": "extract", "error": "E" * 50, "message": HOSTILE}],
        error_total=1,
        notes=[HOSTILE],
        metrics={"Image AUROC": 0.9},
    )


def style_of(driver: Any, selector: str, name: str) -> str:
    script = "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]"
    value: str = driver.execute_script(script, selector, name)
    return value


def test_page_opens_without_a_word_in_the_console(driver: Any, address: str) -> None:
    driver.get(address)
    assert driver.get_log("browser") == []
    widths = driver.execute_script("return [...document.images].map(image => image.complete && image.naturalWidth)")
    assert len(widths) == 2 * 4 + 1, "a picture and a heat map each, and the scale"
    assert all(widths)


def test_policy_blocks_what_an_injection_could_try(driver: Any, address: str) -> None:
    """Also the proof that a violation would be seen by the test above."""
    driver.get(address)
    driver.execute_script("""
        const script = document.createElement("script");
        script.textContent = "window.owned = 1";
        document.body.append(script);
        document.body.setAttribute("style", "opacity: 0.5");
        document.body.append(Object.assign(new Image(), {src: "http://127.0.0.1:9/pixel.png"}));
    """)
    assert driver.execute_script("return window.owned") is None
    assert style_of(driver, "body", "opacity") == "1"
    log = " ".join(entry["message"] for entry in driver.get_log("browser"))
    for directive in ("script-src", "style-src", "img-src"):
        assert f"{directive} " in log


def test_hostile_names_are_shown_as_text(driver: Any, address: str) -> None:
    driver.get(address)
    assert driver.find_element(By.ID, "group-1-name").text == f"{HOSTILE} 300 images"
    assert (
        driver.find_element(By.CSS_SELECTOR, "figcaption .name").get_attribute("title") == f"s3://plant/{HOSTILE}.png"
    )
    assert driver.find_element(By.CSS_SELECTOR, ".label").text == HOSTILE
    assert driver.execute_script("return window.owned") is None
    assert len(driver.find_elements(By.TAG_NAME, "script")) == 1


def test_slider_sets_the_opacity_of_every_heat_map_by_keyboard_too(driver: Any, address: str) -> None:
    driver.get(address)
    slider = driver.find_element(By.ID, "opacity")
    assert style_of(driver, ".heat", "opacity") == "0.8"
    slider.send_keys(Keys.ARROW_LEFT)
    assert float(style_of(driver, ".heat", "opacity")) == pytest.approx(0.75)
    assert driver.find_element(By.ID, "opacity-value").text == "75 %"
    slider.send_keys(Keys.HOME)
    opacities = driver.execute_script(
        "return [...document.querySelectorAll('.heat')].map(image => getComputedStyle(image).opacity)"
    )
    assert opacities == ["0"] * 4
    slider.send_keys(Keys.END)
    assert style_of(driver, ".heat", "opacity") == "1"


def test_heat_maps_can_be_switched_off(driver: Any, address: str) -> None:
    driver.get(address)
    assert style_of(driver, ".heat", "visibility") == "visible"
    driver.find_element(By.ID, "overlay").send_keys(Keys.SPACE)
    assert style_of(driver, ".heat", "visibility") == "hidden"


def test_page_works_without_scripts(driver: Any, tmp_path: Path) -> None:
    """The same page with its script blocked: no slider that would do nothing, and the switch still works."""
    page = tmp_path / "index.html"
    html = render(make_report()).replace("script-src &#39;sha256-", "script-src &#39;sha256-0")
    page.write_text(html, encoding="utf-8")
    driver.get(page.as_uri())
    assert not driver.find_element(By.ID, "opacity").is_displayed()
    driver.find_element(By.ID, "overlay").click()
    assert style_of(driver, ".heat", "visibility") == "hidden"


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_nothing_overflows_and_heat_maps_lie_on_their_pictures(driver: Any, address: str, width: int) -> None:
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        driver.get(address)
        assert driver.execute_script("return document.documentElement.scrollWidth") == width
        places = driver.execute_script("""
            const place = image => {
                const box = image.getBoundingClientRect();
                return [box.x, box.y, box.width, box.height, image.naturalWidth, image.naturalHeight,
                        getComputedStyle(image).objectFit];
            };
            const heats = [...document.querySelectorAll(".heat")];
            return heats.map(heat => [place(heat.previousElementSibling), place(heat)]);
        """)
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert len(places) == 4
    for picture, heat in places:
        assert picture == heat
        assert picture[-1] == "contain"


def test_page_follows_the_colour_scheme(driver: Any, address: str) -> None:
    backgrounds = {}
    for scheme in ("light", "dark"):
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        driver.get(address)
        backgrounds[scheme] = style_of(driver, "body", "backgroundColor")
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert backgrounds == {"light": "rgb(245, 246, 247)", "dark": "rgb(19, 23, 25)"}
