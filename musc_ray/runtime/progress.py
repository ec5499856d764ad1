"""Live progress of a command: stages and phases, as live lines of a terminal or as lines of a log file."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TextIO

from musc_ray.runtime.progress_lines import MIN_PHASE_SECONDS, Lines
from musc_ray.runtime.stage import Phase, Stage, outcome_of

if TYPE_CHECKING:
    from musc_ray.runtime.progress_bars import Bars

MIN_RECORD_SECONDS = 5.0
"""Minimum time between two records of the stages while none starts or ends."""


class Progress:
    """Display of a command's stages and phases; a context manager around all of them.

    On a terminal each is a live line; a stage, and a phase of more than a second, leaves a line that says how it ended.
    Elsewhere a stage is a line at its start, at most one every `interval_seconds`, and one at its end, without control
    characters; a phase of more than a second is a line after that second, and one at its end.

    Threads may share it.

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
        self._phases: list[Phase] = []
        self._record: Callable[[dict[str, Any]], None] | None = None
        self._recorded_at = clock()
        self._watch: Callable[[Stage], None] | None = None
        self._lock, self._record_lock = threading.RLock(), threading.Lock()
        self._display: Bars | Lines | None = None if quiet else _display(stream, interval_seconds, clock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            if self._display is not None:
                self._display.close()

    def record(self, write: Callable[[dict[str, Any]], None]) -> None:
        """Call `write` with the JSON-ready state of stages and phases as they start and end, and every few seconds."""
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
        """Count and show one stage; an exception inside ends it as failed, Ctrl-C as stopped, and propagates."""
        stage = Stage(name, total, unit, self._clock, self._changed)
        try:
            with self._lock:
                self._stages.append(stage)
                if self._display:
                    self._display.started(stage)
            if self._watch:
                self._watch(stage)
            self._write_record()
            yield stage
        except BaseException as error:
            stage.end(outcome_of(error))
            raise
        else:
            stage.end("done")
        finally:
            with self._lock:
                if self._display:
                    self._display.ended(stage)
            if self._watch:
                self._watch(stage)
            self._write_record()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Show work without units to count, such as the loading of a model; within a stage or not, in any thread.

        Show the work of a stage before its first unit as phases: then its estimate of the time left comes earlier.
        """
        phase = Phase(name, self._clock)
        try:
            with self._lock:
                self._phases.append(phase)
                if self._display:
                    self._display.phase_started(phase)
            self._record_phases()
            yield
        except BaseException as error:
            phase.end(outcome_of(error))
            raise
        else:
            phase.end("done")
            for stage in self._stages:
                stage.ready()
        finally:
            with self._lock:
                self._phases = [each for each in self._phases if each is not phase]
                if self._display:
                    self._display.phase_ended(phase)
            if phase.seconds >= MIN_PHASE_SECONDS:
                self._record_phases()

    def _changed(self, stage: Stage) -> None:
        with self._lock:
            if self._display and stage.outcome is None:
                self._display.changed(stage)
        if self._watch:
            self._watch(stage)
        if self._clock() - self._recorded_at >= MIN_RECORD_SECONDS:
            self._write_record()

    def _record_phases(self) -> None:
        """Write the record if a stage is at work: the end of a command must not depend on a store that is away."""
        if any(stage.outcome is None for stage in self._stages):
            self._write_record()

    def _write_record(self) -> None:
        if self._record is None:
            return
        self._recorded_at = self._clock()
        with self._record_lock:  # records are written one after the other, the latest last
            with self._lock:
                stages, phases = list(self._stages), [phase.name for phase in self._phases]
            self._record(
                {
                    "updated_at": datetime.now(UTC).isoformat(timespec="seconds"),
                    "stages": [stage.as_dict() for stage in stages],
                    "phases": phases,
                }
            )


def _display(stream: TextIO, interval_seconds: float, clock: Callable[[], float]) -> "Bars | Lines":
    """Return what fits the stream; rich is only imported for a terminal."""
    if stream.isatty() and os.environ.get("TERM") != "dumb":
        from musc_ray.runtime.progress_bars import Bars

        return Bars(stream, clock)
    return Lines(stream, interval_seconds, clock)
