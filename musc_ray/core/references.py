"""Who is scored against whom: all of a group, or the images in a window of distances on a ring.

The images of a group stand on a ring in random order. Two images score each other when their distance along the ring
lies in a window; so the relation is mutual, every image has the same number of references, and work grows with N * M.
All pairs are the widest window.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt

FARTHEST_START = 16
"""Windows start within so many window widths: distances that wait for an image's other side stay a bounded number."""


@dataclass(frozen=True)
class Window:
    """Distances `first` to `last` on a ring of `images` images."""

    images: int
    first: int
    last: int

    @property
    def references(self) -> int:
        """Images that each image is scored against."""
        both_sides = 2 * (self.last - self.first + 1)
        return both_sides - 1 if 2 * self.last == self.images else both_sides  # half way round there is one image only

    @property
    def pairs(self) -> int:
        """Pairs of images that score each other."""
        return self.images * self.references // 2

    @property
    def most_waiting(self) -> int:
        """Distances of a patch, summed over images, that wait at most while `blocks` are worked through in order.

        With w = last - first + 1: after row p the images ahead, up to p + last, have met w of their references and
        fewer the farther they stand, first * w + w (w + 1) / 2 in all; those that the first rows met round the ring's
        end wait all the time, which is as many again.
        """
        width = self.last - self.first + 1
        return min(width * (2 * self.first + width + 1), self.images * self.references)

    @property
    def is_all(self) -> bool:
        """Whether all images score each other."""
        return self.references == self.images - 1

    def contains(self, a: range, b: range) -> npt.NDArray[np.bool_]:
        """Which of the images at positions a and b score each other, (A, B)."""
        apart = np.abs(np.arange(a.start, a.stop)[:, None] - np.arange(b.start, b.stop))
        distance = np.minimum(apart, self.images - apart)
        inside: npt.NDArray[np.bool_] = (distance >= self.first) & (distance <= self.last)
        return inside

    def touches(self, a: range, b: range) -> bool:
        """Whether any of the images at positions a and b score each other; `contains(a, b).any()` in constant time."""
        least, most = b.start - (a.stop - 1), (b.stop - 1) - a.start
        bounds = ((self.first, self.last), (-self.last, -self.first))
        return any(
            least <= high + turn and most >= low + turn
            for low, high in bounds
            for turn in (-self.images, 0, self.images)
        )


def reference_window(images: int, references: int | None, seed: int = 0) -> Window:
    """The window that gives every image of a group at least so many references.

    Args:
        images: N >= 2.
        references: M, rounded up to an even number; None, or N - 1 and more, means all.
        seed: 0 takes the nearest images on the ring, others take windows farther away, which share as few references
            as there is room for.
    """
    if references is None or references >= images - 1:
        return Window(images, 1, images // 2)
    half = -(-references // 2)
    starts = (images - 1) // 2 - half + 1
    first = 1 + seed * half % min(starts, FARTHEST_START * half + 1)
    return Window(images, first, first + half - 1)


def blocks(window: Window, chunks: list[range]) -> Iterator[tuple[int, int]]:
    """Pairs of chunks of the ring (I <= J) that hold pairs of the window, row by row.

    After the last pair of row I everything that chunk I needs has been there: what waits is what lies between.

    Args:
        window: who scores whom.
        chunks: positions, in order, that cover the ring.
    """
    starts = np.array([chunk.start for chunk in chunks])
    for row, chunk in enumerate(chunks):
        reach = range(chunk.start - window.last, chunk.stop + window.last)
        if len(reach) >= window.images:
            candidates = list(range(row, len(chunks)))
        else:
            first, last = reach.start % window.images, (reach.stop - 1) % window.images
            low, high = (int(at) for at in np.searchsorted(starts, [first, last], side="right") - 1)
            around = chain(range(low, high + 1)) if first <= last else chain(range(high + 1), range(low, len(chunks)))
            candidates = sorted({column for column in around if column >= row})
        yield from ((row, column) for column in candidates if window.touches(chunk, chunks[column]))
