"""Output of the verb `verdicts`: what was stored, and where the verdicts stand."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from musc_ray.cli.output import escape, plural, print_rows, stdout_console
from musc_ray.storage.verdicts import VERDICT_WORDS
from musc_ray.verdicts.importing import named

if TYPE_CHECKING:
    from musc_ray.verdicts.importing import Imported
    from musc_ray.verdicts.standing import GroupStanding

UNKNOWN = "\N{EN DASH}"


def verdicts_document(imported: "Imported | None", groups: "Sequence[GroupStanding]") -> dict[str, Any]:
    """Return what `musc-ray verdicts --json` says."""
    stored = None
    if imported is not None:
        stored = {"rows": imported.rows, "stored": imported.stored, "unknown": list(imported.unknown)}
    return {"imported": stored, "groups": [_group_document(group) for group in groups]}


def _group_document(group: "GroupStanding") -> dict[str, Any]:
    in_force, labels = group.in_force, group.by_verdicts
    return {
        "group": group.group,
        **{word: group.counts.get(word, 0) for word in VERDICT_WORDS},
        "run_id": group.run_id,
        "scored": group.scored,
        "threshold": None if in_force is None else in_force.threshold,
        "threshold_source": None if in_force is None else in_force.source,
        "precision": None if in_force is None else in_force.found.precision,
        "recall": None if in_force is None else in_force.found.recall,
        "labelled_threshold": None if labels is None else labels.as_json(),
    }


def print_verdicts(imported: "Imported | None", groups: "Sequence[GroupStanding]", out: str) -> None:
    """Print what was stored and what is unknown, a row a group, and the commands that use the verdicts."""
    console = stdout_console()
    if imported is not None:
        console.print(f"{plural(imported.stored, 'verdict')} stored, of {plural(imported.rows, 'row')}.")
        if imported.unknown:
            count = plural(len(imported.unknown), "image")
            text = f"Left out: {count} that no run of {out} knows: {named(imported.unknown)}."
            console.print(escape(text), soft_wrap=True, highlight=False)
    if not groups:
        console.print(
            escape(f"No verdicts in {out}: mark images in a report, download verdicts.csv, and give it here.")
        )
        return
    rows = [
        {
            "group": group.group,
            **{word: f"{group.counts.get(word, 0):,}" for word in VERDICT_WORDS},
            "run": group.run_id or UNKNOWN,
            "threshold": _threshold(group),
            "precision": UNKNOWN if group.in_force is None else _share(group.in_force.found.precision),
            "recall": UNKNOWN if group.in_force is None else _share(group.in_force.found.recall),
            "by verdicts": UNKNOWN if group.by_verdicts is None else f"{group.by_verdicts.threshold:.4f}",
            "labels": f"{group.scored:,}",
        }
        for group in groups
    ]
    print_rows(rows, console, numbers=(*VERDICT_WORDS, "precision", "recall", "by verdicts", "labels"))
    if any(group.by_verdicts and (group.in_force is None or group.in_force.source == "suggested") for group in groups):
        text = f"The next run takes the thresholds by verdicts; `musc-ray report {out}` marks the last one by them."
        console.print(escape(text), soft_wrap=True, highlight=False)
    if imported is not None and imported.stored:
        text = f"`musc-ray rescore {out} --verdicts` scores again the groups whose verdicts have changed."
        console.print(escape(text), soft_wrap=True, highlight=False)


def _threshold(group: "GroupStanding") -> str:
    return UNKNOWN if group.in_force is None else f"{group.in_force.threshold:.4f} ({group.in_force.source})"


def _share(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.3f}"
