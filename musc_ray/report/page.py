"""The report page: a RunReport in, one self-contained HTML document out."""

import base64
import hashlib
import json
import math
import re
from datetime import UTC
from importlib.resources import files
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from musc_ray.errors import MuscRayError
from musc_ray.report.data import GroupReport, RunReport, WorstImage
from musc_ray.report.heatmap import data_uri, heatmap, thumbnail
from musc_ray.report.histogram import histogram

THUMBNAIL_SIDE = 320  # pixels; with JPEG and lossy WebP, 24 images stay under 2 MB
PICTURE_QUALITY = 80
HEATMAP_QUALITY = 60

# Control characters and lone surrogates (undecodable file names) are not allowed in UTF-8 HTML; bidirectional controls
# would let a file name rewrite the text around it. Line breaks and tabs are fine.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")


def render(report: RunReport, max_images: int = 24) -> str:
    """The HTML page of `report`, with the first `max_images` by rank of every group.

    Nothing is loaded from outside: style, script and images are inside, and a Content-Security-Policy forbids all
    else. Raises MuscRayError for scores, patch maps or scales that are not finite.
    """
    style, script = _asset("page.css"), _asset("page.js")
    environment = jinja2.Environment(
        autoescape=True,
        finalize=_printable,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"duration": duration, "file_name": file_name, "metric": _metric, "percentile": _percentile}
    return environment.from_string(_asset("page.html.j2")).render(
        report=report,
        created_at=report.created_at.astimezone(UTC),
        style=style,
        style_hash=_csp_hash(style),
        script=script,
        script_hash=_csp_hash(script),
        groups=[_group(number, group, max_images) for number, group in enumerate(report.groups, start=1)],
        image_total=sum(len(group.scores) for group in report.groups),
        total_seconds=sum(report.stage_seconds.values()),
        longest_stage=max(report.stage_seconds.values(), default=0.0),
        settings=flatten_settings(report.settings),
    )


def _asset(name: str) -> str:
    return files("musc_ray.report").joinpath(name).read_text(encoding="utf-8")


def _csp_hash(text: str) -> str:
    """Source expression that allows exactly this inline text (CSP Level 3, section 6.7.3)."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"


def _printable(value: object) -> object:
    """Jinja's finalize: characters that must not reach the page become visible escapes such as \\x00."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), value)
    return value


def _group(number: int, group: GroupReport, max_images: int) -> dict[str, Any]:
    """What the template shows of one group."""
    if not (np.isfinite(group.scores).all() and np.isfinite(group.score_raw).all()):
        raise MuscRayError(f"Group {group.name!r} has scores that are not finite numbers; score the run again.")
    worst = sorted(group.worst, key=lambda image: image.rank)[:max_images]
    count = len(group.scores)
    # The cut between the images shown and the rest says nothing where all are shown.
    cut = worst[-1].score if worst and len(worst) < count else None
    scale = np.linspace(group.map_low, group.map_high, 256)[np.newaxis]
    return {
        "id": f"group-{number}",
        "name": group.name,
        "count": count,
        "histogram": histogram(group.scores, cut) if count else None,
        "quantiles": _quantiles(group.scores) if count else {},
        "images": [_image(image, group) for image in worst],
        "shape": _frame_shape(worst),
        "low": group.map_low,
        "high": group.map_high,
        "scale": data_uri(heatmap(scale, (256, 1), group.map_low, group.map_high), "PNG"),
    }


def _quantiles(scores: np.ndarray) -> dict[str, float]:
    names = ("Lowest", "Median", "95th percentile", "99th percentile", "Highest")
    return dict(zip(names, np.quantile(scores.astype(np.float64), (0, 0.5, 0.95, 0.99, 1)).tolist(), strict=True))


def _frame_shape(worst: list[WorstImage]) -> str:
    """The frame that wastes least room on the group's pictures: "portrait", "square" or "landscape"."""
    ratios = [image.picture.width / image.picture.height for image in worst if image.picture is not None]
    ratio = float(np.median(ratios)) if ratios else 1.0
    return "portrait" if ratio < 0.85 else "landscape" if ratio > 1.18 else "square"


def _image(image: WorstImage, group: GroupReport) -> dict[str, Any]:
    """What the template shows of one image; `picture` is None where there is nothing to lay the heat map over."""
    shown: dict[str, Any] = {"image": image, "picture": None}
    if image.picture is not None:
        picture = thumbnail(image.picture, THUMBNAIL_SIDE)
        overlay = heatmap(image.patch_map, picture.size, group.map_low, group.map_high)
        shown |= {
            "picture": data_uri(picture, "JPEG", PICTURE_QUALITY),
            "overlay": data_uri(overlay, "WEBP", HEATMAP_QUALITY),
            "width": picture.width,
            "height": picture.height,
        }
    return shown


def file_name(uri: str) -> str:
    """The last part of `uri`, or all of it where that is empty."""
    return uri.rstrip("/").rsplit("/", 1)[-1] or uri


def duration(seconds: float) -> str:
    """`seconds` as a person would say it: "0.42 s", "8.1 s", "3 min 20 s", "2 h 5 min"."""
    if seconds < 1:
        return f"{seconds:.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60:,} h {minutes % 60} min"


def flatten_settings(settings: dict[str, object], prefix: str = "") -> list[tuple[str, str]]:
    """Settings as (dotted name, value) rows; values that are not strings are written as in JSON."""
    rows = []
    for name, value in settings.items():
        if isinstance(value, dict) and value:
            rows += flatten_settings(value, f"{prefix}{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
            rows.append((f"{prefix}{name}", text))
    return rows


def _metric(value: float) -> str:
    """A metric to three decimals; one that is not defined (AUROC with a single class) is said to be so."""
    return f"{value:.3f}" if math.isfinite(value) else "not defined"


def _percentile(value: float) -> str:
    """Two decimals, cut off and not rounded: only the very top is 100."""
    return f"{math.floor(value * 100 + 1e-6) / 100:.2f}"
