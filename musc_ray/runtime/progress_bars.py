"""Stages and phases as live lines of a terminal."""

from collections.abc import Callable
from typing import TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from musc_ray.runtime.progress_lines import MIN_PHASE_SECONDS
from musc_ray.runtime.stage import Phase, Stage

MIN_BAR, MAX_BAR = 10, 24
COLUMNS_OF_TEXT = 75
"""Columns that a stage's name, time and counts need; the bar takes what a wide terminal has beyond."""

SPINNER, ASCII_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏", "|/-\\"
BAR, ASCII_BAR = ("━", "━"), ("#", "-")
FRAMES_PER_SECOND = 10


class Bars:
    """A live line for each stage and phase at work; those that are over become a line above.

    Args:
        stream: a terminal.
        clock: returns monotonic seconds.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float]) -> None:
        self._console = Console(file=stream)
        self._clock = clock
        self._shown: list[Stage | Phase] = []
        self._live: Live | None = None

    def started(self, stage: Stage) -> None:
        """Show a stage."""
        self._show(stage)

    def changed(self, stage: Stage) -> None:
        """Do nothing: the next frame shows the counts."""

    def ended(self, stage: Stage) -> None:
        """Leave a line that says how a stage ended."""
        self._replace(stage, f"{stage.name}: {stage.summary}")

    def phase_started(self, phase: Phase) -> None:
        """Show a phase."""
        self._show(phase)

    def phase_ended(self, phase: Phase) -> None:
        """Leave a line that says how a phase ended, if it lasted."""
        self._replace(phase, f"{phase.name}: {phase.summary}" if phase.seconds >= MIN_PHASE_SECONDS else None)

    def close(self) -> None:
        """Take the live lines off the terminal, and release it."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        self._shown = []

    def _show(self, shown: Stage | Phase) -> None:
        self._shown = [*self._shown, shown]
        if self._live is None:
            # Only the bars' own stream is captured: what a command prints to standard output goes there untouched.
            self._live = Live(
                console=self._console,
                get_renderable=self._render,
                transient=True,
                redirect_stdout=False,
                refresh_per_second=FRAMES_PER_SECOND,
            )
            self._live.start()
        self._live.refresh()

    def _replace(self, shown: Stage | Phase, line: str | None) -> None:
        """Take a live line off the terminal; print another that stays."""
        left = [each for each in self._shown if each is not shown]
        if left:
            self._shown = left
        else:
            self.close()  # with the line still there, so that it is erased whole
        if line is not None:
            self._console.print(Text(line), soft_wrap=True)
        elif self._live is not None:
            self._live.refresh()

    def _render(self) -> Group:
        """Return a line for each stage and phase; none is wider than the terminal, so that none is folded."""
        return Group(*(self._line(shown) for shown in self._shown))

    def _line(self, shown: Stage | Phase) -> Text:
        line = Text(no_wrap=True, overflow="ellipsis")
        ascii_only = self._console.options.ascii_only
        share = shown.done / shown.total if isinstance(shown, Stage) and shown.total else None
        if share is None:
            frames = ASCII_SPINNER if ascii_only else SPINNER
            line.append(f"{frames[int(shown.seconds * FRAMES_PER_SECOND) % len(frames)]} ", "cyan")
        line.append(f"{shown.name} ")
        if share is not None:
            width = min(MAX_BAR, max(MIN_BAR, self._console.width - COLUMNS_OF_TEXT))
            filled, rest = ASCII_BAR if ascii_only else BAR
            full = int(width * min(share, 1.0))
            line.append(filled * full, "cyan").append(rest * (width - full), "bright_black").append(" ")
        seconds = int(shown.seconds)
        line.append(f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}", "yellow")
        if isinstance(shown, Stage):
            line.append(f" {shown.summary}")
        return line
