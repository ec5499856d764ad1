"""Which patches of images are kept: scored, and compared with; the others are masked or background.

Kept patches are multiplied as (A, K) vectors, K the largest number of an image. Images with fewer repeat their first
kept patch: a copy of a patch changes no minimum, and what is computed for the copy is dropped.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from musc_ray.core.crops import Span

Flags = npt.NDArray[np.bool_]

WHOLE: Span = (0.0, 0.0, 1.0, 1.0)

MIN_IGNORED = 0.5
"""Share of its area from which on a patch is ignored."""


@dataclass(frozen=True)
class KeptPatches:
    """The kept patches of A images.

    Attributes:
        flags: (A, L) bool.
        used: (L,) bool, places where an image keeps a patch, of these images or of others that they are compared with;
            shards that are multiplied with one another have the same. None means all.
    """

    flags: Flags
    used: Flags | None = None

    @classmethod
    def of(cls, flags: Flags, used: Flags | None = None) -> "KeptPatches | None":
        """Return the kept patches; None where all are kept."""
        return None if flags.all() else cls(flags, used)

    @property
    def most(self) -> int:
        """Return K, the largest number of kept patches of an image, at least 1."""
        return int(self.index.shape[1])

    @property
    def patches(self) -> int:
        """Count the patches of an image, L."""
        return int(self.flags.shape[1])

    @cached_property
    def counts(self) -> npt.NDArray[np.int64]:
        """Count the kept patches of each image, (A,)."""
        return np.asarray(self.flags.sum(axis=1), np.int64)

    @cached_property
    def index(self) -> npt.NDArray[np.int64]:
        """Return the kept patches of each image, ascending, (A, K); of images with fewer the first one again."""
        most = max(1, int(self.counts.max(initial=0)))
        order = np.argsort(~self.flags, axis=1, kind="stable")[:, :most]
        return np.where(np.arange(most) < self.counts[:, None], order, order[:, :1])

    @cached_property
    def empty(self) -> Flags:
        """Tell which images keep no patch, (A,): their vectors are those of a patch that does not count."""
        return np.asarray(self.counts == 0)

    def rows(self, images: slice | Sequence[int]) -> "KeptPatches":
        """Return the kept patches of some images."""
        return KeptPatches(self.flags[images], self.used)

    def gather(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Select the kept patches of values (A, L): (A, K), as `index` says."""
        return np.take_along_axis(values, self.index, axis=1)

    def spread(self, values: npt.NDArray[Any], fill: float) -> npt.NDArray[Any]:
        """Return values (A, K, ...) of kept patches in the place of each, (A, L, ...), `fill` elsewhere.

        K may be larger than `most`, as of images that are a part of those it is of.
        """
        whole = np.full((*self.flags.shape, *values.shape[2:]), fill, values.dtype)
        whole[self.flags] = values[np.arange(values.shape[1]) < self.counts[:, None]]
        return whole


def kept_of_mask(mask: Flags, grid: tuple[int, int], box: Span = WHOLE) -> Flags:
    """Tell which patches of an image, or of a part of it, a mask leaves: ignored is what it covers by half or more.

    Args:
        mask: (H, W) bool, True where the image is ignored; stretched over the image whatever its size.
        grid: (h, w) patches of the part.
        box: the part.

    Returns:
        (h * w,) bool, row-major.
    """
    height, width = mask.shape
    sums = np.zeros((height + 1, width + 1))
    sums[1:, 1:] = mask.cumsum(axis=0, dtype=np.float64).cumsum(axis=1)
    rows = np.linspace(box[0], box[2], grid[0] + 1) * height
    columns = np.linspace(box[1], box[3], grid[1] + 1) * width
    at = _between(_between(sums, rows).T, columns).T  # the mask's integral up to each corner of a patch
    covered = np.diff(np.diff(at, axis=0), axis=1)
    area = np.diff(rows)[:, None] * np.diff(columns)
    kept: Flags = (covered < MIN_IGNORED * area * (1 - 1e-9)).ravel()
    return kept


def _between(values: npt.NDArray[np.float64], places: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Interpolate rows of values (n, m) at fractional places."""
    low = np.clip(places.astype(np.int64), 0, len(values) - 2)
    share = (places - low)[:, None]
    found: npt.NDArray[np.float64] = values[low] * (1 - share) + values[low + 1] * share
    return found
