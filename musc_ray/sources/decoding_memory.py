"""How many large images are decoded at the same time: as many as fit in a budget of bytes, by their headers."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

MAX_DECODING_BYTES = 2**30
"""Memory for decoded images at their own size, in each process; a larger image is decoded alone."""

MAX_ORIGINALS_BYTES = 3 * 64_000_000
"""Memory for originals and masks, RGB, that are kept decoded at the same time for a report or an evaluation."""

MAX_DECODING = 4
"""Images of unknown size that are decoded at the same time."""

Take = Callable[[int], None]
"""Waits until a number of bytes is free, and takes them, in place of those that were taken before."""


def unlimited(amount: int) -> None:
    """Take bytes of no budget."""


class DecodingMemory:
    """A budget of bytes that threads share, first come, first served: a large image is not overtaken for ever.

    A thread that waits holds nothing, so that none waits for another that waits.
    """

    def __init__(self, limit: int = MAX_DECODING_BYTES) -> None:
        self.limit = limit
        self.taken = 0
        self._changed = threading.Condition()
        self._queue: deque[object] = deque()

    @contextmanager
    def lease(self) -> Iterator[Take]:
        """Give a function that takes bytes; all are given back at the end."""
        held = 0

        def take(amount: int) -> None:
            nonlocal held
            self._give_back(held)
            held = 0
            self._wait_for(amount)
            held = amount

        try:
            yield take
        finally:
            self._give_back(held)

    @contextmanager
    def of_pixels(self, pixels: int | None) -> Iterator[None]:
        """Hold the bytes of an RGB image, given its number of pixels; None: those of an image of unknown size."""
        with self.lease() as take:
            take(self.limit // MAX_DECODING if pixels is None else 3 * pixels)
            yield

    def _wait_for(self, amount: int) -> None:
        ticket = object()
        with self._changed:
            self._queue.append(ticket)
            try:
                self._changed.wait_for(lambda: self._queue[0] is ticket and self._fits(amount))
                self.taken += amount
            finally:
                self._queue.remove(ticket)
                self._changed.notify_all()

    def _fits(self, amount: int) -> bool:
        return not self.taken or self.taken + amount <= self.limit

    def _give_back(self, amount: int) -> None:
        with self._changed:
            self.taken -= amount
            self._changed.notify_all()
