"""The setting `crops`: into which parts large images are cut, as text of one spelling."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from musc_ray.core.crops import DEFAULT_OVERLAP, MAX_CROPS, MAX_OVERLAP, MAX_SCALE, CropLayout
from musc_ray.settings.messages import shown

GRID = re.compile(r"([1-9]\d{0,4})\s*[xX]\s*([1-9]\d{0,4})")
MIN_SCALE, LARGEST_SCALE = 0.25, 100.0
"""Pixels of the original a pixel of the model: a quarter shows nothing more, 100 are images that need no crops."""

WORDS = ("none", "auto")
EXPECTED = (
    "none, auto, ROWSxCOLUMNS such as 3x2, size=640 (pixels), or scale=1.5 (pixels a pixel of the model), the last "
    "three with or without an overlap such as overlap=0.2"
)


@dataclass(frozen=True)
class CropRule:
    """What `crops` says: a layout, the size of a crop, or the scale at which the model sees it.

    Attributes:
        layout: the same for all groups.
        size: longest side of a crop, in pixels of the original.
        scale: pixels of the original that a pixel of the model covers at most, where neither of these is given.
        overlap: share of a crop's side that it has in common with the next.
    """

    layout: CropLayout | None = None
    size: int | None = None
    scale: float = MAX_SCALE
    overlap: float = DEFAULT_OVERLAP

    @property
    def text(self) -> str:
        """Return the one spelling of the rule, with the overlap that a layout has."""
        if self.size is not None:
            return f"size={self.size},overlap={self.overlap:g}"
        if self.layout is not None:
            return f"{self.layout.rows}x{self.layout.columns},overlap={self.overlap:g}"
        return "auto" if self == CropRule() else f"scale={self.scale:g},overlap={self.overlap:g}"


def parse_crops(text: str) -> CropRule | None:
    """Parse `none` (None), `auto`, `3x2`, `size=640` or `scale=1.5`, the last three with or without `overlap=0.2`.

    Raises:
        ValueError: the text has another form; one sentence.
    """
    if text in WORDS:
        return None if text == "none" else CropRule()
    parts = [part.strip() for part in text.strip().removeprefix("{").removesuffix("}").split(",")]
    grid = GRID.fullmatch(parts[0])
    named = [re.split(r"\s*[=:]\s*", part, maxsplit=1) for part in parts[1 if grid else 0 :]]
    given = {pair[0]: pair[-1] for pair in named}
    sides = given.keys() - {"overlap"}
    if len(given) < len(named) or not sides <= {"size", "scale"} or len(sides) != (0 if grid else 1):
        raise ValueError(f"Setting 'crops' must be {EXPECTED}, not {shown(text)}.")
    overlap = _overlap(given["overlap"]) if "overlap" in given else DEFAULT_OVERLAP
    if "scale" in given:
        return CropRule(scale=_scale(given["scale"]), overlap=overlap)
    if not grid:
        return CropRule(size=_size(given["size"]), overlap=overlap)
    rows, columns = int(grid[1]), int(grid[2])
    if rows * columns > MAX_CROPS:
        raise ValueError(f"Setting 'crops' cuts an image into {rows} x {columns} parts: use at most {MAX_CROPS}.")
    return None if rows * columns == 1 else CropRule(CropLayout(rows, columns, overlap), overlap=overlap)


def crops_text(value: object) -> object:
    """Convert text, or a mapping as YAML reads it, to the one spelling; leave others as they are.

    Raises:
        ValueError: as `parse_crops`.
    """
    if isinstance(value, Mapping):
        value = ",".join(f"{name}={part}" for name, part in value.items())
    if not isinstance(value, str):
        return value
    rule = parse_crops(value)
    return "none" if rule is None else rule.text


def _overlap(text: str) -> float:
    try:
        overlap = float(text)
    except ValueError:
        overlap = -1.0
    if not 0 <= overlap <= MAX_OVERLAP:
        raise ValueError(f"Setting 'crops' has an overlap of {shown(text)}: use a number from 0 to {MAX_OVERLAP:g}.")
    return overlap


def _size(text: str) -> int:
    if not re.fullmatch(r"[1-9]\d{0,8}", text):
        raise ValueError(f"Setting 'crops' has a size of {shown(text)}: use a whole number of pixels such as size=640.")
    return int(text)


def _scale(text: str) -> float:
    try:
        scale = float(text)
    except ValueError:
        scale = -1.0
    if not MIN_SCALE <= scale <= LARGEST_SCALE:
        raise ValueError(
            f"Setting 'crops' has a scale of {shown(text)}: use a number from {MIN_SCALE:g} to {LARGEST_SCALE:g}."
        )
    return scale
