"""Limit the pixels that the threads of a process decode at the same time."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

MAX_DECODING = 4
"""Originals of unknown size that are decoded at the same time."""

PIXELS = 64_000_000
"""Pixels of originals that are decoded at the same time; a larger one is decoded alone."""


class PixelBudget:
    """Pixels that may be decoded at the same time; who needs more than is left waits."""

    def __init__(self, pixels: int = PIXELS) -> None:
        self._total = self._left = pixels
        self._changed = threading.Condition()

    @contextmanager
    def take(self, pixels: int | None) -> Iterator[None]:
        """Wait for this share of the budget, at most all of it; None takes that of an image of unknown size."""
        share = self._total // MAX_DECODING if pixels is None else min(pixels, self._total)
        with self._changed:
            self._changed.wait_for(lambda: self._left >= share)
            self._left -= share
        try:
            yield
        finally:
            with self._changed:
                self._left += share
                self._changed.notify_all()
