"""What a command prints when it is done."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from musc_ray.errors import MuscRayError
from musc_ray.pipeline import RunResult
from musc_ray.planning.cost import SUGGESTED_REFERENCES, Plan
from musc_ray.report.export import HeatmapsResult
from musc_ray.scoring.thresholds import GroupThreshold
from musc_ray.storage.garbage import Garbage

GROUPS_SHOWN = 10
"""Groups whose thresholds are printed."""

UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def print_result(result: RunResult, console: Console) -> None:
    """The worst images, figures, and where scores and report lie."""
    run = result.run
    if not result.computed:
        console.print(f"Run {run['run_id']} is already complete; nothing was computed (--overwrite computes it again).")
    _print_worst(result.worst, console)
    for name, value in run["metrics"].items():
        console.print(f"{escape(name)}: [bold]{value:.4f}[/bold]")
    _print_thresholds(result.thresholds, console)
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


def fail_with_groups(result: RunResult) -> None:
    """End a command whose run is written but for some groups.

    Raises:
        MuscRayError: says of each failed group why.
    """
    if result.run["failed_groups"]:
        raise MuscRayError(" ".join(result.run["failed_groups"].values()))


def print_extracted(figures: Mapping[str, Any], console: Console) -> None:
    """What an extraction did."""
    console.print(
        f"{figures['images']:,} images extracted, {figures['already_done']:,} were there already, "
        f"{figures['failed']:,} failed, {figures['seconds']:.1f} s"
    )


def print_night(result: RunResult | None, waiting: Mapping[str, int], console: Console) -> None:
    """What a nightly run found, how far it drifts, and which new images wait."""
    for group, images in waiting.items():
        console.print(escape(f"Group '{group}': {images} new image waits for more of its kind."), soft_wrap=True)
    if result is None:
        console.print("No new images to score.")
        return
    for name, group in list(result.run["night"].items())[:GROUPS_SHOWN]:
        drift = "" if group["drift"] is None else f", drift {group['drift']:+.2f}"
        console.print(
            escape(f"Group {name}: {group['new']:,} new images against {group['window']:,} earlier ones{drift}"),
            soft_wrap=True,
        )
    print_result(result, console)


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


def print_heatmaps(result: HeatmapsResult, console: Console) -> None:
    """How many heat maps there are now, what was left out, and where they lie."""
    if result.unreadable:
        note = f"Note: {result.unreadable:,} originals cannot be read, the first is {result.first_unreadable}"
        console.print(escape(note), soft_wrap=True)
    there = f", {result.skipped:,} were there already (--overwrite writes them anew)" if result.skipped else ""
    console.print(f"{result.written:,} heat maps written{there}")
    console.print(f"Heat maps: {escape(result.folder)}", soft_wrap=True)


def _print_thresholds(thresholds: list[GroupThreshold], console: Console) -> None:
    """How many images of each group are anomalous, or would be at the suggested threshold."""
    for found in thresholds[:GROUPS_SHOWN]:
        group = f"Group {found.group}: " if len(thresholds) > 1 else ""
        of_images = f"{found.anomalous:,} of {found.images:,} images"
        if not found.suggested:
            line = f"{of_images} are anomalous (score at least {found.threshold:.6g})"
        elif found.anomalous:
            line = f"threshold suggested {found.threshold:.4f}: {of_images} would be anomalous"
        else:
            line = f"no image stands out (threshold suggested {found.threshold:.4f})"
        console.print(escape(f"{group}{line}"), soft_wrap=True)
    if len(thresholds) > GROUPS_SHOWN:
        console.print(f"... and {len(thresholds) - GROUPS_SHOWN:,} more groups.")


def print_runs(runs: Sequence[Mapping[str, Any]], console: Console) -> None:
    """A row a run: when, how many images, and what its scores come from."""
    table = Table(Column("run", no_wrap=True), "scored", "images", "version", "weights", "features", "source")
    for run in runs:
        snapshot = f" at snapshot {run['source_snapshot']}" if "source_snapshot" in run else ""
        table.add_row(
            run["run_id"],
            run["scored_at"][:19].replace("T", " "),
            f"{run['counts']['scored']:,}",
            run["versions"]["musc-ray"],
            run["resolved"]["weights_sha256"][:12],
            run["features_id"],
            escape(f"{run['settings']['source']}{snapshot}"),
        )
    console.print(table)


def print_garbage(found: Sequence[Garbage], deleted: bool, console: Console) -> None:
    """What no run needs, with its bytes, and whether it is gone."""
    if not found:
        console.print("Nothing to remove.")
        return
    table = Table("why", "bytes", Column("what", overflow="fold"))
    for garbage in found:
        table.add_row(garbage.why, bytes_text(garbage.bytes), escape(garbage.path))
    console.print(table)
    total = bytes_text(sum(garbage.bytes for garbage in found))
    console.print(f"{total} removed." if deleted else f"{total} would be removed: --delete does it.")


def print_plan(plan: Plan, max_pending_gb: int, console: Console) -> None:
    """A plan as a table, what it assumed, and whether its references fit."""
    job, rates = plan.job, plan.rates
    groups, references = len(job.group_sizes), "all" if job.references is None else f"{job.references:,}"
    table = Table("what", "how much", show_header=False)
    rows = {
        "images": f"{plan.images:,} in {groups:,} group{'' if groups == 1 else 's'}",
        "shards": f"{plan.shards:,}",
        "tiles": f"{plan.tiles:,}",
        "pairs of images": f"{plan.pairs:,} (references {references})",
        "arithmetic, extract": f"{plan.extract_operations / 1e12:,.1f} TFLOP",
        "arithmetic, mutual": f"{plan.mutual_operations / 1e12:,.1f} TFLOP",
        "images read": bytes_text(plan.source_bytes) if plan.source_bytes else "unknown",
        "features stored": bytes_text(plan.feature_bytes),
        "features read, mutual": f"about {bytes_text(plan.mutual_bytes_read)}",
        "distances exchanged": f"{bytes_text(plan.exchanged_bytes)} at most",
        "distances pending": f"{bytes_text(plan.pending_bytes)} at most",
        "scores stored": bytes_text(plan.result_bytes),
        "memory of a worker, extract": bytes_text(plan.extract_memory),
        "memory of a worker, mutual": bytes_text(plan.mutual_memory),
        "time, extract": duration_text(plan.extract_seconds),
        "time, mutual": duration_text(plan.mutual_seconds),
        "time, search for similar images": duration_text(plan.search_seconds),
    }
    for name, value in rows.items():
        table.add_row(name, value)
    console.print(table)
    console.print(
        f"Assumed: {job.workers} worker{'' if job.workers == 1 else 's'}, each at "
        f"{rates.model_operations / 1e12:.3g} TFLOP/s in the model and {rates.mutual_operations / 1e12:.3g} TFLOP/s in "
        f"mutual scoring ({escape(rates.source)}), {bytes_text(rates.storage_bytes)}/s to and from its storage, which "
        f"lies behind the arithmetic where that takes longer; every image readable, nothing extracted yet."
    )
    for stage, bound in (("extract", plan.extract_bound), ("mutual", plan.mutual_bound)):
        console.print(f"What bounds {stage}: {bound}.")
    if plan.pending_bytes > max_pending_gb * 1e9:
        console.print(
            f"[bold]References {references} do not fit[/bold]: more distances would wait than max_pending_gb "
            f"{max_pending_gb} allows. A run would refuse; use --references {SUGGESTED_REFERENCES}, or raise it."
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
