"""Output of `plan`: a table, what it assumed, and whether the references fit; or the same as a document."""

from collections import Counter
from typing import Any

from rich.table import Table

from musc_ray.cli.output import bytes_text, escape, plural, stdout_console
from musc_ray.core.compression_limits import MEASURED_LOSS
from musc_ray.planning.cost import SUGGESTED_REFERENCES, Plan
from musc_ray.planning.job import Job
from musc_ray.runtime.durations import format_duration

MIN_SAVED_BYTES, MAX_SECONDS_SHARE = 1e9, 0.8
"""What compression must save to be proposed: bytes, or a share of the time."""


MEETINGS = {"same": "those at their place in other images", "all": "all crops of other images"}

REASONS = {"--crop-references": " (aligned products)", "--references": " (scores move little)"}
"""Why an option may be taken."""


def plan_document(plan: Plan, max_pending_gb: int) -> dict[str, Any]:
    """Return what `musc-ray plan --json` says."""
    job = plan.job
    return {
        "images": plan.images,
        "groups": len(job.group_sizes),
        "references": "all" if job.references is None else job.references,
        "shards": plan.shards,
        "tiles": plan.tiles,
        "pairs": plan.pairs,
        "executor": job.executor,
        "workers": job.workers,
        "threads": job.threads,
        "rates_source": plan.rates.source,
        "operations": {
            "extract": plan.extract_operations,
            "mutual": plan.mutual_operations,
            "search": plan.search_operations,
        },
        "bytes": {
            "source": plan.source_bytes or None,
            "features": plan.feature_bytes,
            "features_read": plan.mutual_bytes_read,
            "exchanged": plan.exchanged_bytes,
            "pending": plan.pending_bytes,
            "scores": plan.result_bytes,
        },
        "seconds": {"extract": plan.extract_seconds, "mutual": plan.mutual_seconds, "search": plan.search_seconds},
        "bound": {"extract": plan.extract_bound, "mutual": plan.mutual_bound},
        "worker_memory_bytes": {"extract": plan.extract_memory, "mutual": plan.mutual_memory},
        "fits": _fits(plan, max_pending_gb),
        "compressed": None if plan.compressed is None else _compressed_document(plan.compressed),
        "crops": _crops_document(plan),
    }


def _crops_document(plan: Plan) -> dict[str, Any] | None:
    """Return what images that are cut cost: crops of an image by number of images; None where none are cut."""
    job = plan.job
    if job.crops == 0:
        return None
    counts = Counter[int]()
    for group in job.groups:
        counts[group.crops] += group.images
    return {
        "images_by_crops": {str(crops): images for crops, images in sorted(counts.items())},
        "crop_references": job.meeting,
        "cheaper": {option: {"mutual_seconds": other.mutual_seconds} for option, other in plan.cheaper.items()},
    }


def _compressed_document(plan: Plan) -> dict[str, Any]:
    """Return what the job would cost with `compress: auto`, as far as that differs."""
    return {
        "operations": {"extract": plan.extract_operations, "mutual": plan.mutual_operations},
        "bytes": {"features": plan.feature_bytes, "features_read": plan.mutual_bytes_read},
        "seconds": {"extract": plan.extract_seconds, "mutual": plan.mutual_seconds, "search": plan.search_seconds},
    }


def print_plan(plan: Plan, max_pending_gb: int) -> None:
    """Print a plan as a table, what it assumed, and whether its references fit."""
    console, job, rates = stdout_console(), plan.job, plan.rates
    references = "all" if job.references is None else f"{job.references:,}"
    table = Table(show_header=False)
    rows = {
        "images": f"{plan.images:,} in {plural(len(job.group_sizes), 'group')}",
        **({"inputs of the model": crops_text(plan)} if job.crops else {}),
        "shards": f"{plan.shards:,}",
        "tiles": f"{plan.tiles:,}",
        "pairs of images": f"{plan.pairs:,} (references {references})",
        "arithmetic, extract": f"{plan.extract_operations / 1e12:,.1f} TFLOP",
        "arithmetic, mutual": f"{plan.mutual_operations / 1e12:,.1f} TFLOP",
        "images read": bytes_text(plan.source_bytes) if plan.source_bytes else "unknown",
        "features stored": bytes_text(plan.feature_bytes),
        "features read, mutual": f"about {bytes_text(plan.mutual_bytes_read)}",
        "distances exchanged": f"at most {bytes_text(plan.exchanged_bytes)}",
        "distances pending": f"at most {bytes_text(plan.pending_bytes)}",
        "scores stored": bytes_text(plan.result_bytes),
        "memory of a worker, extract": bytes_text(plan.extract_memory),
        "memory of a worker, mutual": bytes_text(plan.mutual_memory),
        "time, extract": f"{format_duration(plan.extract_seconds)}, bound by {plan.extract_bound}",
        "time, mutual": f"{format_duration(plan.mutual_seconds)}, bound by {plan.mutual_bound}",
        "time, search for similar images": format_duration(plan.search_seconds),
    }
    for name, value in rows.items():
        table.add_row(name, value)
    console.print(table)
    console.print(
        f"Assumed: {_workers(job)}, at {rates.model_operations / 1e12:.3g} TFLOP/s in the model "
        f"and {rates.mutual_operations / 1e12:.3g} TFLOP/s in mutual scoring ({escape(rates.source)}), and "
        f"{bytes_text(rates.storage_bytes)}/s to and from its storage, which overlaps with the arithmetic; every image "
        f"readable, nothing extracted yet."
    )
    for proposal in (compress_proposal(plan), crops_proposal(plan)):
        if proposal is not None:
            console.print(proposal)
    if not _fits(plan, max_pending_gb):
        console.print(
            f"[bold]References {references} do not fit[/bold]: pending distances would exceed max_pending_gb "
            f"{max_pending_gb}, so a run would be refused: use --references {SUGGESTED_REFERENCES}."
        )


def crops_text(plan: Plan) -> str:
    """Say how many inputs of the model there are: images and their crops, and which crops meet."""
    job = plan.job
    crops = sorted({group.crops for group in job.groups})
    each = f"{crops[0]}" if len(crops) == 1 else f"{crops[0]} to {crops[-1]}"
    total = sum(group.images * group.places for group in job.groups)
    return f"{total:,}: each image and {each} crops of it, compared with {MEETINGS[job.meeting]}"


def crops_proposal(plan: Plan) -> str | None:
    """Say what would make mutual scoring of crops cheaper; None where it is cheap, or nothing would."""
    if not plan.cheaper:
        return None
    found = " and ".join(
        f"{option} {format_duration(other.mutual_seconds)}{REASONS[option.split()[0]]}"
        for option, other in plan.cheaper.items()
    )
    priced = " (crop_references auto counts as all)" if plan.job.meeting == "all" else ""
    return f"Mutual scoring of crops takes {format_duration(plan.mutual_seconds)}{priced}; it would take with {found}."


def compress_proposal(plan: Plan) -> str | None:
    """Say what `compress: auto` would save; None where it pays in neither bytes nor time."""
    other = plan.compressed
    if other is None:
        return None
    saves_bytes = plan.feature_bytes - other.feature_bytes > MIN_SAVED_BYTES
    if not saves_bytes and other.seconds > MAX_SECONDS_SHARE * plan.seconds:
        return None
    times = [_worker_time(found) for found in (other, plan)]
    return (
        f"--compress auto would store {bytes_text(other.feature_bytes)} of features instead of "
        f"{bytes_text(plan.feature_bytes)} and take {times[0]} instead of {times[1]}; where it was measured, image "
        f"AUROC moved by less than {MEASURED_LOSS:g}."
    )


def _worker_time(plan: Plan) -> str:
    """Return the time of a plan over all its GPUs, or of this machine's CPUs."""
    if not plan.job.on_gpu:
        return format_duration(plan.seconds)
    return f"{plan.seconds * plan.job.workers / 3600:,.1f} GPU hours"


def _workers(job: Job) -> str:
    """Say what computes: `this process`, or how many workers of a Ray cluster."""
    return "this process" if job.executor == "process" else f"{plural(job.workers, 'worker')} of Ray"


def _fits(plan: Plan, max_pending_gb: int) -> bool:
    return plan.pending_bytes <= max_pending_gb * 1e9
