"""Stages and phases as lines of text, for log files and pipes."""

import threading
from collections.abc import Callable
from typing import TextIO

from musc_ray.runtime.stage import Phase, Stage

MIN_PHASE_SECONDS = 1.0
"""A phase that is shorter is not shown."""


class Lines:
    """A line at the start of each stage, one now and then, and one at its end; two a phase that lasts.

    Args:
        stream: where they are written.
        interval_seconds: minimum time between two lines of a stage.
        clock: returns monotonic seconds.
    """

    def __init__(self, stream: TextIO, interval_seconds: float, clock: Callable[[], float]) -> None:
        self._stream = stream
        self._interval = interval_seconds
        self._clock = clock
        self._shown_at: dict[Stage, float] = {}
        self._timers: dict[Phase, threading.Timer] = {}
        self._lock = threading.Lock()

    def started(self, stage: Stage) -> None:
        """Show that a stage has started."""
        total = "" if stage.total is None else f", {stage.total:,} {stage.unit}"
        self._print_stage(stage, f"started{total}")

    def changed(self, stage: Stage) -> None:
        """Show the counts of a stage, if it was not shown just before."""
        if self._clock() - self._shown_at[stage] >= self._interval:
            self._print_stage(stage, stage.summary)

    def ended(self, stage: Stage) -> None:
        """Show how a stage ended."""
        self._print_stage(stage, stage.summary)
        self._shown_at.pop(stage, None)

    def phase_started(self, phase: Phase) -> None:
        """Show a phase once it has lasted for a while."""
        timer = threading.Timer(MIN_PHASE_SECONDS, self._print_running, [phase])
        timer.daemon = True
        self._timers[phase] = timer
        timer.start()

    def phase_ended(self, phase: Phase) -> None:
        """Show how a phase ended, if it has been shown."""
        if (timer := self._timers.pop(phase, None)) is not None:  # else Ctrl-C came first
            timer.cancel()
        if phase.seconds >= MIN_PHASE_SECONDS:
            self._print(f"{phase.name}: {phase.summary}")

    def close(self) -> None:
        """Write what is buffered."""
        self._stream.flush()

    def _print_stage(self, stage: Stage, text: str) -> None:
        self._print(f"{stage.name}: {text}")
        self._shown_at[stage] = self._clock()

    def _print_running(self, phase: Phase) -> None:
        if phase.outcome is None:
            self._print(f"{phase.name} ...")

    def _print(self, line: str) -> None:
        with self._lock:
            self._stream.write(f"{line}\n")
            self._stream.flush()
