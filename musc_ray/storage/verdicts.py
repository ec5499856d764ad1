"""What people said of an OUT's images: Parquet files beside the runs, one an import, never rewritten.

All that was ever imported stays; the latest verdict of an image counts. A file is named by a hash of what it holds.
"""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, get_args

import pyarrow as pa
import pyarrow.compute as pc

from musc_ray.errors import MuscRayError
from musc_ray.storage.complete_runs import complete_runs
from musc_ray.storage.listing import exists
from musc_ray.storage.parquet import read_table, write_table
from musc_ray.storage.paths import OutPaths
from musc_ray.storage.schemas import VERDICTS
from musc_ray.storage.scores import read_tables

VerdictWord = Literal["good", "defective", "unsure"]

Row = dict[str, Any]
"""What a run's list of images says of one."""

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
        imported_at: when it was stored; None before. The same saying stored twice is one.
    """

    image_id: str
    uri: str
    group: str
    verdict: VerdictWord
    note: str
    who: str
    when: datetime
    imported_at: datetime | None = field(default=None, compare=False)


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


def judged_versions(out_paths: OutPaths, verdicts: Mapping[str, Verdict]) -> dict[str, dict[str, Row]]:
    """Find of what versions of their images verdicts can be: those that complete runs knew when they were imported.

    A file that is changed later is another image, of which nothing has been said.

    Args:
        out_paths: of the OUT.
        verdicts: by image id.

    Returns:
        Rows of the lists of images, by image id and version, the latest version first. Where no run was that early
        (a clock is wrong) it is the version of the first run.
    """
    found: dict[str, dict[str, Row]] = {}
    first: dict[str, Row] = {}
    for run in reversed(complete_runs(out_paths)) if verdicts else ():
        for row in _listed(out_paths, run.run_id, verdicts):
            image_id, verdict = row["image_id"], verdicts[row["image_id"]]
            first[image_id] = row
            if verdict.imported_at is None or run.scored_at <= verdict.imported_at:
                found.setdefault(image_id, {}).setdefault(row["version"], row)
    return {image_id: found.get(image_id) or {row["version"]: row} for image_id, row in first.items()}


def changed_since(out_paths: OutPaths, run_id: str, versions: Mapping[str, Collection[str]]) -> set[str]:
    """Return the ids of judged images whose files a run knows in a version of which nothing has been said.

    Args:
        out_paths: of the OUT.
        run_id: of a run whose list of images is written.
        versions: by image id, see `judged_versions`.
    """
    rows = _listed(out_paths, run_id, versions)
    return {row["image_id"] for row in rows if row["version"] not in versions[row["image_id"]]}


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
        rows = [astuple(verdict)[:-1] for verdict in new]
        digest = hashlib.sha256(json.dumps(rows, default=_utc_text).encode("utf-8", "surrogatepass")).hexdigest()[:16]
        table = [list(column) for column in zip(*rows, strict=True)]
        imported_at = [datetime.now(UTC)] * len(new)
        path = f"{verdicts_folder(out_paths)}/verdicts-{digest}.parquet"
        write_table(out_paths.fs, path, pa.table([*table, imported_at], schema=VERDICTS))
    return len(new)


def _listed(out_paths: OutPaths, run_id: str, ids: Collection[str]) -> list[Row]:
    """Read what a run's list of images says of some images; runs of old versions may have none."""
    path = out_paths.run(run_id).catalog
    if not ids or not exists(out_paths.fs, path):
        return []
    table = read_table(out_paths.fs, path)
    wanted = pc.is_in(table["image_id"], pa.array(sorted(ids), pa.string()))
    rows: list[Row] = table.filter(wanted).to_pylist()
    return rows


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
            yield imported_at, Verdict(**row, imported_at=imported_at)


def _utc_text(value: datetime) -> str:
    return value.astimezone(UTC).isoformat()
