"""What a setting affects, declared on its field: ids, resume, the plan and the options of the verbs follow from it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

Effect = Literal[
    "source",
    "features",
    "scores",
    "night",
    "report",
    "evaluate",
    "benchmark",
    "publish",
    "run",
    "output",
    "extraction",
    "scoring",
    "runtime",
]

EFFECTS: Mapping[Effect, str] = {
    "source": "Which images belong to a run, how they are grouped, and which are refused.",
    "features": "Values of the features; part of the features id, and so of the run id.",
    "scores": "Values of the scores; part of the run id.",
    "night": "Which images a nightly run scores, and when it warns.",
    "report": "What is marked and shown once the scores are written.",
    "evaluate": "Labels and masks that scores are compared with.",
    "benchmark": "The paper's protocol.",
    "publish": "Iceberg tables.",
    "run": "This run alone: never taken over by a later one.",
    "output": "Where results are written, and which are kept.",
    "extraction": "Speed and memory of feature extraction, never values.",
    "scoring": "Speed and memory of scoring, never values.",
    "runtime": "Machines, processes and threads of any stage, never values.",
}
"""Meaning of each effect, in the order in which help and documentation show them."""


NO_OLDER: object = object()
"""What no setting has as a value: those that were there from the start."""


@dataclass(frozen=True)
class Affects:
    """Marker in the annotation of a field of `Settings`.

    Attributes:
        effects: what the setting changes; the first is the group it is shown in.
        older: what the value was before there was the setting: with it the setting is left out of ids, so that older
            runs keep theirs. For every setting that is added to `features` or `scores` from now on.
        in_ids: False of a setting that only chooses values of others, which are in the ids.
    """

    effects: tuple[Effect, ...]
    older: object = NO_OLDER
    in_ids: bool = True


def affects(*effects: Effect, older: object = NO_OLDER, in_ids: bool = True) -> Affects:
    """Declare what a setting affects; see `Affects`."""
    return Affects(effects, older, in_ids)


def affects_of(field: "FieldInfo") -> Affects:
    """Return what a field of `Settings` declares.

    Raises:
        LookupError: it declares nothing.
    """
    for marker in field.metadata:
        if isinstance(marker, Affects):
            return marker
    raise LookupError("Every field of Settings declares what it affects, as in Annotated[Flag, affects('report')].")
