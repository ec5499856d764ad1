"""Errors of the command line: one sentence on standard error, never a secret, and the right exit code."""

import os
from collections.abc import Sequence
from functools import partial
from typing import Any

import typer
from typer.core import TyperGroup

from musc_ray.cli.terminal import visible
from musc_ray.errors import MuscRayError, SettingsError
from musc_ray.settings.credentials import redacted
from musc_ray.storage.retry import as_storage_error, is_storage_fault

STOPPED = "Stopped: what is written is kept, and the same command resumes it."
FAILED, UNUSABLE = 1, 2
"""Exit codes: the job failed or was stopped; the settings or the command line cannot be used."""

INTERRUPTED = 130
"""What Typer returns for a Ctrl-C outside of a verb."""

UsageError: type[Exception] = typer.BadParameter.__bases__[0]
"""Base of all errors in a command line; Typer carries its own click or uses the installed one, by its version."""


class Stopped(SystemExit):
    """The end of a command that Ctrl-C or a SIGTERM stopped; the sentence is printed."""


class ReadableErrors(TyperGroup):
    """The `musc-ray` command: every error that leaves a verb is one sentence, without a traceback."""

    def main(self, args: Sequence[str] | None = None, *others: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        """Run a verb and exit with its code."""
        run = partial(super().main, args, *others, **{**extra, "standalone_mode": False})
        if not standalone_mode:
            return run()
        try:
            code = run()
        except UsageError as error:
            code = _print_usage_error(error)
        except typer.Abort:
            code = INTERRUPTED
        if code == INTERRUPTED:
            raise stopped()
        raise SystemExit(code if isinstance(code, int) else 0)

    def invoke(self, ctx: Any) -> Any:
        """Run a verb; turn what it raises into a sentence and `typer.Exit`."""
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort, UsageError):
            raise
        except KeyboardInterrupt as error:
            raise stopped() from error
        except Exception as error:
            if _is_unforeseen(error) and os.environ.get("MUSC_RAY_DEBUG"):
                raise
            raise typer.Exit(print_failure(error)) from error


def stopped() -> Stopped:
    """Print that the command was stopped, which is no error, and return what ends it."""
    typer.echo(STOPPED, err=True)
    return Stopped(FAILED)


def print_failure(error: Exception) -> int:
    """Print an error as one sentence and return the exit code."""
    if isinstance(error, MuscRayError):
        cause = getattr(error, "cause", error)  # raised in an actor, Ray wraps it and adds a traceback
        return _print_error(str(cause), UNUSABLE if isinstance(cause, SettingsError) else FAILED)
    if is_storage_fault(error):
        return _print_error(str(as_storage_error(error)), FAILED)
    reason = " ".join(redacted(str(error)).split()).rstrip(".")
    return _print_error(f"{type(error).__name__}: {reason}. MUSC_RAY_DEBUG=1 shows where.", FAILED)


def _is_unforeseen(error: Exception) -> bool:
    return not isinstance(error, MuscRayError) and not is_storage_fault(error)


def _print_usage_error(error: Any) -> int:
    """Print what is wrong with the command line, and which help says what is possible."""
    if type(error).__name__ == "NoArgsIsHelpError":  # the help is printed already, or is the message
        if message := error.format_message():
            typer.echo(message, err=True)
        return UNUSABLE
    message = " ".join(error.format_message().split()).rstrip(".")
    command = error.ctx.command_path if error.ctx else "musc-ray"
    return _print_error(f"{message}: see `{command} --help`.", UNUSABLE)


def _print_error(sentence: str, code: int) -> int:
    typer.echo(f"Error: {visible(redacted(sentence))}", err=True)
    return code
