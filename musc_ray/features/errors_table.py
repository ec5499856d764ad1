"""The errors table: what could not be listed, read or scored, and the limit on what cannot be read."""

from collections.abc import Mapping, Sequence

import pyarrow as pa

from musc_ray.errors import MuscRayError
from musc_ray.features.context import RunContext
from musc_ray.settings.limits import MAX_ERROR_FRACTION
from musc_ray.sources.images import Unreadable
from musc_ray.storage.parquet import write_table
from musc_ray.storage.schemas import ERRORS
from musc_ray.storage.shards import ShardImage

ErrorRow = dict[str, str]

MAX_EXAMPLES = 5
"""Files that the error of a failed run names."""

SMALL_ARCHIVE, SMALL_ARCHIVE_ERRORS = 200, 10
"""Below this number of images as many errors pass at the default fraction: two bad files of 30 are more than 5 %."""


def listing_errors(unreadable: Sequence[Unreadable]) -> list[ErrorRow]:
    """Convert what a source could not list as an image to rows of the errors table."""
    return [
        {"uri": entry.uri, "group": entry.group, "stage": "catalog", "error": entry.error, "message": entry.message}
        for entry in unreadable
    ]


def error_rows(failed: Sequence[tuple[str, ShardImage]]) -> list[ErrorRow]:
    """Convert images that could not be extracted, with their groups, to rows of the errors table."""
    return [
        {"uri": i.uri, "group": name, "stage": "extract", "error": i.error or "", "message": i.message or ""}
        for name, i in failed
    ]


def group_errors(context: RunContext, failed: Mapping[str, str], errors: Sequence[ErrorRow]) -> list[ErrorRow]:
    """Return rows for the readable images of groups that failed, so that these images are not lost from sight.

    Args:
        context: the run.
        failed: why groups have no scores, by name.
        errors: rows so far.
    """
    broken = {(error["group"], error["uri"]) for error in errors}
    earlier, good = context.earlier or {}, context.roles.known_good
    return [
        {"uri": image.uri, "group": name, "stage": "score", "error": "GroupError", "message": message}
        for name, message in failed.items()
        for images in context.groups[name].all.values()
        for image in images
        if (name, image.uri) not in broken and image.image_id not in {*earlier.get(name, ()), *good.get(name, ())}
    ]


def write_errors(context: RunContext, errors: Sequence[ErrorRow]) -> None:
    """Write the errors table."""
    paths = context.run_paths
    write_table(paths.fs, f"{paths.errors}/part-00000.parquet", pa.Table.from_pylist(list(errors), schema=ERRORS))


def check_errors(context: RunContext, errors: Sequence[ErrorRow], where: str | None = None) -> None:
    """Fail if more cannot be read than `max_error_fraction` allows.

    Args:
        context: the run.
        errors: rows of the errors table.
        where: says where all are listed; default: in the errors table.

    Raises:
        MuscRayError: names their number, the first five with their reasons, and where all are listed.
    """
    fraction = context.settings.max_error_fraction
    images = sum(group.images for group in context.groups.values()) + len(context.catalog.unreadable)
    allowed = images * fraction
    if fraction == MAX_ERROR_FRACTION and images < SMALL_ARCHIVE:
        allowed = max(allowed, SMALL_ARCHIVE_ERRORS)
    if len(errors) <= allowed:
        return
    first = "".join(f"\n  {error['uri']}: {error['message']}" for error in errors[:MAX_EXAMPLES])
    where = where or f"All are listed in {context.run_paths.uri(context.run_paths.errors)}."
    raise MuscRayError(
        f"{len(errors):,} of {images:,} images cannot be read, more than max_error_fraction "
        f"{fraction:g} allows: repair or remove them, or raise it with "
        f"--max-error-fraction. {where} The first are:{first}"
    )
