"""What a command prints when it is done."""

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from musc_ray.plan import Plan
from musc_ray.stages.run import RunResult

UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def print_result(result: RunResult, console: Console) -> None:
    """The worst images, figures, and where scores and report lie."""
    run = result.run
    if not result.computed:
        console.print(f"Run {run['run_id']} is already complete; nothing was computed (--overwrite computes it again).")
    _print_worst(result.worst, console)
    for name, value in run["metrics"].items():
        console.print(f"{escape(name)}: [bold]{value:.4f}[/bold]")
    counts = run["counts"]
    seconds = sum(stage["seconds"] for stage in run["stages"].values())
    console.print(
        f"{counts['scored']:,} images scored, {counts['failed']:,} failed, {counts['groups']:,} "
        f"group{'' if counts['groups'] == 1 else 's'}, {seconds:.1f} s"
    )
    for note in run["notes"]:
        console.print(f"Note: {escape(note)}")
    console.print(f"Scores: {escape(result.scores_path)}", soft_wrap=True)
    console.print(f"Report: {escape(result.report_path)}", soft_wrap=True)


def _print_worst(worst: list[dict[str, Any]], console: Console) -> None:
    table = Table("rank", "score", "raw", "percentile", "image", title=f"The {len(worst)} most anomalous images")
    many_groups = len({row["group"] for row in worst}) > 1
    for row in worst:
        name = row["uri"].rsplit("/", 1)[-1]
        table.add_row(
            str(row["rank"]),
            f"{row['score']:.4f}",
            f"{row['score_raw']:.4f}",
            f"{row['percentile']:.1f}",
            escape(f"{row['group']}: {name}" if many_groups else name),
        )
    console.print(table)


def print_plan(plan: Plan, console: Console) -> None:
    """A plan as a table, and what it assumed."""
    table = Table("what", "how much", show_header=False)
    rows = {
        "images": f"{plan.images:,} in {plan.groups:,} group{'' if plan.groups == 1 else 's'}",
        "shards": f"{plan.shards:,}",
        "tiles": f"{plan.tiles:,}",
        "arithmetic, extract": f"{plan.extract_operations / 1e12:,.1f} TFLOP",
        "arithmetic, mutual": f"{plan.mutual_operations / 1e12:,.1f} TFLOP",
        "features stored": bytes_text(plan.feature_bytes),
        "pending distances": f"{bytes_text(plan.pending_bytes)} at most (one layer of the largest group)",
        "time, extract": duration_text(plan.extract_seconds),
        "time, mutual": duration_text(plan.mutual_seconds),
    }
    for name, value in rows.items():
        table.add_row(name, value)
    console.print(table)
    console.print(
        f"Assumed: {plan.workers} worker{'' if plan.workers == 1 else 's'} like this machine, each at "
        f"{plan.extract_rate / 1e12:.2f} TFLOP/s in the model and {plan.mutual_rate / 1e12:.2f} TFLOP/s in mutual "
        f"scoring (measured just now); every image readable, nothing extracted yet, reading and writing not counted."
    )


def bytes_text(count: float) -> str:
    """Bytes with a decimal unit: 1.5 GB."""
    for unit in UNITS:
        if count < 1000 or unit == UNITS[-1]:
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"


def duration_text(seconds: float) -> str:
    """Seconds as a person says them: 42 s, 3.5 min, 7.2 h, 12 d."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172800 else f"{seconds / 86400:.1f} d"
