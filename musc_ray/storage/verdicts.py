"""What people said of an OUT's images: Parquet files beside the runs, one an import, never rewritten.

All that was ever imported stays; the latest verdict of an image counts. A file is named by a hash of what it holds.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from datetime import UTC, datetime
from typing import Literal, get_args

import pyarrow as pa

from musc_ray.errors import MuscRayError
from musc_ray.storage.parquet import write_table
from musc_ray.storage.paths import OutPaths
from musc_ray.storage.schemas import VERDICTS
from musc_ray.storage.scores import read_tables

VerdictWord = Literal["good", "defective", "unsure"]

VERDICT_WORDS: tuple[VerdictWord, ...] = get_args(VerdictWord)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a person said of an image.

    Attributes:
        image_id, uri, group: of the image, as a run of the OUT knows it.
        verdict: `unsure` takes back what was said before.
        note: free text; may be empty.
        who: who said it; may be empty.
        when: when it was said, with a zone.
    """

    image_id: str
    uri: str
    group: str
    verdict: VerdictWord
    note: str
    who: str
    when: datetime


def verdicts_folder(out_paths: OutPaths) -> str:
    """Return the folder of an OUT's verdicts."""
    return f"{out_paths.root}/verdicts"


def latest_verdicts(out_paths: OutPaths) -> dict[str, Verdict]:
    """Read what counts now, by image id: of each image the verdict with the latest `when`, those of `unsure` included.

    Of verdicts of the same time the one that was imported last counts, and of one import the last row.

    Raises:
        MuscRayError: a file of verdicts cannot be read.
    """
    stored = sorted(_stored(out_paths), key=lambda pair: (pair[1].when, pair[0]))
    return {verdict.image_id: verdict for _, verdict in stored}


def add_verdicts(out_paths: OutPaths, verdicts: Sequence[Verdict]) -> int:
    """Store verdicts that are not stored yet, as one more file; nothing is written where all are.

    Args:
        out_paths: of the OUT.
        verdicts: several of an image are history, too.

    Returns:
        The number of verdicts that were stored.

    Raises:
        MuscRayError: a file of verdicts cannot be read.
    """
    known = {verdict for _, verdict in _stored(out_paths)}
    new = [verdict for verdict in dict.fromkeys(verdicts) if verdict not in known]
    if new:
        rows = [astuple(verdict) for verdict in new]
        digest = hashlib.sha256(json.dumps(rows, default=_utc_text).encode("utf-8", "surrogatepass")).hexdigest()[:16]
        table = [list(column) for column in zip(*rows, strict=True)]
        imported_at = [datetime.now(UTC)] * len(new)
        path = f"{verdicts_folder(out_paths)}/verdicts-{digest}.parquet"
        write_table(out_paths.fs, path, pa.table([*table, imported_at], schema=VERDICTS))
    return len(new)


def _stored(out_paths: OutPaths) -> Iterator[tuple[datetime, Verdict]]:
    """Yield all verdicts with the time of their import, those of a file in its order."""
    paths = out_paths.table_files(verdicts_folder(out_paths))
    for path, table in zip(paths, read_tables(out_paths.fs, paths, VERDICTS.names), strict=True):
        for row in table.to_pylist():
            imported_at = row.pop("imported_at")
            if row["verdict"] not in VERDICT_WORDS:
                raise MuscRayError(
                    f"{out_paths.uri(path)} holds the unknown verdict {row['verdict']!r}: update musc-ray, or move "
                    "the file away."
                )
            yield imported_at, Verdict(**row)


def _utc_text(value: datetime) -> str:
    return value.astimezone(UTC).isoformat()
