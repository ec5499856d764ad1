"""Output of what became of all that a source lists: scored, failed, skipped."""

from typing import TYPE_CHECKING, Any

from rich.console import Console

from musc_ray.cli.output import escape, plural

if TYPE_CHECKING:
    from musc_ray.sources.catalog import Catalog
    from musc_ray.storage.manifest import RunManifest

MAX_EXAMPLES = 3


def print_ledger(run: "RunManifest", console: Console) -> None:
    """Print the counts of a run, which add up to what was listed, and of what was skipped why."""
    counts = run.counts
    further = {
        "known good": counts.known_good,
        "skipped": counts.skipped,
        "known from earlier runs": counts.known,
        "waiting": counts.waiting,
    }
    parts = [f"{counts.scored:,} images scored", f"{counts.failed:,} failed"]
    parts += [f"{count:,} {name}" for name, count in further.items() if count]
    listed = f" of {counts.listed:,} listed" if counts.listed > counts.scored else ""
    console.print(f"{', '.join(parts)}{listed}; {plural(counts.groups, 'group')}", soft_wrap=True)
    if run.skipped:
        console.print(f"Skipped: {_reasons(run.skipped)}", soft_wrap=True)


def ledger_document(catalog: "Catalog") -> dict[str, Any]:
    """Return what `musc-ray plan --json` says of what a source lists."""
    return {
        "listed": catalog.listed,
        "errors": len(catalog.unreadable),
        "skipped": catalog.skipped_by_reason,
        "error_examples": [_example(entry) for entry in catalog.unreadable[:MAX_EXAMPLES]],
        "skipped_examples": [_example(entry) for entry in _one_of_each(catalog)],
        "notes": list(catalog.notes),
    }


def print_catalog(catalog: "Catalog", console: Console) -> None:
    """Print what a source lists, before any image is read: counts, the reasons, examples."""
    line = f"Listed: {catalog.listed:,}, of which {catalog.images:,} are images"
    if catalog.unreadable:
        line += f", {len(catalog.unreadable):,} are errors"
    if catalog.skipped:
        line += f", {len(catalog.skipped):,} are skipped ({_reasons(catalog.skipped_by_reason)})"
    console.print(f"{line}.", soft_wrap=True)
    for label, entries in (("Error", catalog.unreadable[:MAX_EXAMPLES]), ("Skipped", _one_of_each(catalog))):
        for entry in entries:
            console.print(escape(f"  {label}: {entry.uri}: {entry.message}"), soft_wrap=True)
    for note in catalog.notes:
        console.print(f"Note: {escape(note)}", soft_wrap=True)


def _reasons(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in sorted(counts.items()))


def _one_of_each(catalog: "Catalog") -> list[Any]:
    """Return the first skipped entry of each reason."""
    return list({entry.reason: entry for entry in reversed(catalog.skipped)}.values())


def _example(entry: Any) -> dict[str, str]:
    return {name: value for name, value in entry._asdict().items() if name in ("uri", "reason", "error", "message")}
