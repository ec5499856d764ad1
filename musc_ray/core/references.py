"""Choose which images each image is scored against: all of a group, or those in a window of distances on a ring.

The images of a group stand on a ring in random order. Two images score each other when their distance along the ring
lies in a window. So the relation is mutual, every image has the same number of references, and cost is N * M. The
widest window holds all pairs.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt

MAX_START = 16
"""Largest start of a window, in window widths: bounds the number of distances that are pending at a time."""


@dataclass(frozen=True)
class ReferenceWindow:
    """Distances `first` to `last` on a ring of `images` images."""

    images: int
    first: int
    last: int

    @property
    def references(self) -> int:
        """Count the images that each image is scored against."""
        both_sides = 2 * (self.last - self.first + 1)
        return both_sides - 1 if 2 * self.last == self.images else both_sides  # a single image lies half way round

    @property
    def pairs(self) -> int:
        """Count the pairs of images that score each other."""
        return self.images * self.references // 2

    @property
    def max_pending(self) -> int:
        """Maximum number of pending distances of a patch, summed over images, when sections are processed in order.

        A distance is pending until its image has met all its references. With w = last - first + 1: after row p the
        images ahead, up to p + last, have met at most w of their references, and fewer the farther away they are:
        first * w + w (w + 1) / 2 in all. Those that the first rows met across the ring's end are pending throughout,
        which is as many again.
        """
        width = self.last - self.first + 1
        return min(width * (2 * self.first + width + 1), self.images * self.references)

    @property
    def is_all(self) -> bool:
        """Tell whether all images score each other."""
        return self.references == self.images - 1

    def contains(self, a: range, b: range) -> npt.NDArray[np.bool_]:
        """Tell which of the images at positions a and b score each other: (A, B) bool."""
        apart = np.abs(np.arange(a.start, a.stop)[:, None] - np.arange(b.start, b.stop))
        distance = np.minimum(apart, self.images - apart)
        inside: npt.NDArray[np.bool_] = (distance >= self.first) & (distance <= self.last)
        return inside

    def touches(self, a: range, b: range) -> bool:
        """Tell whether any images at positions a and b score each other: `contains(a, b).any()` in constant time."""
        least, most = b.start - (a.stop - 1), (b.stop - 1) - a.start
        bounds = ((self.first, self.last), (-self.last, -self.first))
        return any(
            least <= high + turn and most >= low + turn
            for low, high in bounds
            for turn in (-self.images, 0, self.images)
        )


def reference_window(images: int, references: int | None, seed: int = 0) -> ReferenceWindow:
    """Choose the window that gives every image of a group at least this many references.

    Args:
        images: N >= 2.
        references: M, rounded up to an even number; None, or N - 1 and more, means all.
        seed: 0 takes the nearest images on the ring; others take windows farther away, which share as few references
            as the group's size allows.
    """
    if references is None or references >= images - 1:
        return ReferenceWindow(images, 1, images // 2)
    half = -(-references // 2)
    starts = (images - 1) // 2 - half + 1
    first = 1 + seed * half % min(starts, MAX_START * half + 1)
    return ReferenceWindow(images, first, first + half - 1)


def section_pairs(window: ReferenceWindow, sections: list[range]) -> Iterator[tuple[int, int]]:
    """Yield pairs of sections of the ring (I <= J) that hold pairs of the window, row by row.

    After the last pair of row I, section I has met all its references; only what lies between is pending.

    Args:
        window: which images score each other.
        sections: positions, in order, that cover the ring.
    """
    starts = np.array([section.start for section in sections])
    for row, section in enumerate(sections):
        reach = range(section.start - window.last, section.stop + window.last)
        if len(reach) >= window.images:
            candidates = list(range(row, len(sections)))
        else:
            first, last = reach.start % window.images, (reach.stop - 1) % window.images
            low, high = (int(at) for at in np.searchsorted(starts, [first, last], side="right") - 1)
            around = chain(range(low, high + 1)) if first <= last else chain(range(high + 1), range(low, len(sections)))
            candidates = sorted({column for column in around if column >= row})
        yield from ((row, column) for column in candidates if window.touches(section, sections[column]))
