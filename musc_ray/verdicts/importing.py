"""Store the verdicts of a file: find their images among those that runs of an OUT know, and add what is new."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc

from musc_ray.errors import MuscRayError
from musc_ray.storage.complete_runs import complete_run, complete_runs
from musc_ray.storage.listing import exists
from musc_ray.storage.parquet import read_table
from musc_ray.storage.paths import OutPaths
from musc_ray.storage.scores import read_tables
from musc_ray.storage.verdicts import Verdict, add_verdicts
from musc_ray.verdicts.rows import read_rows

NAMES = ["image_id", "uri", "group"]

MAX_NAMED = 3
"""Unknown images that an error names."""


@dataclass(frozen=True)
class Imported:
    """What an import did.

    Attributes:
        rows: of the file.
        stored: verdicts that were not stored before.
        unknown: what the file calls images that no run of the OUT knows.
    """

    rows: int
    stored: int
    unknown: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Image:
    image_id: str
    uri: str
    group: str


def import_verdicts(out_paths: OutPaths, table: str, who: str = "") -> Imported:
    """Store the verdicts of a file; importing it again changes nothing.

    Group and URI of an image are stored as the latest run that knows the image has them.

    Args:
        out_paths: of an OUT with complete runs.
        table: path or URI of the file.
        who: said those that do not say it.

    Raises:
        MuscRayError: the file cannot be used, no run is complete, no image is known, or id and URI of a row are those
            of two images.
    """
    rows = read_rows(table, datetime.now(UTC))
    images = _find_images(out_paths, {row.image_id for row in rows}, {uri for row in rows for uri in row.uris})
    by_id, by_uri = {image.image_id: image for image in images}, {image.uri: image for image in images}
    verdicts, unknown = [], []
    for row in rows:
        found = [by_id[row.image_id]] if row.image_id in by_id else []
        found += [by_uri[uri] for uri in row.uris if uri in by_uri]
        if len({image.image_id for image in found}) > 1:
            raise MuscRayError(
                f"{table}, line {row.line}: image_id {row.image_id} and uri {row.image} are two images, "
                "so leave one of them empty."
            )
        if not found:
            unknown.append(row.image)
            continue
        image = found[0]
        verdicts.append(
            Verdict(image.image_id, image.uri, image.group, row.verdict, row.note, row.who or who, row.when)
        )
    if not verdicts:
        raise MuscRayError(
            f"No run of {out_paths.uri(out_paths.root)} knows an image of {table}: its {len(rows):,} rows name "
            f"{named(unknown)}; give the OUT whose report it comes from."
        )
    return Imported(len(rows), add_verdicts(out_paths, verdicts), tuple(dict.fromkeys(unknown)))


def named(images: Sequence[str]) -> str:
    """Name images, the first few of many, and count the others."""
    found = list(dict.fromkeys(images))
    further = f" and {len(found) - MAX_NAMED:,} more" if len(found) > MAX_NAMED else ""
    return f"{', '.join(found[:MAX_NAMED])}{further}"


def _find_images(out_paths: OutPaths, ids: Collection[str], uris: Collection[str]) -> list[_Image]:
    """Find images by id or URI: of each what the latest run says that lists it, or else has a score of it.

    Raises:
        MuscRayError: there is no complete run.
    """
    wanted_ids, wanted_uris = set(ids) - {""}, set(uris)
    found: dict[str, _Image] = {}
    for table in _tables(out_paths):
        wanted = pc.or_(
            pc.is_in(table["image_id"], pa.array(sorted(wanted_ids), pa.string())),
            pc.is_in(table["uri"], pa.array(sorted(wanted_uris), pa.string())),
        )
        for row in table.filter(wanted).to_pylist():
            found.setdefault(row["image_id"], _Image(**row))
            wanted_ids.discard(row["image_id"])
            wanted_uris.discard(row["uri"])
        if not (wanted_ids or wanted_uris):
            break
    return list(found.values())


def _tables(out_paths: OutPaths) -> Iterator[pa.Table]:
    """Yield the images of complete runs, the latest first: first the catalogs, then the scores.

    Raises:
        MuscRayError: there is no complete run.
    """
    complete_run(out_paths, None)
    runs = [out_paths.run(run.run_id) for run in reversed(complete_runs(out_paths))]
    for run_paths in runs:
        if exists(out_paths.fs, run_paths.catalog):
            yield read_table(out_paths.fs, run_paths.catalog, NAMES)
    for run_paths in runs:
        tables = read_tables(out_paths.fs, run_paths.all_parts(run_paths.scores), NAMES)
        if tables:
            yield pa.concat_tables(tables)
