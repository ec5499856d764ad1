"""What the outputs of all verbs share: a console whose tables are whole in pipes, JSON, numbers with their units."""

import json
import sys
from collections.abc import Collection, Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape as escape_markup
from rich.table import Table

from musc_ray.cli.terminal import visible
from musc_ray.runtime.durations import format_duration
from musc_ray.storage.processes import seconds_since_start

PIPE_WIDTH = 100_000
"""Columns where standard output is not a terminal: no table of ours is cut or folded there."""

UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def stdout_console() -> Console:
    """Return a console on standard output: as wide as the terminal, or, in a pipe, as wide as what is printed."""
    return Console() if sys.stdout.isatty() else Console(width=PIPE_WIDTH)


def escape(text: str) -> str:
    """Return text as rich prints it unchanged, its control characters spelled out: names come from anywhere."""
    return escape_markup(visible(text))


def fits(table: Table, console: Console) -> bool:
    """Return whether a table fits the console without folding."""
    unlimited = console.options.update(max_width=PIPE_WIDTH)
    return console.measure(table, options=unlimited).maximum <= console.width


def print_rows(rows: Sequence[Mapping[str, str]], console: Console, numbers: Collection[str] = ()) -> None:
    """Print rows as a table, or, where it does not fit the console, each as a heading and a line a field.

    Args:
        rows: text by column, the same columns in each; the first one names the row.
        console: where to print.
        numbers: columns that are aligned at the right.
    """
    table = Table(box=SIMPLE_HEAD)
    for name in rows[0]:
        table.add_column(name, no_wrap=True, justify="right" if name in numbers else "left")
    for row in rows:
        table.add_row(*map(escape, row.values()))
    if fits(table, console):
        console.print(table)
        return
    for row in rows:
        (_, heading), *fields = row.items()
        console.print(f"[bold]{escape(heading)}[/bold]", overflow="fold", highlight=False)
        widest = max(len(name) for name, _ in fields)
        for name, value in fields:
            console.print(escape(f"  {name:{widest}}  {value}"), overflow="fold", highlight=False)


def print_json(document: object) -> None:
    """Print one JSON document on standard output."""
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def print_total_time() -> None:
    """Print the time of the whole command, the start of the interpreter included: its last line."""
    stdout_console().print(f"Total time: {format_duration(seconds_since_start())}")


def plural(count: int, noun: str) -> str:
    """Return a count with its noun: 1 group, 1,200 groups."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def bytes_text(count: float) -> str:
    """Return bytes with a decimal unit: 1.5 GB."""
    for unit in UNITS:
        if count < 1000 or unit == UNITS[-1]:
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
