"""Output of `evaluate` and `benchmark`: the metrics in percent, notes, and where they are written."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE
from rich.table import Column, Table

from musc_ray.cli.output import escape, fits, stdout_console
from musc_ray.evaluate.table import SHOWN, MetricsRow, shown_row

if TYPE_CHECKING:
    from musc_ray.evaluate.evaluation import Evaluation

COUNTS = ("images", "anomalous")


def print_metrics(found: "Evaluation") -> None:
    """Print the metrics in the order of the paper's tables; where these do not fit, images and pixels apart."""
    console = stdout_console()
    many_groups = sum(not row.defect for row in found.rows) > 2  # of them one is the mean
    rows = [row for row in found.rows if not row.defect or not many_groups]
    table = _table("Metrics in percent", rows, [*COUNTS, *SHOWN.values()])
    if fits(table, console):
        console.print(table)
    else:
        of_images = [name for key, name in SHOWN.items() if key.startswith("image_")]
        of_pixels = [name for name in SHOWN.values() if name not in of_images]
        console.print(_table("Images: metrics in percent", rows, [*COUNTS, *of_images]))
        console.print(_table("Pixels: metrics in percent", rows, of_pixels))
    facts = ", ".join(f"{name} {value}" for name, value in found.about.items())
    console.print(escape(facts), soft_wrap=True)
    for note in found.notes:
        console.print(f"Note: {escape(note)}", soft_wrap=True)
    console.print(f"Metrics: {escape(found.folder)}", soft_wrap=True)


def _table(title: str, rows: Sequence[MetricsRow], columns: Sequence[str]) -> Table:
    """Return a table of some columns by name, after group and defect."""
    table = Table(Column("group", overflow="fold"), Column("defect", overflow="fold"), title=title, box=SIMPLE)
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        cells = dict(zip(["group", "defect", *COUNTS, *SHOWN.values()], map(escape, shown_row(row)), strict=True))
        table.add_row(
            cells["group"], cells["defect"], *(cells[name] for name in columns), style="bold" if row.is_mean else None
        )
    return table
