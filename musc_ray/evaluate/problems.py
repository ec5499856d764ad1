"""What is wrong with labels and masks: a row of a table each, and a sentence for each kind."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa

from musc_ray.storage.filesystem import remove_tree
from musc_ray.storage.parquet import write_table
from musc_ray.storage.paths import RunPaths
from musc_ray.storage.schemas import ERRORS

KINDS = {
    "NoLabel": "{n} scored images have no label and are left out.",
    "ScoredMask": "{n} scored images are masks and are left out.",
    "NotScored": "{n} labels belong to images that this run did not score.",
    "MaskWithoutImage": "{n} masks have no image in this run.",
    "MaskMissing": "{n} anomalous images have no mask; pixel metrics omit them.",
    "MaskUnreadable": "{n} masks or images cannot be read, pixel metrics omit them.",
    "MaskShape": "{n} masks have another aspect ratio than their image and are not stretched; pixel metrics omit them.",
    "MaskEmpty": "{n} masks of anomalous images mark nothing.",
    "MaskVanished": "{n} masks are empty at this resolution (`--pixels original` keeps them).",
    "MaskWhole": "{n} masks have one value throughout, which is not black: the whole image counts as anomalous.",
    "MaskBackground": "{n} masks have a background that is not plain.",
    "MaskOrientation": "{n} masks have no EXIF orientation, but their images have: the masks count as upright.",
    "ImageSizeUnknown": "{n} images cannot be read: their masks are used without comparing aspect ratios.",
}
"""Sentence of each kind of problem, in the order in which they are shown."""

SHOWN_NAMES = 5

NO_MASK = "The image is anomalous; where is unknown."


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem with one image, mask or label.

    Attributes:
        kind: one of KINDS.
        uri: of the mask, or of the image where there is no mask.
        message: what is wrong with this one.
        group: of the image, where it is known.
    """

    kind: str
    uri: str
    message: str
    group: str = ""

    def of_image(self, uri: str) -> "Problem":
        """Return this problem with a mask, its image named."""
        return replace(self, message=f"{self.message} It belongs to {uri}.")


@dataclass
class Findings:
    """What the reader of an evaluation must know: sentences, and problems."""

    notes: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def sentences(self) -> list[str]:
        """Return the notes, and for each kind of problem its number and the first names."""
        by_kind: dict[str, list[Problem]] = defaultdict(list)
        for problem in self.problems:
            by_kind[problem.kind].append(problem)
        return [*(_sentence(kind, by_kind[kind]) for kind in KINDS if kind in by_kind), *self.notes]


def write_problems(run_paths: RunPaths, problems: Sequence[Problem]) -> None:
    """Write errors.parquet beside the metrics; without problems remove that of an earlier evaluation."""
    path = f"{run_paths.evaluation}/errors.parquet"
    if not problems:
        remove_tree(run_paths.fs, path)
        return
    order = list(KINDS)
    rows = [
        {"uri": each.uri, "group": each.group, "stage": "evaluate", "error": each.kind, "message": each.message}
        for each in sorted(problems, key=lambda each: (order.index(each.kind), each.group, each.uri))
    ]
    write_table(run_paths.fs, path, pa.Table.from_pylist(rows, schema=ERRORS))


def _sentence(kind: str, problems: Sequence[Problem]) -> str:
    first = sorted(problems, key=lambda each: (each.group, each.uri))[:SHOWN_NAMES]
    names = ", ".join(each.uri for each in first)
    return f"{KINDS[kind].format(n=format(len(problems), ','))} First: {names}; all are in errors.parquet."
