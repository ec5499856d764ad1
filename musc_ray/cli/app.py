"""The `musc-ray` command: its verbs in the order of its help, its version, and how a signal stops it."""

import atexit
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer

import musc_ray
from musc_ray.cli import checking, inspecting, judging, results, running
from musc_ray.cli.errors import FAILED, ReadableErrors, Stopped, stopped
from musc_ray.cli.verbs import MARKUP, Verb
from musc_ray.settings.credentials import log_to_stderr

VERBS = {
    "Score images": (running.run, running.extract, running.score, running.rescore, running.benchmark, running.demo),
    "Before and during a run": (inspecting.plan, inspecting.settings, inspecting.status),
    "After a run": (
        results.runs,
        results.report,
        checking.check,
        judging.verdicts,
        results.evaluate,
        results.heatmaps,
        results.publish,
        results.gc,
    ),
}
"""All verbs by the panel of `musc-ray --help`."""


class Verbs(ReadableErrors):
    """The `musc-ray` command with its verbs."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for panel, verbs in VERBS.items():
            for verb in verbs:
                self.add_command(Verb(verb, panel))


app = typer.Typer(
    name="musc-ray",
    help="Find defects in large archives of unlabeled industrial images: images of one product score each other.",
    cls=Verbs,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=MARKUP,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"musc-ray {musc_ray.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Take the options that stand before a verb; Typer gives them to their callbacks."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Entry point of the `musc-ray` command and of jobs; a SIGTERM stops it as Ctrl-C does.

    Args:
        arguments: verb and options; None takes the command line's.
    """
    stop_on_sigterm()
    log_to_stderr()
    try:
        sys.exit(app(arguments))
    except Stopped:  # no exit functions: they wait for all threads, and for all that is queued for them
        _leave(FAILED)
    except KeyboardInterrupt:  # just before or after a verb
        stopped()
        _leave(FAILED)
    except SystemExit as ended:
        if "torch" not in sys.modules or not isinstance(ended.code, int):
            raise
        atexit._run_exitfuncs()  # Python would then take the objects of PyTorch apart one by one, for a second
        _leave(ended.code)


def _leave(code: int) -> NoReturn:
    """End the process at once."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # closed, or a pipe that nobody reads
            stream.flush()
    os._exit(code)


def stop_on_sigterm() -> None:
    """Let SIGTERM, as `ray job stop` sends it, end the process as Ctrl-C does."""
    signal.signal(signal.SIGTERM, _stop)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    """Handle the first SIGTERM; ignore later ones, so that they do not disturb the shutdown (SIGKILL still ends it)."""
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt
