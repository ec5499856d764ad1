"""Counts of a stage, its rate, its time left, and how it ended."""

from collections import Counter
from collections.abc import Callable
from typing import Any, Literal

from musc_ray.runtime.durations import format_duration
from musc_ray.runtime.time_left import TimeLeft

MIN_LEFT_SECONDS = 1.0
"""Less is not shown: it would be read when it is over."""

Outcome = Literal["done", "failed", "stopped"]
"""How a stage or phase ended: an exception, or a person or signal."""


def outcome_of(error: BaseException) -> Outcome:
    """Return how the work that an exception leaves has ended."""
    return "stopped" if isinstance(error, KeyboardInterrupt) else "failed"


class Timed:
    """Work with a name, a clock and an outcome.

    Attributes:
        name: what is done, for example extract, or loading the model.
        outcome: how it ended; None before.
    """

    def __init__(self, name: str, clock: Callable[[], float]) -> None:
        self.name = one_line(name)
        self.outcome: Outcome | None = None
        self._clock = clock
        self._start = clock()
        self._end: float | None = None

    def end(self, outcome: Outcome) -> None:
        """Stop the clock."""
        self.outcome = outcome
        self._end = self._clock()

    @property
    def seconds(self) -> float:
        """Return the time since the start, or from start to end."""
        return (self._clock() if self._end is None else self._end) - self._start


class Stage(Timed):
    """Counts of one stage. `done`, `seconds` and `outcome` stay readable after the end.

    Attributes:
        unit: what is counted, for example images.
        total: number of units; None while unknown.
        done: number of finished units, those of an earlier run included.
        earlier: number of `done` that an earlier run finished; they do not count in the rate.
        further: more counts by name, such as bytes_written.
    """

    def __init__(
        self, name: str, total: int | None, unit: str, clock: Callable[[], float], changed: Callable[["Stage"], None]
    ) -> None:
        super().__init__(name, clock)
        self.unit = unit
        self.total = total
        self.done = 0
        self.earlier = 0
        self.further: Counter[str] = Counter()
        self._note = ""
        self._changed = changed
        self._time_left = TimeLeft(self._start)

    def advance(self, count: int = 1) -> None:
        """Count finished units."""
        self.done += count
        if count > 0:
            self._time_left.add(count, self._clock())
        self._changed(self)

    def already_done(self, count: int) -> None:
        """Count units that an earlier run finished."""
        self.earlier += count
        self.done += count
        self._changed(self)

    def count(self, **counts: int) -> None:
        """Add to further counts; the next `advance` shows them."""
        self.further.update(counts)

    def note(self, text: str) -> None:
        """Set the text beside the counts; an empty text clears it."""
        self._note = one_line(text)
        self._changed(self)

    def ready(self) -> None:
        """Say that what precedes the first unit, such as loading a model, is over."""
        self._time_left.ready(self._clock())

    @property
    def rate(self) -> float | None:
        """Return the number of units per second of this run; None before the first.

        At the end it is the mean of the whole stage; before, the rate without the warm-up, as far as that is known.
        """
        if self._end is None and (rate := self._time_left.rate) is not None:
            return rate
        fresh = self.done - self.earlier
        seconds = self._clock() - self._time_left.start if self._end is None else self.seconds
        return fresh / seconds if fresh > 0 and seconds > 0 else None

    @property
    def seconds_left(self) -> float | None:
        """Estimate the time left; None while too little is known, and after the end."""
        if self.total is None or self._end is not None:
            return None
        return self._time_left.seconds_left(max(self.total - self.done, 0), self._clock())

    @property
    def counts(self) -> str:
        """Format the counts: `60/240 images (25 %)`, or `60 images` without a total."""
        if self.total is None:
            return f"{self.done:,} {self.unit}"
        percent = f" ({100 * self.done // self.total} %)" if self.total else ""
        return f"{self.done:,}/{self.total:,} {self.unit}{percent}"

    def as_dict(self) -> dict[str, Any]:
        """Return the state of the stage as JSON-ready values."""
        left = self.seconds_left
        return {
            "name": self.name,
            "unit": self.unit,
            "done": self.done,
            "total": self.total,
            "earlier": self.earlier,
            **self.further,
            "seconds": round(self.seconds, 3),
            "seconds_left": None if left is None else round(left, 1),
            "ended": self._end is not None,
            "outcome": self.outcome,
            "summary": self.summary,
        }

    @property
    def summary(self) -> str:
        """Describe the stage in a line: counts, rate, and time left or, after the end, time taken."""
        parts = [self.counts]
        if self._end is not None:
            parts = [f"{self.outcome} after {format_duration(self.seconds)}", self.counts]
        if self.rate is not None:
            parts.append(f"{_number(self.rate)} {self.unit}/s")
        if self._end is not None and self.earlier:
            parts.append(f"{self.earlier:,} done earlier")
        if (left := self.seconds_left) is not None and left >= MIN_LEFT_SECONDS:
            parts.append(f"{format_duration(left)} left")
        if self._note:
            parts.append(self._note)
        return ", ".join(parts)


class Phase(Timed):
    """Work without units to count, such as the loading of a model."""

    @property
    def summary(self) -> str:
        """Describe how the phase ended, and after what time."""
        return f"{self.outcome} after {format_duration(self.seconds)}"


def one_line(text: str) -> str:
    """Replace every run of spaces, line ends and control characters by one space."""
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())


def _number(value: float) -> str:
    """Format three significant digits; whole and with thousands separators from 100 on."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
