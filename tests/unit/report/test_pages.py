"""Pages and data files of the report: everything escaped, nothing loaded from outside, numbers as they are."""

import base64
import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from musc_ray.report.contents import GroupReport, RunReport, SharedDefect
from musc_ray.report.data_scripts import common_prefix, data_script, packed, printable
from musc_ray.report.image_table import NO_THUMBNAIL, UNREADABLE, Lookup, details, table_rows
from musc_ray.report.pages import flatten_settings, group_files, group_row, metric, run_files, static_files
from musc_ray.report.verdicts import verdict_columns, verdict_counts
from musc_ray.storage.manifest_records import GroupLabels
from musc_ray.storage.verdicts import Verdict

HOSTILE_NAMES = [
    '"><script>alert(1)</script>',
    "' onerror='alert(1)",
    "{{ 7*7 }}{% raw %}",
    "\U0001f529 a & b &amp;",
    "</style></title>-->",
    "line\nbreak",
]


class Page(HTMLParser):
    """Elements and visible text of a page, as a browser would parse them."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.parts: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in {"span", "bdi", "a"}:
            self.parts.append(" ")
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.parts.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.parts).split())

    def all(self, tag: str, **wanted: str) -> list[dict[str, str]]:
        return [a for t, a in self.elements if t == tag and all(a.get(k) == v for k, v in wanted.items())]


def content_of(script: str) -> tuple[str, Any]:
    """Key and content of a data script."""
    match = re.fullmatch(r"receive\(\.\.\.(\[.*\])\);\n", script, re.DOTALL)
    assert match
    key, content = json.loads(match[1])
    return key, content


def make_group(name: str = "screws", count: int = 50, **changed: Any) -> GroupReport:
    group = GroupReport(
        number=1,
        name=name,
        scores=np.linspace(0.98, 0.0, count, dtype=np.float32),
        labels=None,
        label_names=[],
        raw_range=(0.2, 1.2),
        scale=(0.3, 1.1),
        grid=(8, 6),
        threshold=0.5,
        threshold_is_set=False,
        metrics=[],
    )
    return replace(group, **changed)


def make_run(**changed: Any) -> RunReport:
    run = RunReport(
        run_id="run-42",
        source="s3://plant/a/",
        created_at=datetime(2026, 3, 4, 1, 30, tzinfo=timezone(timedelta(hours=2))),
        rescoring="rscin",
        k_list=[1, 2, 3],
        pictures=24,
        settings={"backbone": "dinov2-vit-s-14", "cluster": {"extractors": 4}, "layers": [2, 5], "weights": None},
        counts={"images_found": 1234},
        stage_seconds={"extract": 90.0, "mutual": 45.0},
        versions={"musc_ray": "0.1.0"},
        error_total=0,
        notes=[],
        metrics={},
    )
    return replace(run, **changed)


def site(run: RunReport, group: GroupReport, errors: list[dict[str, str]] | None = None) -> dict[str, str]:
    return dict(group_files(run, group)) | dict(run_files(run, [group_row(group)], errors or []))


def test_repeated_defects_are_named_where_they_were_looked_for() -> None:
    defect = SharedDefect(2, 1234, 8, [(7, "<b>a.png"), (9, "b.png")])
    page = Page(site(make_run(), make_group(defects=[defect]))["group-1.html"])
    assert "Defect 2: these 1,234 images share it" in page.text
    assert "The 2 most anomalous of them" in page.text
    assert "<b>a.png" in page.text
    assert page.all("img", src="data/group-1/defect-002.jpg")
    assert page.all("a", href="image.html#1/7")
    assert "None was found" in Page(site(make_run(), make_group(defects=[]))["group-1.html"]).text
    assert "Repeated defects" not in Page(site(make_run(), make_group())["group-1.html"]).text


def site_of_names(name: str) -> dict[str, str]:
    """A site in which every name is the given one."""
    error = dict.fromkeys(("uri", "group", "stage", "error", "message"), name)
    run = make_run(
        run_id=name,
        source=name,
        settings={name: name, "nested": {name: [name]}},
        counts={name: 1},
        stage_seconds={name: 1.0},
        versions={name: name},
        error_total=1,
        notes=[name],
        metrics={name: 0.5},
    )
    rows = [{"group": name, "defect": name, "images": 5, "anomalous": 2, "image_auroc": 0.9}]
    return site(run, make_group(name, metrics=rows, label_names=[name]), [error])


@pytest.mark.parametrize("hostile", HOSTILE_NAMES)
def test_hostile_names_are_text_wherever_they_come_in(hostile: str) -> None:
    files, plain = site_of_names(hostile), site_of_names("plain")
    for path in ("index.html", "group-1.html", "image.html"):
        page, same = Page(files[path]), Page(plain[path])
        assert " ".join(hostile.split()) in page.text
        assert [(tag, attrs.keys()) for tag, attrs in page.elements] == [(t, a.keys()) for t, a in same.elements]
    assert content_of(files["data/group-1/group.js"])[1]["name"] == hostile
    assert content_of(files["data/groups-00000.js"])[1]["name"] == [hostile]
    assert content_of(files["data/errors-00000.js"])[1]["message"] == [hostile]
    assert not [path for path, text in files.items() if path.endswith(".js") and "<" in text]


def test_pages_load_nothing_from_outside_and_their_policy_forbids_it() -> None:
    files = dict(static_files())
    for html in (text for path, text in site(make_run(), make_group()).items() if path.endswith(".html")):
        page = Page(html)
        for tag, attrs in page.elements:
            for name in ("src", "href", "srcset", "action", "data", "poster"):
                assert re.match(r"#|data:,$|static/[a-z]+\.(js|css)$|index\.html$|$", attrs.get(name, "#")), (tag, name)
            assert "style" not in attrs, "a style attribute would be blocked by the policy"
        assert {attrs["src"] for attrs in page.all("script")} <= set(files)
        (policy,) = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
        rules = dict(rule.strip().split(" ", 1) for rule in policy["content"].split(";"))
        assert rules == {
            "default-src": "'none'",
            "script-src": "'self' file:",
            "style-src": "'self' file:",
            "img-src": "'self' file: data:",
            "base-uri": "'none'",
            "form-action": "'none'",
        }
    for text in files.values():
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|new Function|fetch\(\"|XMLHttp", text
        )
        assert not re.search(r"@import|url\(h", text)


def test_index_says_what_the_run_did() -> None:
    run = make_run(metrics={"Image AUROC": 0.91234, "AUPRO": float("nan")}, notes=["Scored on the CPU."])
    page = Page(site(run, make_group())["index.html"])
    for shown in (
        "run-42",
        "Source s3://plant/a/",
        "2026-03-03 23:30 UTC",
        "Images scored 50",
        "At or above threshold 25",
        "Time 2 min 15 s",
        "Image AUROC 0.912",
        "AUPRO \N{EN DASH}",
        "Please note Scored on the CPU.",
        "cluster.extractors 4",
        "layers [2, 5]",
        "weights null",
        "images_found 1,234",
        "extract 1 min 30 s",
        "musc_ray 0.1.0",
        "Every image could be read.",
    ):
        assert shown in page.text
    assert "Please note" not in Page(site(make_run(), make_group())["index.html"]).text


def test_metrics_are_shown_by_defect_where_there_are_any() -> None:
    row = {"group": "g", "defect": "", "images": 20, "anomalous": 5, "image_auroc": 0.95, "pixel_auroc": None}
    rows = [row, {**row, "defect": "crack", "images": 17, "anomalous": 2, "image_auroc": None, "pixel_auroc": 0.5}]
    group = make_group(metrics=rows)
    text = Page(dict(group_files(make_run(), group))["group-1.html"]).text
    assert "Defect Images Anomalous Image AUROC Pixel AUROC all 20 5 0.950 \N{EN DASH} crack 17 2" in text
    assert "AUPRO" not in text
    assert group_row(group)["auroc"] == 0.95
    assert "Against the labels" not in Page(dict(group_files(make_run(), make_group()))["group-1.html"]).text


def test_means_and_groups_evaluated_together_stand_on_the_first_page() -> None:
    row = {"group": "mean", "defect": "", "images": 20, "anomalous": 5, "image_auroc": 0.95, "is_mean": True}
    rows = [{**row, "group": "bottle", "image_auroc": 0.5, "is_mean": False}, row]
    text = Page(dict(run_files(make_run(), [group_row(make_group())], [], rows))["index.html"]).text
    assert "Group Images Anomalous Image AUROC bottle 20 5 0.500 mean of the groups 20 5 0.950" in text


def test_scores_come_as_they_are_and_the_threshold_counts_as_a_database_does() -> None:
    scores = np.sort(np.random.default_rng(0).random(999, dtype=np.float32))[::-1]
    group = make_group(scores=scores, labels=(scores > 0.7).astype(np.uint8), threshold=float(scores[99]))
    files = dict(group_files(make_run(), group))
    content = content_of(files["data/group-1/scores.js"])[1]
    assert (np.frombuffer(base64.b64decode(content["score"]), "<f4") == scores).all()
    assert list(base64.b64decode(content["label"])) == [int(score > 0.7) for score in scores]
    assert group.held == 100
    assert replace(group, threshold=2.0).held == 0


def test_a_threshold_by_verdicts_says_what_it_rests_on() -> None:
    labels = GroupLabels(threshold=0.5, good=1200, defective=3)
    page = Page(site(make_run(), make_group(threshold_is_set=True, threshold_labels=labels))["group-1.html"])
    assert "By verdicts on 1,200 good and 3 defective images it is 0.5000." in page.text
    assert "By verdicts" not in Page(site(make_run(), make_group(threshold_is_set=True))["group-1.html"]).text


def test_the_first_page_counts_stored_verdicts() -> None:
    page = Page(site(make_run(verdicts={"good": 1200, "defective": 3, "unsure": 0}), make_group())["index.html"])
    assert "stored when this report was written: 1,200 good, 3 defective, 0 unsure." in page.text
    assert "stored when" not in Page(site(make_run(), make_group())["index.html"]).text


def test_stored_verdicts_are_those_of_the_groups_images() -> None:
    at = datetime(2026, 3, 5, 12, 0, 0, 123456, tzinfo=timezone(timedelta(hours=1)))
    said = {
        name: Verdict(name, "u", "g", "defective", note, "Ada\x00", at.astimezone(UTC))
        for name, note in (("b", HOSTILE_NAMES[0]), ("elsewhere", ""))
    }
    columns = verdict_columns(pa.table({"image_id": ["a", "b"], "rank": [1, 2]}), said)
    assert columns == {
        "id": ["b"],
        "rank": [2],
        "verdict": ["defective"],
        "note": [HOSTILE_NAMES[0]],
        "who": [r"Ada\x00"],
        "when": ["2026-03-05T11:00:00.123Z"],
    }
    script = dict(group_files(make_run(), make_group(verdicts=columns)))["data/group-1/verdicts.js"]
    assert "<" not in script
    assert content_of(script) == ("group-1/verdicts", columns)
    assert verdict_counts(said) == {"good": 0, "defective": 2, "unsure": 0}
    assert verdict_counts({}) == {}


def test_rows_share_their_folder_and_say_what_became_of_the_picture() -> None:
    uris = ["s3://b/line a/x 1.png", "s3://b/line a/\udcff.png", "s3://b/line b/\u202ez.png"]
    numbers = np.array([0.9, 0.5, 0.1], np.float32)
    table = pa.table(
        {
            "image_id": ["1", "2", "3"],
            "uri": ["s3://b/line a/x 1.png", "s3://b/line a/y.png", "s3://b/line b/z\x00\u202e.png"],
            "score": numbers,
            "score_raw": numbers + 1,
            "percentile": np.array([100.0, 99.996, 33.0], np.float32),
            "detail": [4, 0, 2],
            "label": ["", "crack", "good"],
            "height": [2000, 300, None],
            "width": [3000, 400, None],
            "peak_y": [1204, 2, None],
            "peak_x": [2310, 1, None],
        }
    )
    rows = table_rows(table, [(160, 90), UNREADABLE, NO_THUMBNAIL], [(980, 2086, 1428, 2534), None, None])
    assert rows["prefix"] == "s3://b/"
    assert rows["name"] == ["line a/x 1.png", "line a/y.png", r"line b/z\x00\u202e.png"]
    assert rows["id"] == ["1", "2", "3"]
    assert rows["raw"] == [1.9, 1.5, 1.1]
    assert rows["percentile"] == [100.0, 99.99, 33.0], "only the very top is 100"
    assert rows["size"] == [[160, 90], [-1, -1], [0, 0]]
    assert rows["detail"] == [4, 0, 2]
    assert rows["pixels"] == [[3000, 2000], [400, 300], None]
    assert rows["peak"] == [[2310, 1204], [1, 2], None]
    assert rows["zoom"] == [[2086, 980, 448, 448], None, None]
    assert printable(uris[1]) == r"s3://b/line a/\udcff.png"


def test_details_name_similar_images_by_rank() -> None:
    ids = ["c" * 32, "a" * 32, "b" * 32]
    lookup = Lookup.of(ids, np.array([1, 2, 3], np.int32))
    scores = pa.table({"image_id": ids[1:], "rank": [2, 3], "patch_map": [[0.0, 0.5], [1.0, 2.0]]})
    similar = pa.table(
        {"image_id": ids[1:], "neighbours": [[ids[2], ids[0]], []], "similarities": [[0.75, 0.5], []]},
        schema=pa.schema(
            {"image_id": pa.string(), "neighbours": pa.list_(pa.string()), "similarities": pa.list_(pa.float32())}
        ),
    )
    found = details(scores, similar, lookup, 1.0)
    assert found["similar"] == [[[3, 1], [0.75, 0.5]], [[], []]]
    assert [list(base64.b64decode(row)) for row in found["map"]] == [[0, 128], [255, 255]]
    assert (found["rank"], found["id"]) == ([2, 3], ids[1:])
    assert details(scores, None, lookup, 1.0)["similar"] is None


def test_patches_that_are_not_scored_are_shown_as_the_lowest_of_their_image() -> None:
    maps = [[float("nan"), 0.5, 1.0], [float("nan")] * 3]
    scores = pa.table({"image_id": ["a", "b"], "rank": [1, 2], "patch_map": maps})
    found = details(scores, None, Lookup.of(["a", "b"], np.array([1, 2], np.int32)), 1.0)
    assert [list(base64.b64decode(row)) for row in found["map"]] == [[128, 128, 255], [0, 0, 0]]


@given(
    st.text(),
    st.recursive(
        st.text() | st.integers() | st.none(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    ),
)
def test_any_data_survive_the_way_through_a_script(key: str, content: object) -> None:
    script = data_script(key, content)
    assert script.isascii()
    assert "<" not in script
    assert content_of(script) == (key, content)


def test_a_script_holds_no_number_that_is_none() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        data_script("key", [float("nan")])


@given(st.lists(st.text(alphabet="ab/"), min_size=1))
def test_common_prefix_is_the_longest_shared_folder(names: list[str]) -> None:
    prefix = common_prefix(names)
    assert prefix == "" or prefix.endswith("/")
    assert all(name.startswith(prefix) for name in names)
    longer = {name[: name.find("/", len(prefix)) + 1] for name in names}
    if len(names) > 1 and len(set(names)) > 1:
        assert len(longer) > 1 or longer == {""} or "" in longer


def test_packed_is_little_endian() -> None:
    assert base64.b64decode(packed(np.array([1.0], ">f4"))) == b"\x00\x00\x80\x3f"


def test_metric_that_is_not_defined_is_a_dash() -> None:
    assert [metric(value) for value in (0.91234, None, float("nan"))] == ["0.912", "\N{EN DASH}", "\N{EN DASH}"]


def test_flatten_settings_keeps_order_and_empty_values() -> None:
    settings = {"a": {"b": {"c": 1.5}, "d": {}}, "e": True, "f": "text", "g": (1, "ü")}
    expected = [("a.b.c", "1.5"), ("a.d", "{}"), ("e", "true"), ("f", "text"), ("g", '[1, "ü"]')]
    assert flatten_settings(settings) == expected
