"""Output of the verbs that look at an OUT: status, runs, heatmaps, gc."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from musc_ray.cli.output import bytes_text, escape, plural, print_rows, stdout_console
from musc_ray.runtime.durations import format_duration
from musc_ray.runtime.stage import MIN_LEFT_SECONDS

if TYPE_CHECKING:
    from musc_ray.cli.status import RunStatus
    from musc_ray.report.heatmaps import HeatmapsResult
    from musc_ray.storage.garbage import Garbage
    from musc_ray.storage.manifest import RunManifest


def print_status(found: "Sequence[RunStatus]") -> None:
    """Print how far each run is, then the stages of those that are not complete."""
    console = stdout_console()
    rows = [
        {
            "run": run.run_id,
            "state": run.state,
            "done": _done(run),
            "images": f"{run.images:,}",
            "started (UTC)": _minute(run.started_at),
        }
        for run in found
    ]
    print_rows(rows, console, numbers=("done", "images"))
    for run in found:
        if run.complete and (run.failed or run.skipped):
            line = f"Run {run.run_id}: {run.scored:,} images scored, {run.failed:,} failed, {run.skipped:,} skipped"
            console.print(escape(f"{line} of {run.listed:,} listed."), soft_wrap=True)
    for run in found:
        if not run.complete:
            console.print()
            for line in _details(run):
                console.print(escape(line), overflow="fold", highlight=False)


def _done(run: "RunStatus") -> str:
    """Return the share of a run that is done; empty where nothing is known."""
    if run.share is None:
        return ""
    return "100 %" if run.complete else f"about {min(99, round(100 * run.share))} %"


def _details(run: "RunStatus") -> Iterator[str]:
    """Yield what there is to say of a run that is not complete, a line each."""
    if run.state == "running":
        since = "" if run.running_since is None else f" since {_minute(run.running_since)} UTC"
        yield f"Run {run.run_id} is running: process {run.process} on {run.host}{since}."
        if run.seconds_left is not None and run.seconds_left >= MIN_LEFT_SECONDS:
            yield f"About {format_duration(run.seconds_left)} left."
    elif run.state == "failed":
        yield f"Run {run.run_id} failed: {run.failure}"
        yield "The same command resumes it."
    else:
        yield f"Run {run.run_id} was stopped or killed: the same command resumes it."
    yield f"Written: {run.shards_done:,}/{run.shards:,} shards, {run.bands_done:,}/{run.bands:,} bands."
    if run.updated_at is not None:
        yield f"As of {run.updated_at[:19].replace('T', ' ')} UTC:"
        yield from run.stages
        yield from (f"{phase} ..." for phase in run.phases)


def run_document(run: "RunManifest") -> dict[str, Any]:
    """Return what `musc-ray runs --json` says of a complete run, from the content of run.json."""
    return {
        "run_id": run.run_id,
        "scored_at": run.scored_at.isoformat(),
        "images": run.counts.scored,
        "failed": run.counts.failed,
        "groups": run.counts.groups,
        "version": run.versions["musc-ray"],
        "backbone": run.resolved.backbone,
        "weights_sha256": run.resolved.weights_sha256,
        "features_id": run.features_id,
        "source": run.settings.source,
        "source_snapshot": run.source_snapshot,
    }


def print_runs(found: Sequence[Mapping[str, Any]]) -> None:
    """Print a row a run: when, how many images, and what its scores come from.

    Args:
        found: of `run_document`.
    """
    rows = [
        {
            "run": run["run_id"],
            "scored (UTC)": _minute(run["scored_at"]),
            "images": f"{run['images']:,}",
            "version": run["version"],
            "weights": run["weights_sha256"][:12],
            "features": run["features_id"],
            "source": run["source"]
            + ("" if run["source_snapshot"] is None else f" at snapshot {run['source_snapshot']}"),
        }
        for run in found
    ]
    print_rows(rows, stdout_console(), numbers=("images",))


def print_heatmaps(result: "HeatmapsResult") -> None:
    """Print how many heat maps there are now, what was left out, and where they lie."""
    console = stdout_console()
    if result.unreadable:
        note = f"Note: {result.unreadable:,} originals cannot be read, the first is {result.first_unreadable}"
        console.print(escape(note), soft_wrap=True)
    kept = f", {result.skipped:,} kept (--overwrite writes them again)" if result.skipped else ""
    console.print(f"{plural(result.written, 'heat map')} written{kept}", soft_wrap=True)
    console.print(f"Heat maps: {escape(result.folder)}", soft_wrap=True)


def garbage_document(found: "Sequence[Garbage]", deleted: bool) -> dict[str, Any]:
    """Return what `musc-ray gc --json` says."""
    total = sum(garbage.bytes for garbage in found)
    return {"deleted": deleted, "bytes": total, "found": [asdict(garbage) for garbage in found]}


def print_garbage(found: "Sequence[Garbage]", deleted: bool) -> None:
    """Print what no run needs, with its bytes, and whether it is deleted."""
    console = stdout_console()
    if not found:
        console.print("Nothing to remove.")
        return
    rows = [{"path": garbage.path, "size": bytes_text(garbage.bytes), "reason": garbage.why} for garbage in found]
    print_rows(rows, console, numbers=("size",))
    total = bytes_text(sum(garbage.bytes for garbage in found))
    console.print(f"{total} removed." if deleted else f"{total} would be removed: --delete removes it.")


def _minute(time: str) -> str:
    """Return an ISO time to the minute: 2026-11-24 15:51."""
    return time[:16].replace("T", " ")
