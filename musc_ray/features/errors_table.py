"""The errors table: images that could not be read or extracted, and the limit on their number."""

from collections.abc import Mapping, Sequence

import pyarrow as pa

from musc_ray.errors import MuscRayError
from musc_ray.features.context import RunContext
from musc_ray.storage.parquet import write_table
from musc_ray.storage.schemas import ERRORS
from musc_ray.storage.shards import ShardImage


def error_rows(failed: Sequence[tuple[str, ShardImage]]) -> list[dict[str, str]]:
    """Convert images that could not be extracted, with their groups, to rows of the errors table."""
    return [
        {"uri": i.uri, "group": name, "stage": "extract", "error": i.error or "", "message": i.message or ""}
        for name, i in failed
    ]


def write_errors(context: RunContext, errors: Sequence[Mapping[str, str]]) -> None:
    """Write the errors table.

    Raises:
        MuscRayError: too many images failed; see `check_errors`.
    """
    paths = context.run_paths
    write_table(paths.fs, f"{paths.errors}/part-00000.parquet", pa.Table.from_pylist(list(errors), schema=ERRORS))
    check_errors(context, errors, f"All are listed in {paths.uri(paths.errors)}")


def check_errors(context: RunContext, errors: Sequence[Mapping[str, str]], where: str) -> None:
    """Fail if more images are broken than `max_error_fraction` allows.

    Raises:
        MuscRayError: names their number, the first, and where all are listed.
    """
    allowed, images = context.settings.max_error_fraction, sum(group.images for group in context.groups.values())
    if len(errors) > allowed * images:
        raise MuscRayError(
            f"{len(errors)} of {images} images cannot be read, more than max_error_fraction {allowed} allows; "
            f"the first is {errors[0]['uri']}: {errors[0]['message']} {where}; repair or remove these images, or raise "
            f"max_error_fraction."
        )
