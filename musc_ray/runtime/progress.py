"""Live progress of a run's stages: a bar on a terminal, periodic lines in a log file."""

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self, TextIO

import rich.progress
from rich.console import Console

from musc_ray.runtime.durations import format_duration

MIN_RECORD_SECONDS = 5.0
"""Minimum time between two records of the stages."""


class Stage:
    """Counts of one stage. `done`, `seconds` and `failed` stay readable after the end.

    Attributes:
        name: the stage, for example extract.
        unit: what is counted, for example images.
        total: number of units; None while unknown.
        done: number of finished units, those of an earlier run included.
        earlier: number of `done` that an earlier run finished; they do not count in the rate.
        further: more counts by name, such as bytes_written.
        failed: whether an exception ended the stage.
    """

    def __init__(
        self, name: str, total: int | None, unit: str, clock: Callable[[], float], changed: Callable[["Stage"], None]
    ) -> None:
        self.name = _one_line(name)
        self.unit = unit
        self.total = total
        self.done = 0
        self.earlier = 0
        self.further: Counter[str] = Counter()
        self.failed = False
        self._note = ""
        self._clock = clock
        self._changed = changed
        self._start = clock()
        self._end: float | None = None

    def advance(self, count: int = 1) -> None:
        """Count finished units."""
        self.done += count
        self._changed(self)

    def already_done(self, count: int) -> None:
        """Count units that an earlier run finished."""
        self.earlier += count
        self.advance(count)

    def count(self, **counts: int) -> None:
        """Add to further counts; the next `advance` shows them."""
        self.further.update(counts)

    def note(self, text: str) -> None:
        """Set the text beside the counts; an empty text clears it."""
        self._note = _one_line(text)
        self._changed(self)

    def end(self, failed: bool) -> None:
        """Stop the clock."""
        self.failed = failed
        self._end = self._clock()

    @property
    def seconds(self) -> float:
        """Return the time since the start, or from start to end."""
        return (self._clock() if self._end is None else self._end) - self._start

    @property
    def rate(self) -> float | None:
        """Return the mean number of units per second of this run; None before the first."""
        fresh, seconds = self.done - self.earlier, self.seconds
        return fresh / seconds if fresh > 0 and seconds > 0 else None

    @property
    def seconds_left(self) -> float | None:
        """Estimate the time left at the mean rate; None while the total or the rate is unknown."""
        rate = self.rate
        return None if self.total is None or rate is None else max(self.total - self.done, 0) / rate

    @property
    def counts(self) -> str:
        """Format the counts: `60/240 images (25 %)`, or `60 images` without a total."""
        if self.total is None:
            return f"{self.done:,} {self.unit}"
        percent = f" ({100 * self.done // self.total} %)" if self.total else ""
        return f"{self.done:,}/{self.total:,} {self.unit}{percent}"

    def as_dict(self) -> dict[str, Any]:
        """Return the state of the stage as JSON-ready values."""
        return {
            "name": self.name,
            "unit": self.unit,
            "done": self.done,
            "total": self.total,
            **self.further,
            "seconds": round(self.seconds, 3),
            "ended": self._end is not None,
            "summary": self.summary,
        }

    @property
    def summary(self) -> str:
        """Describe the stage in a line: counts, mean rate, and time left or, after the end, time taken."""
        parts = [self.counts]
        if self._end is not None:
            parts = [f"{'failed' if self.failed else 'done'} after {format_duration(self.seconds)}", self.counts]
        if self.rate is not None:
            parts.append(f"{_number(self.rate)} {self.unit}/s")
        if self._end is not None and self.earlier:
            parts.append(f"{self.earlier:,} done earlier")
        if self._end is None and self.seconds_left is not None:
            parts.append(f"{format_duration(self.seconds_left)} left")
        if self._note:
            parts.append(self._note)
        return ", ".join(parts)


class Progress:
    """Display of the stages of a run; a context manager around all of them.

    On a terminal each stage is a live bar, which stays as it ended. Elsewhere it is a line at its start, at most one
    every `interval_seconds`, and one at its end, without control characters.

    Args:
        stream: output; None means the standard error stream.
        quiet: only count, show nothing.
        interval_seconds: minimum time between two lines of a stage.
        clock: returns monotonic seconds.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        quiet: bool = False,
        interval_seconds: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._stages: list[Stage] = []
        self._record: Callable[[dict[str, Any]], None] | None = None
        self._recorded_at = clock()
        self._watch: Callable[[Stage], None] | None = None
        self._display: _Bars | _Lines | None = None
        if not quiet:
            on_terminal = stream.isatty() and os.environ.get("TERM") != "dumb"
            self._display = _Bars(stream, clock) if on_terminal else _Lines(stream, interval_seconds, clock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._display is not None:
            self._display.close()

    def record(self, write: Callable[[dict[str, Any]], None]) -> None:
        """Call `write` with the JSON-ready state of all stages at the end of each, and every few seconds."""
        self._record = write

    @contextmanager
    def watched(self, watch: Callable[[Stage], None]) -> Iterator[None]:
        """Call `watch` with each stage at its start, at every change and at its end, within the block."""
        self._watch = watch
        try:
            yield
        finally:
            self._watch = None

    @contextmanager
    def stage(self, name: str, total: int | None = None, unit: str = "items") -> Iterator[Stage]:
        """Count and show one stage; an exception inside ends it as failed and propagates."""
        stage = Stage(name, total, unit, self._clock, self._changed)
        self._stages.append(stage)
        if self._display:
            self._display.started(stage)
        if self._watch:
            self._watch(stage)
        failed = True
        try:
            yield stage
            failed = False
        finally:
            stage.end(failed)
            if self._display:
                self._display.ended(stage)
            if self._watch:
                self._watch(stage)
            self._write_record()

    def _changed(self, stage: Stage) -> None:
        if self._display:
            self._display.changed(stage)
        if self._watch:
            self._watch(stage)
        if self._clock() - self._recorded_at >= MIN_RECORD_SECONDS:
            self._write_record()

    def _write_record(self) -> None:
        if self._record is not None:
            now = datetime.now(UTC).isoformat(timespec="seconds")
            self._record({"updated_at": now, "stages": [stage.as_dict() for stage in self._stages]})
            self._recorded_at = self._clock()


class _Lines:
    """Stages as lines of text, for log files and pipes."""

    def __init__(self, stream: TextIO, interval_seconds: float, clock: Callable[[], float]) -> None:
        self._stream = stream
        self._interval = interval_seconds
        self._clock = clock
        self._shown_at: dict[Stage, float] = {}

    def started(self, stage: Stage) -> None:
        total = "" if stage.total is None else f", {stage.total:,} {stage.unit}"
        self._print(stage, f"started{total}")

    def changed(self, stage: Stage) -> None:
        if self._clock() - self._shown_at[stage] >= self._interval:
            self._print(stage, stage.summary)

    def ended(self, stage: Stage) -> None:
        self._print(stage, stage.summary)
        del self._shown_at[stage]

    def close(self) -> None:
        self._stream.flush()

    def _print(self, stage: Stage, text: str) -> None:
        self._stream.write(f"{stage.name}: {text}\n")
        self._stream.flush()
        self._shown_at[stage] = self._clock()


class _Bars:
    """Stages as live bars of a terminal."""

    def __init__(self, stream: TextIO, clock: Callable[[], float]) -> None:
        # Only the bars' own stream is captured: what a command prints to standard output goes there untouched.
        self._bars = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}", markup=False),
            rich.progress.BarColumn(bar_width=24),
            rich.progress.TimeElapsedColumn(),
            rich.progress.TextColumn("{task.fields[stage].summary}", markup=False),
            console=Console(file=stream),
            get_time=clock,
            redirect_stdout=False,
        )
        self._tasks: dict[Stage, rich.progress.TaskID] = {}

    def started(self, stage: Stage) -> None:
        self._tasks[stage] = self._bars.add_task(stage.name, total=stage.total, stage=stage)
        self._bars.start()

    def changed(self, stage: Stage) -> None:
        self._bars.update(self._tasks[stage], completed=stage.done, total=stage.total)

    def ended(self, stage: Stage) -> None:
        task = self._tasks.pop(stage)
        self._bars.update(task, completed=stage.done, total=stage.total)
        self._bars.stop_task(task)
        if not self._tasks:
            self.close()

    def close(self) -> None:
        """Leave the bars on the terminal as they are, and release it until the next stage."""
        self._bars.stop()
        for task in self._bars.task_ids:
            self._bars.remove_task(task)


def _one_line(text: str) -> str:
    """Replace every run of spaces, line ends and control characters by one space."""
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())


def _number(value: float) -> str:
    """Format three significant digits; whole and with thousands separators from 100 on."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
