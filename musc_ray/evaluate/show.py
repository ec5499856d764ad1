"""What `musc-ray evaluate` prints."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from musc_ray.evaluate.table import SHOWN, MetricsRow, shown_row

WIDEST = 150
"""Columns that the table may take where the terminal, or a log file, is narrower."""


def print_metrics(
    rows: Sequence[MetricsRow], about: Mapping[str, Any], notes: Sequence[str], folder: str, console: Console
) -> None:
    """The metrics in percent, in the order of the paper's tables, notes, and where they are written."""
    many_groups = sum(not row.defect for row in rows) > 2  # of them one is the mean
    table = Table(Column("group", no_wrap=True), Column("defect", no_wrap=True), title="Metrics in percent", box=SIMPLE)
    for name in ("images", "anomalous", *SHOWN.values()):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        if not row.defect or not many_groups:
            table.add_row(*map(escape, shown_row(row)), style="bold" if row.is_mean else None)
    console.width = max(console.width, WIDEST)
    console.print(table, crop=False)
    facts = ", ".join(f"{name} {value}" for name, value in about.items())
    console.print(escape(facts), soft_wrap=True)
    for note in notes:
        console.print(f"Note: {escape(note)}", soft_wrap=True)
    console.print(f"Metrics: {escape(folder)}", soft_wrap=True)
