"""Marking images in the report, in a real browser: keys, buttons, undo, reload, download, filter, refused storage; and
10,000 images.
"""

import csv
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import pytest
from PIL import Image

from musc_ray.report.build import write_report
from musc_ray.runtime.executor import open_executor
from musc_ray.runtime.options import ExecutorOptions
from musc_ray.runtime.progress import Progress
from musc_ray.settings.loading import load_settings
from musc_ray.sources.images import image_id
from musc_ray.storage.paths import OutPaths
from musc_ray.storage.verdicts import Verdict, add_verdicts, latest_verdicts
from musc_ray.verdicts.importing import import_verdicts
from tests.helpers.browser import key, open_browser, open_page, ranks_shown, served, text, texts, wait
from tests.helpers.scored_run import RUN, write_run

pytest.importorskip("selenium.webdriver", reason="needs selenium (PyPI)")
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

HOSTILE = """"><script>window.owned = 1</script><img src=x onerror='window.owned = 1'>"""
COLUMNS = ["image_id", "uri", "group", "verdict", "note", "who", "when"]
IMAGES = 60
MANY = 10_000
LONG_AGO = datetime(2026, 3, 5, tzinfo=UTC)


def write_site(folder: Path, groups: dict[str, list[str]], verdicts: list[Verdict] = (), pictures: int = 4) -> OutPaths:
    """Write a run, verdicts, and its report."""
    out_paths = OutPaths.at(str(folder / "out"))
    run = write_run(out_paths, groups, (2, 2), shard=256)
    add_verdicts(out_paths, verdicts)
    options = load_settings(None, {"report_images": pictures, "report_thumbnails": 60, "workers": 1})
    with open_executor(ExecutorOptions.of(options), Progress(quiet=True)) as executor:
        write_report(out_paths, run, executor, options, Progress(quiet=True))
    return out_paths


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory, downloads: Path) -> Iterator[Any]:
    with open_browser(tmp_path_factory.mktemp("chromium"), downloads) as driver:
        yield driver


@pytest.fixture(scope="module")
def out_paths(tmp_path_factory: pytest.TempPathFactory) -> OutPaths:
    """A run of two groups; of the second one three images are judged."""
    folder = tmp_path_factory.mktemp("marks")
    uris = []
    for number in range(IMAGES):
        path = folder / (f"{number:03d}.png" if number else "=a, 'b'.png")
        Image.fromarray(np.full((20, 30, 3), 4 * number, np.uint8)).save(path)
        uris.append(path.as_uri())
    judged = [f"{uri}#judged" for uri in uris[:5]]
    words = ["good", "defective", "unsure"]
    verdicts = [
        Verdict(image_id(uri), uri, HOSTILE, word, HOSTILE, "Bo", LONG_AGO)
        for uri, word in zip(judged, words, strict=False)
    ]
    return write_site(folder, {HOSTILE: judged, "cable": uris}, verdicts)


@pytest.fixture(scope="module", params=["folder", pytest.param("server", marks=pytest.mark.slow)])
def site(request: pytest.FixtureRequest, out_paths: OutPaths) -> Iterator[str]:
    """Where the report is opened."""
    with served(out_paths.run(RUN).report) as address:
        yield Path(out_paths.run(RUN).report).as_uri() if request.param == "folder" else address


@pytest.fixture
def clean(driver: Any, site: str, downloads: Path) -> Iterator[None]:
    """No marks of another test."""
    open_page(driver, f"{site}/index.html")
    driver.execute_script("localStorage.clear(); sessionStorage.clear()")
    for path in downloads.iterdir():
        path.unlink()
    yield
    driver.get("about:blank")


def by_rank(out_paths: OutPaths, group: str) -> list[dict[str, Any]]:
    run_paths = out_paths.run(RUN)
    return ds.dataset(run_paths.parts(run_paths.scores, group), format="parquet").to_table().sort_by("rank").to_pylist()


def pressed(driver: Any, selector: str = "#mark-buttons") -> list[str]:
    return texts(driver, f"{selector} button[aria-pressed=true]")


def marked_rows(driver: Any) -> dict[int, str]:
    """What the table shows, by rank."""
    script = """return [...document.querySelectorAll("#images tbody tr[data-mark]")]
        .map(row => [row.querySelector(".rank").textContent, row.dataset.mark])"""
    return {int(rank): word for rank, word in driver.execute_script(script)}


def focus_row(driver: Any, rank: int) -> None:
    driver.execute_script("document.querySelectorAll('#images tbody a')[arguments[0]].focus()", rank - 1)


def download(driver: Any, downloads: Path) -> list[dict[str, str]]:
    button = driver.find_element(By.ID, "mark-download")
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
    button.click()
    path = downloads / "verdicts.csv"
    wait(driver, lambda: path.exists() and path.stat().st_size and not list(downloads.glob("*.crdownload")))
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    assert reader.fieldnames == COLUMNS
    return rows


@pytest.mark.usefixtures("clean")
def test_keys_mark_the_image_of_its_page_and_undo_takes_steps_back(driver: Any, site: str) -> None:
    open_page(driver, f"{site}/image.html#2/7")
    assert pressed(driver) == []
    for pressed_key, word in (("g", "Good"), ("d", "Defective"), ("u", "Unsure"), ("u", "Unsure"), ("G", "Good")):
        key(driver, pressed_key)
        assert pressed(driver) == [word]
    assert text(driver, "#mark-counts") == "1 good, 0 defective, 0 unsure"
    assert text(driver, "#mark-said") == "#7: good"
    key(driver, "z")
    assert pressed(driver) == ["Unsure"]
    key(driver, Keys.CONTROL + "z" + Keys.NULL)
    assert pressed(driver) == ["Defective"]
    driver.find_element(By.ID, "mark-undo").click()
    assert pressed(driver) == ["Good"]
    key(driver, "z")
    assert pressed(driver) == []
    assert text(driver, "#mark-said") == "#7 again: not marked"
    assert not driver.find_element(By.ID, "mark-undo").is_enabled()
    assert not driver.find_element(By.ID, "mark-download").is_enabled()
    key(driver, "z")
    assert text(driver, "#mark-counts") == "0 good, 0 defective, 0 unsure"


@pytest.mark.usefixtures("clean")
def test_marks_and_steps_survive_reload_and_are_on_all_pages(driver: Any, site: str) -> None:
    open_page(driver, f"{site}/image.html#2/3")
    key(driver, "d")
    driver.refresh()
    wait(driver, lambda: pressed(driver) == ["Defective"])
    key(driver, Keys.ARROW_RIGHT)
    wait(driver, lambda: text(driver, "#rank") == "#4")
    assert pressed(driver) == []
    key(driver, "g")
    open_page(driver, f"{site}/group-2.html")
    wait(driver, lambda: marked_rows(driver) == {3: "defective", 4: "good"})
    assert driver.execute_script("return document.querySelectorAll('#worst > li')[2].dataset.mark") == "defective"
    assert text(driver, "#mark-counts") == "1 good, 1 defective, 0 unsure"
    key(driver, "z", "z")
    assert marked_rows(driver) == {}
    key(driver, "z")
    focus_row(driver, 1)
    key(driver, "u")
    open_page(driver, f"{site}/index.html")
    assert text(driver, "#mark-counts") == "Marked here: 0 good, 0 defective, 1 unsure"
    open_page(driver, f"{site}/group-1.html")
    assert text(driver, "#mark-counts") == "1 good, 1 defective, 1 unsure"  # those that are stored


@pytest.mark.usefixtures("clean")
def test_buttons_and_keys_mark_rows_and_cards(driver: Any, site: str) -> None:
    open_page(driver, f"{site}/group-2.html")
    wait(driver, lambda: texts(driver, "#worst .marking"))
    key(driver, "g")
    assert marked_rows(driver) == {}
    assert "Point at an image" in text(driver, "#mark-said")
    focus_row(driver, 10)
    key(driver, "d")
    key(driver, Keys.ARROW_DOWN)
    key(driver, "g")
    assert marked_rows(driver) == {10: "defective", 11: "good"}
    row = driver.find_elements(By.CSS_SELECTOR, "#images tbody tr")[20]
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", row)
    ActionChains(driver).move_to_element(row.find_element(By.CSS_SELECTOR, ".score")).perform()
    wait(driver, lambda: driver.execute_script("return document.querySelector('tr.current .rank').textContent") == "21")
    ActionChains(driver).send_keys("u").perform()
    assert marked_rows(driver) == {10: "defective", 11: "good", 21: "unsure"}
    row.find_element(By.CSS_SELECTOR, "[data-verdict=good]").click()
    assert marked_rows(driver)[21] == "good"
    card = driver.find_element(By.CSS_SELECTOR, "#worst > li:nth-child(2)")
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", card)
    card.find_element(By.CSS_SELECTOR, "[data-verdict=defective]").click()
    assert card.get_attribute("data-mark") == "defective"
    assert marked_rows(driver)[2] == "defective", "the same image in the table"
    assert text(driver, "#mark-counts") == "2 good, 2 defective, 0 unsure"


@pytest.mark.usefixtures("clean")
def test_fields_and_shortcuts_of_the_browser_do_not_mark(driver: Any, site: str) -> None:
    open_page(driver, f"{site}/image.html#2/1")
    driver.find_element(By.ID, "mark-who").send_keys("guzzd")
    key(driver, Keys.CONTROL + "z" + Keys.NULL)
    assert pressed(driver) == []
    driver.execute_script("document.activeElement.blur()")
    ActionChains(driver).key_down(Keys.ALT).send_keys("g").key_up(Keys.ALT).perform()
    assert pressed(driver) == []
    driver.find_element(By.ID, "opacity").send_keys("g")
    assert pressed(driver) == ["Good"]


@pytest.mark.usefixtures("clean")
def test_the_next_image_follows_where_it_is_asked_for(driver: Any, site: str) -> None:
    open_page(driver, f"{site}/image.html#2/1")
    driver.find_element(By.ID, "mark-turn").click()
    key(driver, "g")
    wait(driver, lambda: text(driver, "#rank") == "#2")
    key(driver, "d")
    wait(driver, lambda: text(driver, "#rank") == "#3")
    assert text(driver, "#mark-counts") == "1 good, 1 defective, 0 unsure"


@pytest.mark.usefixtures("clean")
def test_what_is_downloaded_is_what_was_marked_and_can_be_imported(
    driver: Any, site: str, downloads: Path, out_paths: OutPaths
) -> None:
    rows = by_rank(out_paths, "cable")
    special = next(row["rank"] for row in rows if row["uri"].endswith("%3Da%2C%20%27b%27.png"))
    before = datetime.now(UTC) - timedelta(seconds=1)
    open_page(driver, f"{site}/image.html#2/{special}")
    driver.find_element(By.ID, "mark-who").send_keys("Zo\N{LATIN SMALL LETTER E WITH DIAERESIS}", Keys.TAB)
    note = '=1+1, "quoted"; \N{SNOWMAN}'
    driver.find_element(By.ID, "mark-note").send_keys(note, Keys.TAB)
    assert pressed(driver) == ["Unsure"], "a note needs a verdict"
    driver.execute_script("document.activeElement.blur()")
    key(driver, "d")
    open_page(driver, f"{site}/group-1.html")
    focus_row(driver, 2)
    key(driver, "g")
    found = download(driver, downloads)
    judged = by_rank(out_paths, HOSTILE)[1]
    assert [row["image_id"] for row in found] == [judged["image_id"], rows[special - 1]["image_id"]]
    assert [row["uri"] for row in found] == [judged["uri"], rows[special - 1]["uri"]]
    assert [row["group"] for row in found] == [HOSTILE, "cable"]
    assert [row["verdict"] for row in found] == ["good", "defective"]
    assert found[1]["note"] == f"'{note}", "no formula"
    assert [row["who"] for row in found] == ["Zo\N{LATIN SMALL LETTER E WITH DIAERESIS}"] * 2
    assert all(before < datetime.fromisoformat(row["when"]) < datetime.now(UTC) for row in found)
    assert driver.execute_script("return window.owned") is None

    imported = import_verdicts(out_paths, str(downloads / "verdicts.csv"))
    assert (imported.rows, imported.stored, imported.unknown) == (2, 2, ())
    stored = latest_verdicts(out_paths)
    assert (stored[judged["image_id"]].verdict, stored[judged["image_id"]].group) == ("good", HOSTILE)
    assert stored[rows[special - 1]["image_id"]].note == note
    assert import_verdicts(out_paths, str(downloads / "verdicts.csv")).stored == 0


@pytest.mark.usefixtures("clean")
def test_stored_verdicts_are_shown_and_a_later_mark_goes_before_them(
    driver: Any, site: str, downloads: Path, out_paths: OutPaths
) -> None:
    said = {f"{number:03d}.png#judged": word for number, word in ((1, "defective"), (2, "unsure"))}
    expected = {
        row["rank"]: said.get(row["uri"].split("/")[-1], "good")
        for row in by_rank(out_paths, HOSTILE)
        if not row["uri"].endswith(("003.png#judged", "004.png#judged"))
    }
    open_page(driver, f"{site}/group-1.html")
    wait(driver, lambda: marked_rows(driver) == expected)
    assert not driver.find_element(By.ID, "mark-download").is_enabled()
    rank = next(rank for rank, word in expected.items() if word == "defective")
    open_page(driver, f"{site}/image.html#1/{rank}")
    wait(driver, lambda: pressed(driver) == ["Defective"])
    assert driver.find_element(By.ID, "mark-note").get_attribute("value") == HOSTILE
    key(driver, "g")
    assert pressed(driver) == ["Good"]
    (row,) = download(driver, downloads)
    assert (row["verdict"], row["note"]) == ("good", HOSTILE)
    key(driver, "z")
    assert pressed(driver) == ["Defective"]
    assert driver.execute_script("return window.owned") is None


PUT = """localStorage.setItem(marks.prefix + arguments[0], arguments[1])"""


@pytest.mark.usefixtures("clean")
def test_marks_that_are_stored_by_now_are_no_longer_new_and_broken_ones_are_passed_over(driver: Any, site: str) -> None:
    open_page(driver, f"{site}/group-1.html")
    stored = marked_rows(driver)
    ids = dict(zip(ranks_shown(driver), texts(driver, "#images td.rank"), strict=True))
    assert len(ids) == 5
    script = "return load('group-1/verdicts').then(found => found.id.map((id, at) => [found.rank[at], id]))"
    (one, same), (two, later), _ = driver.execute_script(script)
    for image, verdict, when in (
        (same, "unsure", LONG_AGO),
        (later, "unsure", LONG_AGO + timedelta(milliseconds=1)),
        ("x", "no word", LONG_AGO),
    ):
        mark = {"verdict": verdict, "note": "", "who": "", "when": when.isoformat(), "group": 1, "rank": 1}
        driver.execute_script(PUT, image, json.dumps(mark))
    for broken in ("", "{", "null", "[]", "7", "{}"):
        driver.execute_script(PUT, f"y{broken}", broken)
    open_page(driver, f"{site}/group-1.html")
    assert marked_rows(driver) == {**stored, two: "unsure"}
    assert one in stored
    assert text(driver, "#mark-new") == "1 new mark in this browser"
    assert driver.execute_script("return localStorage.getItem(marks.prefix + arguments[0])", same) is None


@pytest.mark.usefixtures("clean")
def test_a_mark_is_later_than_what_it_replaces_whatever_the_clock_says(driver: Any, site: str) -> None:
    open_page(driver, f"{site}/image.html#2/1")
    key(driver, "g")
    driver.execute_script("Date.now = () => 0")
    key(driver, "d")
    script = "return [...marks.local.values()].map(mark => Date.parse(mark.when))"
    (when,) = driver.execute_script(script)
    assert when > (time.time() - 600) * 1000


@pytest.mark.usefixtures("clean")
def test_the_table_is_filtered_by_verdict(driver: Any, site: str) -> None:
    open_page(driver, f"{site}/group-2.html")
    for rank, word in ((2, "g"), (9, "d"), (12, "g")):
        focus_row(driver, rank)
        key(driver, word)
    for choice, expected in (("good", [2, 12]), ("defective", [9]), ("unsure", []), ("", list(range(1, 51)))):
        choose(driver, choice)
        wait(driver, lambda expected=expected: ranks_shown(driver) == expected)
    choose(driver, "none")
    wait(driver, lambda: not {2, 9, 12} & set(ranks_shown(driver)))
    assert text(driver, "#images .count").endswith("of 57 (60 in all)")
    open_page(driver, driver.current_url)
    wait(driver, lambda: text(driver, "#images .count").endswith("of 57 (60 in all)"))
    assert driver.find_element(By.ID, "mark-choice").get_attribute("value") == "none"


def choose(driver: Any, verdict: str) -> None:
    driver.execute_script(
        """
        const choice = document.getElementById("mark-choice");
        choice.value = arguments[0];
        choice.dispatchEvent(new Event("change"));
    """,
        verdict,
    )


@pytest.mark.usefixtures("clean")
def test_marks_of_another_window_are_shown(driver: Any, site: str) -> None:
    open_page(driver, f"{site}/group-2.html")
    first = driver.current_window_handle
    driver.switch_to.new_window("tab")
    try:
        open_page(driver, f"{site}/image.html#2/5")
        key(driver, "d")
    finally:
        driver.close()
        driver.switch_to.window(first)
    wait(driver, lambda: marked_rows(driver) == {5: "defective"})


REFUSALS = {
    "refused": """Object.defineProperty(window, "localStorage",
        {get() { throw new DOMException("denied", "SecurityError"); }});""",
    "full": """Storage.prototype.setItem = () => { throw new DOMException("full", "QuotaExceededError"); };""",
}


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_browser_that_stores_nothing_is_said_to_and_marks_stay_until_the_page_is_left(
    driver: Any, site: str, downloads: Path, refusal: str
) -> None:
    script = {"source": REFUSALS[refusal]}
    added = driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", script)
    try:
        open_page(driver, f"{site}/image.html#2/1")
        assert driver.find_element(By.ID, "mark-trouble").is_displayed()
        said = "storage is full" if refusal == "full" else "does not let the page store anything"
        assert said in text(driver, "#mark-trouble")
        key(driver, "g")
        key(driver, Keys.ARROW_RIGHT)
        wait(driver, lambda: text(driver, "#rank") == "#2")
        key(driver, "d", "u", "z")
        assert text(driver, "#mark-counts") == "1 good, 1 defective, 0 unsure"
        assert [row["verdict"] for row in download(driver, downloads)] == ["good", "defective"]
    finally:
        driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)
        driver.execute_script("marks.local.clear()")  # nothing to warn of


@pytest.mark.slow
def test_ten_thousand_images_are_marked_filtered_and_downloaded(driver: Any, downloads: Path, tmp_path: Path) -> None:
    uris = [f"s3://bucket/line/{number:05d}.png" for number in range(MANY)]
    said = [
        Verdict(image_id(uri), uri, "many", "good", f"note {number}", "", LONG_AGO)
        for number, uri in enumerate(uris[: MANY // 2])
    ]
    options = {"report_images": 0, "report_thumbnails": 0, "workers": 1}
    out_paths = OutPaths.at(str(tmp_path / "out"))
    run = write_run(out_paths, {"many": uris}, (2, 2), shard=2000)
    add_verdicts(out_paths, said)
    settings = load_settings(None, options)
    with open_executor(ExecutorOptions.of(settings), Progress(quiet=True)) as executor:
        write_report(out_paths, run, executor, settings, Progress(quiet=True))
    rows = by_rank(out_paths, "many")
    page = f"{Path(out_paths.run(RUN).report).as_uri()}/group-1.html"
    open_page(driver, page)
    driver.execute_script("localStorage.clear(); sessionStorage.clear()")
    for path in downloads.iterdir():
        path.unlink()
    open_page(driver, page)
    assert text(driver, "#mark-counts") == "5,000 good, 0 defective, 0 unsure"
    driver.execute_script(
        """
        arguments[0].forEach((id, at) => marks.write(id, { verdict: "defective", note: "", who: "", when: arguments[1],
            group: 1, rank: at + 1 }));
    """,
        [row["image_id"] for row in rows],
        datetime.now(UTC).isoformat(),
    )
    open_page(driver, page)
    assert text(driver, "#mark-counts") == "0 good, 10,000 defective, 0 unsure"
    focus_row(driver, 50)
    for letter, word in (("g", "good"), ("u", "unsure"), ("z", "good")):
        key(driver, letter)
        assert marked_rows(driver)[50] == word
    choose(driver, "good")
    wait(driver, lambda: ranks_shown(driver) == [50])
    choose(driver, "defective")
    wait(driver, lambda: text(driver, "#images .count").startswith("1 to 50 of 9,999"))
    found = download(driver, downloads)
    assert [row["image_id"] for row in found] == [row["image_id"] for row in rows]
    assert [row["uri"] for row in found] == [row["uri"] for row in rows]
    assert [row["verdict"] for row in found].count("defective") == MANY - 1
    imported = import_verdicts(out_paths, str(downloads / "verdicts.csv"))
    assert (imported.stored, imported.unknown) == (MANY, ())
