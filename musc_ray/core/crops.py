"""Where the crops of a large image lie: the geometry, without pixels.

Place 0 of an image is the whole of it, places 1 to P are its crops, row by row.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

Box = tuple[int, int, int, int]
"""Top, left, bottom, right in pixels."""

Span = tuple[float, float, float, float]
"""The same as fractions of the image's sides."""

Size = tuple[int, int]
"""Height and width in pixels."""

DEFAULT_OVERLAP = 0.1
"""Share of a crop's side that it has in common with the next: enough to blend, without making crops much larger.

With twice as much image AUROC falls by 8 to 10 points on 4 x 6 crops of generated scratches (bench_crops.py).
"""

MAX_OVERLAP = 0.5
"""With more, a pixel would lie in three crops of a row."""

MAX_CROPS = 4096
"""Crops of an image: enough for 150 megapixels at 224 pixels a crop."""

MAX_SCALE = 2.0
"""Pixels of the original that a pixel of the model covers at most, in each direction, in crops that are found."""


MAX_ELONGATION = 2.0
"""Ratio of the longer to the shorter side of crops that are found, unless that of the image is larger."""


@dataclass(frozen=True)
class CropLayout:
    """A grid of overlapping crops that covers an image; the same fractions of images of all sizes.

    Attributes:
        rows, columns: numbers of crops.
        overlap: share of a crop's side that it has in common with the next.

    Raises:
        ValueError: zero or more than MAX_CROPS crops, or an overlap beyond MAX_OVERLAP.
    """

    rows: int
    columns: int
    overlap: float = DEFAULT_OVERLAP

    def __post_init__(self) -> None:
        if min(self.rows, self.columns) < 1 or self.count > MAX_CROPS:
            raise ValueError(f"{self.rows} x {self.columns} crops are not 1 to {MAX_CROPS}")
        if not 0 <= self.overlap <= MAX_OVERLAP:
            raise ValueError(f"an overlap of {self.overlap:g} is not 0 to {MAX_OVERLAP:g}")

    @property
    def count(self) -> int:
        """Return the number of crops, P."""
        return self.rows * self.columns

    @property
    def sides(self) -> tuple[float, float]:
        """Return a crop's height and width as fractions of the image's."""
        return crop_side(self.rows, self.overlap), crop_side(self.columns, self.overlap)

    @property
    def spans(self) -> list[Span]:
        """Return where the crops lie, as fractions of the image, row by row."""
        rows, columns = _cuts(self.rows, self.overlap), _cuts(self.columns, self.overlap)
        return [(top, left, bottom, right) for top, bottom in rows for left, right in columns]

    def boxes(self, height: int, width: int) -> list[Box]:
        """Return where the crops lie in an image of some pixels, row by row; together they cover all of it."""
        rows = [_pixels(cut, height) for cut in _cuts(self.rows, self.overlap)]
        columns = [_pixels(cut, width) for cut in _cuts(self.columns, self.overlap)]
        return [(top, left, bottom, right) for top, bottom in rows for left, right in columns]

    def map_grid(self, grid: tuple[int, int]) -> tuple[int, int]:
        """Return the grid (h, w) of a map of the whole image whose patches are about as large as those of crops.

        Args:
            grid: patches (h, w) of a crop.
        """
        return round(grid[0] / self.sides[0]), round(grid[1] / self.sides[1])

    def crop_size(self, height: float, width: float) -> tuple[float, float]:
        """Return a crop's height and width in an image of some pixels."""
        return height * self.sides[0], width * self.sides[1]


@dataclass(frozen=True)
class CropInput:
    """What of an image's crops enters the model.

    Attributes:
        layout: where they lie.
        size: (H, W) of a crop, in pixels of the model.
    """

    layout: CropLayout
    size: Size


@dataclass(frozen=True)
class InputShape:
    """What of an image enters the model.

    Attributes:
        whole: (H, W) of the whole image, in pixels of the model.
        crops: of its crops; None where it is not cut.
    """

    whole: Size
    crops: CropInput | None = None

    @property
    def places(self) -> int:
        """Return the inputs of an image: 1, or one more than it has crops."""
        return 1 if self.crops is None else self.crops.layout.count + 1


def layout_of_size(height: float, width: float, size: int, overlap: float) -> CropLayout:
    """Return the layout with the fewest crops of at most `size` pixels a side.

    Args:
        height, width: of the image, in pixels.
        size: longest side of a crop, in pixels.
        overlap: see `CropLayout`.

    Raises:
        ValueError: they are more than MAX_CROPS.
    """
    rows, columns = (_parts(side / size, overlap) for side in (height, width))
    return CropLayout(rows, columns, overlap)


def fewest_crops(
    height: float, width: float, overlap: float, input_size: Callable[[float], Size], scale: float = MAX_SCALE
) -> CropLayout:
    """Return the fewest crops in which a pixel of the model covers no more than `scale` pixels of the original.

    Of layouts of the same number of crops, the one whose crops are the squarest. Long strips, which would be fewer at
    times, show too little around each patch: see MAX_ELONGATION.

    Args:
        height, width: of the image, in pixels.
        overlap: see `CropLayout`.
        input_size: the model's input (H, W) for crops of a ratio of height to width.
        scale: pixels of the original a pixel of the model, in each direction.

    Raises:
        ValueError: they are more than MAX_CROPS.
    """
    longest = max(math.log(MAX_ELONGATION), abs(math.log(height / width)))
    for count in range(1, MAX_CROPS + 1):
        fitting = []
        for rows in (divisor for divisor in range(1, count + 1) if count % divisor == 0):
            layout = CropLayout(rows, count // rows, overlap)
            high, wide = layout.crop_size(height, width)
            if abs(math.log(high / wide)) > longest + 1e-9:
                continue
            model_height, model_width = input_size(high / wide)
            if high <= scale * model_height and wide <= scale * model_width:
                fitting.append((abs(math.log(high / wide)), layout))
        if fitting:
            return min(fitting, key=lambda found: found[0])[1]
    raise ValueError(f"an image of {height:.0f} x {width:.0f} pixels needs more than {MAX_CROPS} crops")


def crop_side(parts: int, overlap: float) -> float:
    """Return a crop's side as a fraction of the image's."""
    return 1 / (parts - (parts - 1) * overlap)


def _parts(sides: float, overlap: float) -> int:
    """Return the fewest crops that cover a length, given in sides of a crop."""
    return max(1, math.ceil((sides - overlap) / (1 - overlap) - 1e-9))


def _cuts(parts: int, overlap: float) -> list[tuple[float, float]]:
    """Return where crops begin and end along a side of the image; the last one ends at 1 exactly."""
    side = crop_side(parts, overlap)
    starts = [part * side * (1 - overlap) for part in range(parts)]
    return [(start, 1.0 if part == parts - 1 else start + side) for part, start in enumerate(starts)]


def _pixels(cut: tuple[float, float], length: int) -> tuple[int, int]:
    """Return a crop's first pixel, and the one behind its last; at least one pixel, even of an image that is smaller
    than its layout."""
    start = min(round(cut[0] * length), length - 1)
    return start, max(start + 1, round(cut[1] * length))
