"""The report page: everything escaped, nothing loaded from outside, readable, small, and complete."""

import base64
import hashlib
import re
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image, ImageFilter

from musc_ray.errors import MuscRayError
from musc_ray.report import GroupReport, RunReport, WorstImage, render
from musc_ray.report.page import duration, file_name, flatten_settings

HOSTILE = '"><script>alert(1)</script>'
HOSTILE_NAMES = [
    HOSTILE,
    "' onerror='alert(1)",
    "{{ 7*7 }}{% raw %}",
    "\U0001f529 a & b &amp;",
    "</style></title>-->",
    "line\nbreak",
]


class Page(HTMLParser):
    """Elements, visible text and text per element of a page, as a browser would parse them."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.html = html
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.raw: dict[str, list[str]] = {"style": [], "script": []}
        self.parts: list[str] = []
        self.inside = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.inside = tag
        if tag not in {"span", "bdi", "a"}:
            self.parts.append(" ")
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside in self.raw:
            self.raw[self.inside].append(data)
        else:
            self.parts.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.parts).split())

    def all(self, tag: str, **wanted: str) -> list[dict[str, str]]:
        return [a for t, a in self.elements if t == tag and all(a.get(k.rstrip("_")) == v for k, v in wanted.items())]


def make_image(rank: int = 1, uri: str = "s3://plant/a/tile 7.png", size: tuple[int, int] = (90, 60)) -> WorstImage:
    rng = np.random.default_rng(rank)
    return WorstImage(
        image_id=f"id-{rank}",
        uri=uri,
        rank=rank,
        score=1 - rank / 100,
        score_raw=1.2 - rank / 100,
        percentile=100 - rank,
        patch_map=rng.random((8, 8), dtype=np.float32),
        picture=Image.new("RGB", size, (120, 130, 140)),
        label=None,
    )


def make_group(name: str = "screws", worst: list[WorstImage] | None = None, count: int = 50) -> GroupReport:
    scores = np.linspace(0.0, 0.99, count, dtype=np.float32)
    return GroupReport(name, scores, scores + 0.2, [make_image()] if worst is None else worst, 0.0, 1.0)


def make_report(*groups: GroupReport) -> RunReport:
    return RunReport(
        run_id="run-42",
        source="s3://plant/a/",
        created_at=datetime(2026, 3, 4, 1, 30, tzinfo=timezone(timedelta(hours=2))),
        groups=list(groups) or [make_group()],
        settings={"backbone": "dinov2-vit-s-14", "cluster": {"extractors": 4}, "layers": [2, 5], "weights": None},
        counts={"images_found": 1234},
        stage_seconds={"extract": 90.0, "mutual": 45.0},
        versions={"musc_ray": "0.1.0"},
        errors=[],
        error_total=0,
        notes=[],
        metrics={},
    )


@pytest.mark.parametrize("hostile", HOSTILE_NAMES)
def test_hostile_names_are_text_wherever_they_come_in(hostile: str) -> None:
    row = dict.fromkeys(("uri", "group", "stage", "error", "message"), hostile)
    image = replace(make_image(uri=f"s3://b/{hostile}"), label=hostile, image_id=hostile)
    report = replace(
        make_report(make_group(hostile, [image]), make_group()),
        run_id=hostile,
        source=hostile,
        settings={hostile: hostile, "nested": {hostile: [hostile]}},
        counts={hostile: 1},
        stage_seconds={hostile: 1.0},
        versions={hostile: hostile},
        errors=[row],
        error_total=1,
        notes=[hostile],
        metrics={hostile: 0.5},
    )
    html = render(report)
    page, plain = Page(html), Page(render(make_report(make_group(), make_group())))
    assert "<script>alert" not in html
    # The name is shown, and no element or attribute came out of it.
    assert page.text.count(" ".join(hostile.split())) >= 15
    assert len(page.all("script")) == len(page.all("style")) == 1
    assert {tag for tag, _ in page.elements} <= {tag for tag, _ in plain.elements} | {"li", "ul", "br", "thead", "td"}
    assert not [name for _, attrs in page.elements for name in attrs if name.startswith("on")]
    assert f"s3://b/{hostile}" in [attrs.get("title") for attrs in page.all("p")]


def test_control_characters_and_undecodable_names_become_visible_escapes() -> None:
    html = render(replace(make_report(), run_id="a\x00b\udcffc\u202ed"))
    assert html.encode("utf-8")  # a lone surrogate would fail here
    assert r"a\x00b\udcffc\u202ed" in Page(html).text


def test_page_loads_nothing_from_outside_and_its_policy_forbids_it() -> None:
    page = Page(render(make_report(make_group(worst=[make_image(r) for r in range(1, 4)]))))
    for tag, attrs in page.elements:
        for name in ("src", "href", "srcset", "action", "data", "poster", "xlink:href", "background"):
            assert attrs.get(name, "#").startswith(("#", "data:")), (tag, name)
        assert "style" not in attrs, "a style attribute would be blocked by the policy"
    (style,), (script,) = page.raw["style"], page.raw["script"]
    assert not re.search(r"url\(|@import|//", style)
    assert not re.search(r"https?:|fetch|import|XMLHttpRequest", script)
    (policy,) = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    rules = dict(rule.strip().split(" ", 1) for rule in policy["content"].split(";"))
    assert rules == {
        "default-src": "'none'",
        "style-src": csp_hash(style),
        "script-src": csp_hash(script),
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }


def csp_hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def test_page_says_what_the_run_did() -> None:
    report = replace(make_report(), metrics={"Image AUROC": 0.91234}, notes=["Scored on the CPU."])
    page = Page(render(report))
    for shown in (
        "run-42",
        "Source s3://plant/a/",
        "2026-03-03 23:30 UTC",
        "Images scored 50",
        "Total time 2 min 15 s",
        "Image AUROC 0.912",
        "Please note Scored on the CPU.",
        "#1 tile 7.png Score 0.9900 Raw score 1.1900 Percentile 99.00",
        "cluster.extractors 4",
        "layers [2, 5]",
        "weights null",
        "images_found 1,234",
        "extract 1 min 30 s",
        "musc_ray 0.1.0",
        "No errors were recorded in this run.",
    ):
        assert shown in page.text
    assert page.all("p", title="s3://plant/a/tile 7.png")
    assert not page.all("nav")
    assert "Please note" not in Page(render(make_report())).text


def test_metric_that_is_not_defined_is_said_to_be_so() -> None:
    text = Page(render(replace(make_report(), metrics={"AUROC": float("nan")}))).text
    assert "AUROC not defined" in text
    assert not re.search(r"\bnan\b", text, re.IGNORECASE)


def test_errors_are_listed_and_a_cut_list_says_so() -> None:
    row = {"uri": "s3://a/b.png", "group": "g", "stage": "extract", "error": "OSError", "message": "truncated"}
    text = Page(render(replace(make_report(), errors=[row], error_total=1700))).text
    assert "The first 1 of 1,700" in text
    assert "s3://a/b.png g extract OSError truncated" in text
    assert "No errors were recorded" not in text


def test_many_groups_get_a_table_of_contents_that_leads_to_them() -> None:
    page = Page(render(make_report(make_group("a b"), make_group("#"), make_group("a b"))))
    assert page.all("nav")
    links = [attrs["href"] for attrs in page.all("a") if attrs["href"].startswith("#group-")]
    assert links == ["#group-1", "#group-2", "#group-3"]
    identifiers = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(identifiers) == len(set(identifiers))
    assert {link[1:] for link in links} <= set(identifiers)
    referenced = {i for _, attrs in page.elements for i in attrs.get("aria-labelledby", "").split()}
    assert referenced <= set(identifiers)


def test_gallery_is_by_rank_and_limited() -> None:
    page = Page(render(make_report(make_group(worst=[make_image(r) for r in (3, 1, 2)])), max_images=2))
    assert [attrs["alt"] for attrs in page.all("img") if "rank" in attrs["alt"]] == [
        "Image of rank 1",
        "Image of rank 2",
    ]


def test_picture_that_cannot_be_read_is_said_in_words() -> None:
    page = Page(render(make_report(make_group(worst=[replace(make_image(), picture=None)]))))
    assert "This picture can no longer be read." in page.text
    assert "#1 tile 7.png" in page.text
    assert not page.all("img", class_="heat")


def test_overlay_has_the_size_of_its_picture_and_both_keep_the_aspect_ratio() -> None:
    page = Page(render(make_report(make_group(worst=[make_image(size=(1000, 250))]))))
    pictures = [attrs for attrs in page.all("img") if attrs.get("width") == "320"]
    assert [(attrs["width"], attrs["height"]) for attrs in pictures] == [("320", "80")] * 2
    assert pictures[0]["src"].startswith("data:image/jpeg;base64,")
    assert pictures[1]["src"].startswith("data:image/webp;base64,")
    assert page.all("ol", class_="gallery landscape")


def test_single_image_with_constant_scores() -> None:
    group = replace(make_group(count=1), scores=np.array([0.5], np.float32), map_low=0.4, map_high=0.4)
    page = Page(render(make_report(group)))
    assert "1 image" in page.text
    assert "0.5 to 0.55: 1 image" in page.text
    assert not re.search(r"\b(nan|inf)\b", page.text, re.IGNORECASE)


def test_group_without_scores_and_run_without_groups() -> None:
    group = replace(make_group(worst=[]), scores=np.zeros(0, np.float32), score_raw=np.zeros(0, np.float32))
    assert "No image of this group has a score." in Page(render(make_report(group))).text
    empty = replace(make_report(), groups=[], stage_seconds={}, counts={})
    assert "No group was scored in this run." in Page(render(empty)).text


def test_scores_that_are_not_finite_are_refused_by_group_name() -> None:
    group = replace(make_group("left side"), scores=np.array([0.1, np.nan], np.float32))
    with pytest.raises(MuscRayError, match="'left side'"):
        render(make_report(group))


def test_histogram_is_readable_without_seeing_it() -> None:
    page = Page(render(make_report(make_group())))
    (svg,) = page.all("svg", class_="histogram")
    assert svg["role"] == "img"
    assert svg["aria-labelledby"] == "group-1-title group-1-desc"
    assert "Histogram of the scores of 50 images, lowest 0.0000, median 0.4950," in page.text
    counts = [int(n) for n in re.findall(r"\d to [\d.]+: (\d+) images?", page.text)]
    assert sum(counts) == 50


def test_page_of_24_photographs_stays_under_two_megabytes() -> None:
    rng = np.random.default_rng(5)
    images = []
    for rank in range(1, 25):
        noise = Image.fromarray(rng.integers(0, 256, (600, 800, 3), dtype=np.uint8))
        patch_map = rng.random((37, 37), dtype=np.float32)  # rougher than any real map
        picture = noise.filter(ImageFilter.GaussianBlur(2))
        images.append(replace(make_image(rank), picture=picture, patch_map=patch_map))
    html = render(make_report(make_group(worst=images)))
    assert len(Page(html).all("img", class_="heat")) == 24
    assert len(html.encode()) < 2_000_000


def test_colours_have_enough_contrast_in_both_schemes() -> None:
    (style,) = Page(render(make_report())).raw["style"]
    light, dark = (
        dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))
        for block in re.findall(r":root \{(.*?)\}", style, re.DOTALL)[:2]
    )
    assert light.keys() == dark.keys()
    for colours in (light, dark):
        for text in ("ink", "quiet", "accent"):
            for ground in ("page", "surface", "well"):
                assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
        assert contrast(colours["warn-ink"], colours["warn-surface"]) >= 4.5


def contrast(first: str, second: str) -> float:
    """Contrast ratio of WCAG 2.2."""

    def luminance(colour: str) -> float:
        channels = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    lighter, darker = sorted((luminance(first), luminance(second)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0, "0.00 s"), (0.416, "0.42 s"), (8.06, "8.1 s"), (59.97, "1 min 0 s"), (200, "3 min 20 s"), (7499, "2 h 5 min")],
)
def test_duration(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected


@pytest.mark.parametrize(
    ("uri", "expected"), [("s3://b/a/x.png", "x.png"), ("x.png", "x.png"), ("file:///d/e/", "e"), ("///", "///")]
)
def test_file_name(uri: str, expected: str) -> None:
    assert file_name(uri) == expected


def test_flatten_settings_keeps_order_and_empty_values() -> None:
    settings = {"a": {"b": {"c": 1.5}, "d": {}}, "e": True, "f": "text", "g": (1, "ü")}
    expected = [("a.b.c", "1.5"), ("a.d", "{}"), ("e", "true"), ("f", "text"), ("g", '[1, "ü"]')]
    assert flatten_settings(settings) == expected
