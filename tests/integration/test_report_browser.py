"""The report in a real browser, from a folder and from a server: policy enforced, nothing logged, no request elsewhere,
controls at work, hostile names shown as text, readable in both colour schemes.
"""

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from musc_ray.core.crops import CropLayout
from musc_ray.report.build import write_report
from musc_ray.report.colormap import colormap
from musc_ray.report.zoom import zoom_box
from musc_ray.runtime.executor import open_executor
from musc_ray.runtime.options import ExecutorOptions
from musc_ray.runtime.progress import Progress
from musc_ray.scoring.thresholds import group_threshold
from musc_ray.settings.loading import load_settings
from musc_ray.sources.decoding import decode_original
from musc_ray.storage.paths import OutPaths
from tests.helpers.browser import key, open_browser, open_page, ranks_shown, served, text, texts, wait
from tests.helpers.scored_run import RUN, write_run

pytest.importorskip("selenium.webdriver", reason="needs selenium (PyPI)")
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

HOSTILE = """"><script>window.owned = 1<\\/script><img src=x onerror='window.owned = 1'>"""
FILES = (
    """a "quoted" 'name'.png""",
    "<script>window.owned = 1<script>.png",
    "<img src=x onerror=window.owned=1>.png",
    "\N{PEDESTRIAN} sm\N{LATIN SMALL LETTER O WITH DIAERESIS}rg\N{SNOWMAN}.png",
    "{{ 7*7 }} & &amp; \u202egnp.png",
)
IMAGES, SMALL_GROUP, SHOWN, GRID = 300, 3, 4, (5, 8)
SIZES = [(400, 300), (90, 200), (640, 64), (300, 300)]
PICTURES_LOADED = """
    return [...document.images].every(image => image.loading === "lazy" || image.naturalWidth > 0);
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with open_browser(tmp_path_factory.mktemp("chromium")) as driver:
        yield driver


@pytest.fixture(scope="module")
def out_paths(tmp_path_factory: pytest.TempPathFactory) -> OutPaths:
    """A run of two groups, one of them with a hostile name, evaluated, and its report."""
    folder = tmp_path_factory.mktemp("report")
    pictures = folder / "pictures"
    pictures.mkdir()
    names = [*FILES, *(f"part {number:03d}.png" for number in range(IMAGES - len(FILES)))]
    chance = np.random.default_rng(0)
    for number, name in enumerate(names):
        if number == len(FILES):
            (pictures / name).write_text("no picture")
        else:
            pixels = chance.integers(0, 256, (*SIZES[number % len(SIZES)][::-1], 3), dtype=np.uint8)
            Image.fromarray(pixels).save(pictures / name)
    out_paths = OutPaths.at(str(folder / "out"))
    uris = [str(pictures / name) for name in names]
    error = {"uri": f"s3://b/{HOSTILE}", "group": HOSTILE, "stage": "extract", "error": "ImageError"}
    errors = [{**error, "message": HOSTILE}, {**error, "uri": "s3://b/second.png", "message": "truncated"}]
    settings = load_settings(None, {"source": "made", "group_by": HOSTILE}).model_dump(mode="json")
    run = write_run(
        out_paths,
        {HOSTILE: uris, "b": [f"{uri}#gone" for uri in uris[:SMALL_GROUP]]},
        GRID,
        errors=errors,
        settings=settings,
        notes=[HOSTILE],
    )
    write_evaluation(out_paths)
    options = load_settings(None, {"report_images": SHOWN, "report_thumbnails": 290, "workers": 1})
    with open_executor(ExecutorOptions.of(options), Progress(quiet=True)) as executor:
        write_report(out_paths, run, executor, options, Progress(quiet=True))
    return out_paths


def write_evaluation(out_paths: OutPaths) -> None:
    """Every fifth image of the large group is defective, in turn of two kinds."""
    folder = Path(out_paths.run(RUN).evaluation)
    folder.mkdir()
    ids = table_of(out_paths)["image_id"].to_pylist()
    defects = ["good" if n % 5 else ("crack", HOSTILE)[n // 5 % 2] for n in range(len(ids))]
    labels = pa.array([int(defect != "good") for defect in defects], pa.int8())
    columns = {"image_id": ids, "uri": ids, "group": [HOSTILE] * len(ids), "label": labels, "defect": defects}
    pq.write_table(pa.table({**columns, "mask": pa.array([None] * len(ids), pa.string())}), folder / "labels.parquet")
    names = ("image_auroc", "image_ap", "image_f1_max", "image_threshold", "pixel_auroc", "pixel_ap", "pixel_f1_max")
    rows = [
        {"group": HOSTILE, "defect": defect, "images": 300, "anomalous": 60, "image_auroc": auroc}
        for defect, auroc in (("", 0.75), ("crack", 0.5), (HOSTILE, None))
    ]
    fields = [("group", pa.string()), ("defect", pa.string()), ("images", pa.int32()), ("anomalous", pa.int32())]
    fields += [(name, pa.float64()) for name in (*names, "pixel_threshold", "aupro", "aupimo")]
    pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema(fields)), folder / "metrics.parquet")


def table_of(out_paths: OutPaths) -> pa.Table:
    """The large group's scores by rank."""
    run_paths = out_paths.run(RUN)
    return ds.dataset(run_paths.parts(run_paths.scores, HOSTILE), format="parquet").to_table().sort_by("rank")


@pytest.fixture(scope="module")
def scores(out_paths: OutPaths) -> pa.Table:
    return table_of(out_paths)


@pytest.fixture(scope="module", params=["folder", pytest.param("server", marks=pytest.mark.slow)])
def address(request: pytest.FixtureRequest, out_paths: OutPaths) -> Iterator[str]:
    """Where the report is opened."""
    with served(out_paths.run(RUN).report) as address:
        yield Path(out_paths.run(RUN).report).as_uri() if request.param == "folder" else address


@pytest.fixture(scope="module")
def group_address(out_paths: OutPaths) -> str:
    return f"{Path(out_paths.run(RUN).report).as_uri()}/group-1.html"


@pytest.fixture(scope="module")
def image_address(out_paths: OutPaths) -> Callable[[int], str]:
    return lambda rank: f"{Path(out_paths.run(RUN).report).as_uri()}/image.html#1/{rank}"


def test_every_page_opens_silently_and_asks_nothing_of_others(driver: Any, address: str) -> None:
    driver.get_log("performance")
    pages = ["index.html", "group-1.html", "group-2.html", "image.html#1/1", "image.html#1/300", "image.html#2/3"]
    for page in pages:
        open_page(driver, f"{address}/{page}")
        driver.execute_script("window.scrollTo(0, document.body.scrollHeight)")
        wait(driver, lambda: driver.execute_script(PICTURES_LOADED))
        assert driver.get_log("browser") == [], page
        assert driver.execute_script("return window.owned") is None
        assert driver.execute_script("return document.getElementById('trouble').hidden")
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    asked = [url for url in asked if not url.startswith(("data:", "about:"))]
    assert len(asked) > 3 * len(pages)
    assert [url for url in asked if not url.startswith(f"{address}/")] == []


def test_policy_blocks_what_an_injection_could_try(driver: Any, address: str) -> None:
    """Also the proof that a violation would be seen by the test above."""
    open_page(driver, f"{address}/index.html")
    driver.execute_script("""
        const script = document.createElement("script");
        script.textContent = "window.owned = 1";
        document.body.append(script);
        document.body.setAttribute("style", "opacity: 0.5");
        document.body.append(Object.assign(new Image(), {src: "http://127.0.0.1:9/pixel.png"}));
    """)
    assert driver.execute_script("return window.owned") is None
    assert driver.execute_script("return getComputedStyle(document.body).opacity") == "1"
    log = " ".join(entry["message"] for entry in driver.get_log("browser"))
    for directive in ("script-src", "style-src", "img-src"):
        assert f"{directive} " in log


def typeable(name: str) -> str:
    """The first characters of a name that ChromeDriver can type: of the basic plane."""
    return "".join(character for character in name if ord(character) < 0x10000)[:2]


def test_hostile_names_are_shown_as_text(driver: Any, group_address: str, image_address: Any, scores: pa.Table) -> None:
    open_page(driver, group_address.replace("group-1", "index"))
    assert HOSTILE in texts(driver, "#groups td.name")
    assert texts(driver, "#error-list td.message")[0] == f"ImageError {HOSTILE}"
    assert HOSTILE in texts(driver, ".notice li")
    open_page(driver, group_address)
    assert text(driver, "h1") == f"{HOSTILE} 300 images"
    assert HOSTILE in texts(driver, ".metrics th")
    assert HOSTILE in texts(driver, "#label option")
    names = [Path(uri).name for uri in scores["uri"].to_pylist()]
    for name in FILES:
        driver.find_element(By.CSS_SELECTOR, "#images input[type=search]").clear()
        driver.find_element(By.CSS_SELECTOR, "#images input[type=search]").send_keys(typeable(name), Keys.ENTER)
        shown = name.replace("\u202e", r"\u202e")
        wait(driver, lambda shown=shown: shown in texts(driver, "#images td.name"))
    for name in FILES[:4]:
        open_page(driver, image_address(names.index(name) + 1))
        assert text(driver, "#name") == name
        assert driver.title.startswith(f"#{names.index(name) + 1} {name}")
    assert driver.execute_script("return window.owned") is None


def test_table_sorts_by_any_column_over_all_chunks(driver: Any, group_address: str, scores: pa.Table) -> None:
    open_page(driver, group_address)
    assert ranks_shown(driver) == list(range(1, 51))
    head = {button.text: button for button in driver.find_elements(By.CSS_SELECTOR, "#images th button")}
    raw = scores["score_raw"].to_numpy()
    for expected in (np.argsort(-raw, kind="stable"), np.argsort(raw, kind="stable")):
        head["Raw score"].click()
        wait(driver, lambda expected=expected: ranks_shown(driver) == (expected[:50] + 1).tolist())
        order = driver.execute_script("return document.querySelector('#images th.raw').ariaSort")
        assert order == ("descending" if raw[expected[0]] == raw.max() else "ascending")
    head["Image"].click()
    names = sorted(Path(uri).name.replace("\u202e", r"\u202e") for uri in scores["uri"].to_pylist())
    wait(driver, lambda: texts(driver, "#images td.name") == names[:50])
    head["Rank"].click()
    wait(driver, lambda: ranks_shown(driver) == list(range(1, 51)))
    driver.find_element(By.CSS_SELECTOR, "#images [data-step=last]").click()
    wait(driver, lambda: ranks_shown(driver) == list(range(251, 301)))
    assert text(driver, "#images .page") == "Page 6 of 6"
    assert not driver.find_element(By.CSS_SELECTOR, "#images [data-step=next]").is_enabled()


def test_table_filters_by_text_label_and_threshold(driver: Any, group_address: str, scores: pa.Table) -> None:
    open_page(driver, group_address)
    key(driver, "/")
    assert driver.execute_script("return document.activeElement.type") == "search"
    key(driver, "PART 29", Keys.ENTER)
    names = [Path(uri).name for uri in scores["uri"].to_pylist()]
    expected = [rank for rank, name in enumerate(names, start=1) if "part 29" in name]
    assert len(expected) == 5
    wait(driver, lambda: ranks_shown(driver) == expected)
    assert text(driver, "#images .count") == "1 to 5 of 5 (300 in all)"
    key(driver, Keys.ESCAPE)
    wait(driver, lambda: ranks_shown(driver) == list(range(1, 51)))
    driver.execute_script("""
        const choice = document.getElementById("label");
        choice.value = "crack";
        choice.dispatchEvent(new Event("change"));
    """)
    wait(driver, lambda: ranks_shown(driver) == list(range(1, 301, 10)))
    driver.find_element(By.ID, "only-held").click()
    held = int(driver.find_element(By.ID, "held").get_attribute("value"))
    wait(driver, lambda: ranks_shown(driver) == list(range(1, held + 1, 10)))
    key(driver, Keys.TAB)  # what is chosen stands in the address
    open_page(driver, driver.current_url)
    wait(driver, lambda: ranks_shown(driver) == list(range(1, held + 1, 10)))
    assert driver.find_element(By.ID, "label").get_attribute("value") == "crack"


def test_slider_says_how_many_images_would_be_held(driver: Any, group_address: str, scores: pa.Table) -> None:
    open_page(driver, group_address)
    values = scores["score"].to_numpy().astype(np.float64)
    slider, count = driver.find_element(By.ID, "threshold"), driver.find_element(By.ID, "held")
    suggested = group_threshold("", scores["score"].to_numpy(), None).threshold
    assert f"suggested is {suggested:.4f}" in text(driver, ".threshold")
    assert int(count.get_attribute("value")) == (values >= suggested).sum()
    for keys in ([Keys.HOME], [Keys.ARROW_RIGHT] * 7, [Keys.PAGE_UP] * 3, [Keys.END], [Keys.ARROW_LEFT] * 20):
        slider.send_keys(*keys)
        threshold = values.min() + int(slider.get_attribute("value")) / 1000 * (values.max() - values.min())
        expected = int((values >= threshold).sum())
        assert text(driver, "#held-share") == f"{expected} of 300 images held ({expected / 3:.1f} %)"
        assert f"{expected} of 300 images held" in slider.get_attribute("aria-valuetext")
        assert len(texts(driver, "#images .tag.held")) == min(expected, 50)
    labelled = scores["rank"].to_numpy() % 5 == 1
    assert text(driver, "#held-labels") == (
        f"Of 60 labelled anomalous: {labelled[:expected].sum()} held, {60 - labelled[:expected].sum()} missed. "
        f"Labelled normal and held: {expected - labelled[:expected].sum()}."
    )
    count.clear()
    count.send_keys("17", Keys.TAB)
    wait(driver, lambda: text(driver, "#held-share").startswith("17 of 300"))
    shown = float(driver.find_element(By.ID, "threshold-value").get_attribute("value"))
    assert abs(shown - values[16]) < 1.01e-4
    assert (values >= shown).sum() == 17
    driver.find_element(By.ID, "threshold-reset").click()
    assert int(count.get_attribute("value")) == (values >= suggested).sum()


def test_histogram_counts_every_image_once(driver: Any, group_address: str, scores: pa.Table) -> None:
    open_page(driver, group_address)
    values = scores["score"].to_numpy().astype(np.float64)
    counts, edges = np.histogram(values, bins=20)
    bars = [title.rsplit(": ", 1) for title in texts(driver, "#histogram title")]
    assert [bar[0] for bar in bars] == [
        f"{low:.4f} to {high:.4f}" for low, high, count in zip(edges, edges[1:], counts, strict=False) if count
    ]
    assert [int(bar[1].split()[0]) for bar in bars] == [count for count in counts if count]
    anomalous = [int(bar[1].split(", ")[1].split()[0]) for bar in bars]
    assert sum(anomalous) == 60
    places = driver.execute_script("""
        const middle = element => { const box = element.getBoundingClientRect(); return box.x + box.width / 2; };
        const slider = document.getElementById("threshold");
        const box = slider.getBoundingClientRect();
        return [middle(document.querySelector(".cut")), box.x + 8 + (box.width - 16) * slider.value / 1000];
    """)
    assert places[0] == pytest.approx(places[1], abs=2), "the slider's thumb stands below the line"


def test_image_page_shows_picture_heat_map_and_facts(driver: Any, image_address: Any, scores: pa.Table) -> None:
    for rank in (2, 60):
        row = {name: scores[name][rank - 1].as_py() for name in scores.column_names}
        open_page(driver, image_address(rank))
        assert text(driver, "#rank") == f"#{rank}"
        facts = dict(zip(texts(driver, "#facts th"), texts(driver, "#facts td"), strict=True))
        assert f"(rank {rank} of 300" in facts["Score"]
        assert float(facts["Score"].split()[0]) == pytest.approx(row["score"], abs=1e-4)
        assert float(facts["Raw score"]) == pytest.approx(row["score_raw"], abs=1e-4)
        assert facts["Image id"] == row["image_id"]
        assert facts["Location"] == row["uri"]
        low, high = float(text(driver, "#scale-low")), float(text(driver, "#scale-high"))
        assert high == pytest.approx(max(scores["score_raw"].to_numpy()), abs=1e-3)
        width, height, pixels = driver.execute_script("""
            const heat = document.querySelector("#with-heat .heat");
            const image = heat.getContext("2d").getImageData(0, 0, heat.width, heat.height);
            return [heat.width, heat.height, Array.from(image.data)];
        """)
        found = np.array(pixels, np.uint8).reshape(height, width, 4)
        assert max(width, height) == 320
        patch_map = torch.tensor(row["patch_map"], dtype=torch.float64).view(1, 1, *GRID)
        upsampled = torch.nn.functional.interpolate(patch_map, (height, width), mode="bilinear", align_corners=True)
        values = np.clip((upsampled[0, 0].numpy() - low) / (high - low), 0, 1)
        np.testing.assert_allclose(found[..., 3], 255 * values**1.5, atol=4)  # bytes, and the scale in three decimals
        sure = found[..., 3] > 20  # a canvas rounds the colours of what is hardly there
        assert sure.any()
        assert np.abs(found[sure, :3].astype(int) - colormap(values[sure])).max() <= 12
        same = driver.execute_script("""
            const place = element => { const box = element.getBoundingClientRect(); return [box.width, box.height]; };
            return [...document.querySelectorAll("#original > *, #with-heat > *")].map(place);
        """)
        assert len(same) == 3
        assert same[0] == pytest.approx(same[1], abs=1)
        assert same[1] == same[2]


def test_the_picture_is_the_right_one(driver: Any, image_address: Any, scores: pa.Table) -> None:
    """A picture of its own, and one from a sheet of thumbnails, as the screen shows them."""
    for rank in (3, 130):
        uri = scores["uri"][rank - 1].as_py()
        open_page(driver, image_address(rank))
        driver.execute_script("document.getElementById('original').scrollIntoView()")

        def likeness(uri: str = uri) -> float:
            shot = driver.find_element(By.CSS_SELECTOR, "#original > *").screenshot_as_png
            shown, original = (Image.open(file).convert("L").resize((16, 16)) for file in (io.BytesIO(shot), uri))
            return float(np.corrcoef(np.ravel(shown), np.ravel(original))[0, 1])

        wait(driver, lambda: likeness() > 0.9)


def test_similar_images_explain_the_score(driver: Any, image_address: Any, scores: pa.Table) -> None:
    raw = scores["score_raw"].to_numpy().astype(np.float64)
    scaled = (raw - raw.min()) / (raw.max() - raw.min())
    for rank in (1, 77, 300):
        open_page(driver, image_address(rank))
        score = scores["score"][rank - 1].as_py()
        wait(driver, lambda score=score: f"= {score:.4f}. " in text(driver, "#how"))
        assert f"By itself this image would score {scaled[rank - 1]:.4f}" in text(driver, "#effect")
        assert ("raise" if score > scaled[rank - 1] else "lower") in text(driver, "#effect")
        weights = [(1 + 1 / 1.9 + 1 / 2.7) / 3, (0.9 / 1.9 + 0.9 / 2.7) / 3, 0.8 / 2.7 / 3]
        assert texts(driver, "#similar td:last-child") == [f"{100 * weight:.1f} %" for weight in weights]
        others = [int(name.split()[0][1:]) for name in texts(driver, "#similar a")]
        shown = [float(value) for value in texts(driver, "#similar td:nth-child(4)")]
        assert shown == pytest.approx([raw[rank - 1], *(raw[other - 1] for other in others)], abs=1e-4)


@pytest.mark.parametrize(
    ("rescoring", "said"),
    [
        ("rscon", "the images whose most anomalous patches look most like its own"),
        ("none", "They do not change its score"),
    ],
)
def test_similar_images_explain_nothing_where_others_or_none_were_averaged(
    driver: Any, tmp_path: Path, rescoring: str, said: str
) -> None:
    for number in range(5):
        Image.new("RGB", (30, 30), (50 * number, 0, 0)).save(tmp_path / f"{number}.png")
    out_paths = OutPaths.at(str(tmp_path / "out"))
    settings = load_settings(None, {"source": "made", "rescoring": rescoring}).model_dump(mode="json")
    run = write_run(out_paths, {"a": [str(tmp_path / f"{number}.png") for number in range(5)]}, settings=settings)
    options = load_settings(None, {"workers": 1})
    with open_executor(ExecutorOptions.of(options), Progress(quiet=True)) as executor:
        write_report(out_paths, run, executor, options, Progress(quiet=True))
    open_page(driver, f"{Path(out_paths.run(RUN).report).as_uri()}/image.html#1/2")
    wait(driver, lambda: said in text(driver, "#effect"))
    assert texts(driver, ".similar th") == ["Picture", "Image", "Similarity", "Raw score"]
    assert len(texts(driver, "#similar tr")) == 3
    assert len(texts(driver, "#similar td")) == 3 * 4
    assert driver.execute_script("return document.getElementById('how').hidden")
    assert driver.execute_script("return document.getElementById('trouble').hidden")


def test_keys_turn_images_and_leave_fields_alone(driver: Any, image_address: Any) -> None:
    open_page(driver, image_address(1))
    assert driver.find_element(By.ID, "previous").get_attribute("href") is None
    key(driver, Keys.ARROW_RIGHT)
    wait(driver, lambda: text(driver, "#rank") == "#2")
    key(driver, Keys.ARROW_RIGHT)
    wait(driver, lambda: text(driver, "#rank") == "#3")
    key(driver, Keys.ARROW_LEFT)
    wait(driver, lambda: text(driver, "#rank") == "#2")
    opacity = driver.find_element(By.ID, "opacity")
    opacity.send_keys(Keys.ARROW_LEFT)
    assert driver.current_url.endswith("#1/2")
    heat = "return getComputedStyle(document.querySelector('.heat')).opacity"
    assert float(driver.execute_script(heat)) == pytest.approx(0.75)
    assert text(driver, "#opacity-value") == "75 %"
    opacity.send_keys(Keys.HOME)
    assert driver.execute_script(heat) == "0"
    opacity.send_keys(Keys.END)
    driver.find_element(By.ID, "overlay").send_keys(Keys.SPACE)
    assert driver.execute_script(heat) == "0"
    driver.execute_script("document.activeElement.blur()")
    key(driver, "h")
    assert driver.execute_script(heat) == "1"


def test_pictures_that_are_not_there_are_said_to_be_so(driver: Any, image_address: Any, scores: pa.Table) -> None:
    broken = [Path(uri).name for uri in scores["uri"].to_pylist()].index(f"part {0:03d}.png") + 1
    open_page(driver, image_address(broken))
    assert "could not be read" in text(driver, "#original")
    open_page(driver, image_address(300))
    assert "report_thumbnails" in text(driver, "#original")
    driver.get("about:blank")
    driver.get(image_address(301))
    wait(driver, lambda: "there is none of rank 301" in text(driver, "#trouble"))


def test_worst_images_have_their_heat_maps(driver: Any, group_address: str) -> None:
    open_page(driver, group_address)
    wait(driver, lambda: len(texts(driver, "#worst .heat")) == SHOWN)
    links = driver.execute_script("return [...document.querySelectorAll('#worst a')].map(link => link.hash)")
    assert links == [f"#1/{rank}" for rank in range(1, SHOWN + 1)]


def test_index_lists_groups_and_errors(driver: Any, group_address: str) -> None:
    open_page(driver, group_address.replace("group-1", "index"))
    assert texts(driver, "#groups td.images") == ["300", "3"]
    assert texts(driver, "#groups td.auroc") == ["0.750", "\N{EN DASH}"]
    driver.find_element(By.CSS_SELECTOR, "#groups th.images button").click()
    driver.find_element(By.CSS_SELECTOR, "#groups th.images button").click()
    wait(driver, lambda: texts(driver, "#groups td.images") == ["3", "300"])
    key(driver, Keys.TAB)
    search = driver.find_element(By.CSS_SELECTOR, "#error-list input[type=search]")
    search.send_keys("truncated", Keys.ENTER)
    wait(driver, lambda: texts(driver, "#error-list td.uri") == ["s3://b/second.png"])


LARGE = {"large.png": (1500, 2000), "turned.jpg": (1200, 900), "wide.png": (300, 4000), "small.png": (300, 400)}


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Any]:
    """A run of large images and a small one, cut into 2 x 3 crops in one of two groups, and its report."""
    folder = tmp_path_factory.mktemp("large")
    chance = np.random.default_rng(0)
    sizes = {}
    for name, (height, width) in LARGE.items():
        coarse = Image.fromarray(chance.integers(0, 256, (height // 20, width // 20, 3), dtype=np.uint8))
        picture, exif = coarse.resize((width, height)), Image.Exif()
        if name == "turned.jpg":
            picture, exif[0x0112] = picture.transpose(Image.Transpose.ROTATE_90), 6
        picture.save(folder / name, exif=exif, quality=95)
        sizes[str(folder / name)] = (height, width)
    groups = {"cut": list(sizes), "whole": [*sizes, str(folder / "missing.png")]}
    sizes[str(folder / "missing.png")] = (2000, 2000)
    cut = {"rows": 2, "columns": 3, "overlap": 0.2, "image_size": [56, 56], "grid": list(GRID)}
    out_paths = OutPaths.at(str(folder / "out"))
    run = write_run(out_paths, groups, GRID, sizes=sizes, crops={"cut": cut})
    options = load_settings(None, {"report_images": 24, "workers": 1})
    with open_executor(ExecutorOptions.of(options), Progress(quiet=True)) as executor:
        write_report(out_paths, run, executor, options, Progress(quiet=True))
    run_paths = out_paths.run(RUN)
    rows = {
        (number, row["rank"]): row
        for number, name in enumerate(groups, start=1)
        for row in ds.dataset(run_paths.parts(run_paths.scores, name), format="parquet").to_table().to_pylist()
    }
    return {"address": Path(run_paths.report).as_uri(), "rows": rows}


@pytest.mark.parametrize("group", [1, 2])
def test_large_images_are_shown_pixel_for_pixel_around_their_peak(driver: Any, large: Any, group: int) -> None:
    seen = set()
    for (number, rank), row in large["rows"].items():
        if number != group:
            continue
        open_page(driver, f"{large['address']}/image.html#{number}/{rank}")
        name = Path(row["uri"]).name
        seen.add(name)
        facts = dict(zip(texts(driver, "#facts th"), texts(driver, "#facts td"), strict=True))
        place = (
            f"x {row['peak_x']:,}, y {row['peak_y']:,} of {row['width']} \N{MULTIPLICATION SIGN} {row['height']} pixels"
        )
        assert facts["Peak"] == place
        hidden = driver.execute_script("return document.getElementById('zoom').hidden")
        assert hidden == (name in ("small.png", "missing.png"))
        if hidden:
            assert driver.execute_script("return document.querySelectorAll('.zoom-frame').length") == 0
            continue
        wait(driver, lambda: driver.execute_script(PICTURES_LOADED))
        layout = CropLayout(2, 3, 0.2) if number == 1 else None
        top, left, bottom, right = zoom_box(row, layout)
        assert text(driver, "#zoom-place").startswith(f"Peak at {place}. Framed above: x {left:,} to {right - 1:,}, y ")
        shown, frame, whole = driver.execute_script("""
            const image = document.querySelector("#zoom-original img");
            const canvas = document.createElement("canvas");
            [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
            const box = element => { const r = element.getBoundingClientRect(); return [r.x, r.y, r.width, r.height]; };
            const [frame] = document.querySelectorAll("#original .zoom-frame");
            return [[image.naturalWidth, image.naturalHeight, ...box(image)], box(frame), box(frame.parentElement)];
        """)
        assert shown[:2] == [right - left, bottom - top]
        if max(shown[:2]) <= 448:  # crops may be wider than their place on the page
            assert shown[4:] == pytest.approx(shown[:2], abs=1)
        expected = [
            whole[0] + whole[2] * left / row["width"],
            whole[1] + whole[3] * top / row["height"],
            whole[2] * (right - left) / row["width"],
            whole[3] * (bottom - top) / row["height"],
        ]
        assert frame == pytest.approx(expected, abs=1)
        source = driver.execute_script("return document.querySelector('#zoom-original img').src")
        part = np.asarray(Image.open(source.removeprefix("file://")).convert("L")).astype(float)
        original = np.asarray(decode_original(Path(row["uri"]).read_bytes()).convert("L")).astype(float)
        assert np.abs(part - original[top:bottom, left:right]).mean() < 4
        assert_heat(driver, "#zoom-heat", row, large_scale(driver), (top, left, bottom, right))
    assert seen >= LARGE.keys()


def large_scale(driver: Any) -> tuple[float, float]:
    return float(text(driver, "#scale-low")), float(text(driver, "#scale-high"))


def assert_heat(driver: Any, view: str, row: dict[str, Any], scale: tuple[float, float], box: Any) -> None:
    """The opacity of the zoomed heat map is that of the whole map at these pixels."""
    width, height, opacity = driver.execute_script(
        """
        const heat = document.querySelector(`${arguments[0]} .heat`);
        const pixels = heat.getContext("2d").getImageData(0, 0, heat.width, heat.height).data;
        return [heat.width, heat.height, Array.from(pixels.filter((_, i) => i % 4 === 3))];
    """,
        view,
    )
    top, left, bottom, right = box
    patch_map = torch.tensor(row["patch_map"], dtype=torch.float64).view(1, 1, *GRID)
    whole = torch.nn.functional.interpolate(
        patch_map, (row["height"], row["width"]), mode="bilinear", align_corners=True
    )[0, 0]
    down = np.minimum(np.round(np.arange(height) * (bottom - top) / height).astype(int), bottom - top - 1)
    across = np.minimum(np.round(np.arange(width) * (right - left) / width).astype(int), right - left - 1)
    values = whole[top:bottom, left:right].numpy()[down][:, across]
    share = np.clip((values - scale[0]) / (scale[1] - scale[0]), 0, 1)
    found = np.array(opacity, float).reshape(height, width)
    assert np.abs(found - 255 * share**1.5).max() <= 12  # half a pixel of the page is up to two of the original
    assert found.std() > 0


def test_a_page_with_a_zoom_fits_a_phone_and_its_text_can_be_read(driver: Any, large: Any) -> None:
    size = {"width": 360, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        for number, rank in large["rows"]:
            open_page(driver, f"{large['address']}/image.html#{number}/{rank}")
            assert driver.execute_script("return document.documentElement.scrollWidth") == 360
            assert [entry for entry in driver.execute_script(CONTRASTS) if entry[0] < 4.5] == []
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


PAGES = ("index.html", "group-1.html", "image.html#1/1", "image.html#1/150")


@pytest.mark.parametrize("width", [360, 768, 1400])
def test_nothing_overflows(driver: Any, out_paths: OutPaths, width: int) -> None:
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        for page in PAGES:
            open_page(driver, f"{Path(out_paths.run(RUN).report).as_uri()}/{page}")
            assert driver.execute_script("return document.documentElement.scrollWidth") == width, page
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


CONTRASTS = """
    const channel = value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
    const parse = colour => colour.match(/[\\d.]+/g).map(Number);
    const luminance = ([r, g, b]) => 0.2126 * channel(r / 255) + 0.7152 * channel(g / 255) + 0.0722 * channel(b / 255);
    const ground = element => {
        for (let at = element; at; at = at.parentElement) {
            const colour = parse(getComputedStyle(at).backgroundColor);
            if (colour.length === 3 || colour[3] === 1) return colour;
        }
        throw new Error("no ground");
    };
    const shown = element => element.checkVisibility() && element.getBoundingClientRect().width > 1;
    const own = element => [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
    return [...document.querySelectorAll("body *")].filter(element => shown(element) && own(element)).map(element => {
        const svg = element instanceof SVGElement;
        const text = luminance(parse(getComputedStyle(element)[svg ? "fill" : "color"]));
        const back = luminance(ground(svg ? element.closest("svg").parentElement : element));
        const [light, dark] = [Math.max(text, back), Math.min(text, back)];
        return [(light + 0.05) / (dark + 0.05), `${element.outerHTML.slice(0, 200)}`];
    });
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_of_all_text_is_enough(driver: Any, out_paths: OutPaths, scheme: str) -> None:
    """WCAG 2.2 AA, 1.4.3: at least 4.5 to 1, from the styles as computed."""
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    try:
        for page in PAGES:
            open_page(driver, f"{Path(out_paths.run(RUN).report).as_uri()}/{page}")
            found = driver.execute_script(CONTRASTS)
            assert len(found) > 30
            assert [entry for entry in found if entry[0] < 4.5] == []
            background = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
            assert background == {"light": "rgb(246, 247, 248)", "dark": "rgb(19, 23, 25)"}[scheme]
    finally:
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_all_controls_have_names_and_can_be_reached(driver: Any, out_paths: OutPaths) -> None:
    for page in PAGES[:3]:
        open_page(driver, f"{Path(out_paths.run(RUN).report).as_uri()}/{page}")
        nodes = driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
        roles = {"button", "link", "slider", "checkbox", "searchbox", "spinbutton", "combobox"}
        controls = [node for node in nodes if node.get("role", {}).get("value") in roles]
        assert len(controls) > 5
        assert [node for node in controls if not node.get("name", {}).get("value")] == []
        assert {"main", "navigation", "heading"} <= {node.get("role", {}).get("value") for node in nodes}
        driver.find_element(By.TAG_NAME, "body").send_keys(Keys.TAB)
        assert driver.execute_script("return document.activeElement.className") == "skip"


def test_arrow_keys_walk_along_the_table(driver: Any, group_address: str) -> None:
    open_page(driver, group_address)
    driver.execute_script("document.querySelector('#images td a').focus()")
    key(driver, Keys.ARROW_DOWN)
    key(driver, Keys.ARROW_DOWN)
    key(driver, Keys.ARROW_UP)
    assert driver.execute_script("return document.activeElement.hash") == "#1/2"
    key(driver, Keys.ENTER)
    wait(driver, lambda: "image.html#1/2" in driver.current_url)
