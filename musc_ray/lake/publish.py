"""Publish complete runs to Iceberg tables: choose the runs and open the catalog.

Publishing follows run.json: what a crash leaves out, the next command that finds the complete run publishes.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa

from musc_ray.errors import MuscRayError, SettingsError, reason_of
from musc_ray.settings.lake import Lake
from musc_ray.storage.complete_runs import complete_run, complete_runs
from musc_ray.storage.filesystem import is_local
from musc_ray.storage.manifest import RunManifest
from musc_ray.storage.parquet import read_table
from musc_ray.storage.paths import OutPaths, RunPaths
from musc_ray.storage.scores import with_size_and_peak

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog

logger = logging.getLogger(__name__)


def check_lake(out_paths: OutPaths, lake: Lake | None) -> None:
    """Open the catalog, so that a job whose scores cannot be published fails before its work.

    Raises:
        SettingsError: no such catalog, or the extra is not installed.
        MuscRayError: the catalog does not answer.
    """
    if lake is not None:
        _open(out_paths, lake)


def publish_complete(out_paths: OutPaths, lake: Lake | None, run_id: str) -> None:
    """Publish a run, after earlier runs of its OUT that are meant for the same table and missing there.

    Raises:
        MuscRayError: publishing failed; the run stays complete.
    """
    if lake is not None:
        runs = [
            run
            for run in complete_runs(out_paths)
            if run.run_id == run_id or _without_maps(run.settings.lake) == _without_maps(lake)
        ]
        publish_runs(out_paths, lake, runs)


def _without_maps(lake: Lake | None) -> Lake | None:
    """Return the lake regardless of whether patch maps are published."""
    return lake and lake.model_copy(update={"maps": True})


def publish_again(out: str, lake: Lake | None, run_id: str | None) -> tuple[list[str], list[str]]:
    """Publish all complete runs of an OUT, or one; default lake: that of the run that was scored last.

    Returns:
        The runs that were published, and those that the tables held already.

    Raises:
        SettingsError: no lake is given, and that run has none.
    """
    out_paths = OutPaths.at(out)
    last = complete_run(out_paths, run_id)
    runs = complete_runs(out_paths) if run_id is None else [last]
    lake = lake or last.settings.lake
    if lake is None:
        raise SettingsError("Setting 'lake' is missing: give its table, as in --set 'lake={table: plant.scores}'.")
    published = publish_runs(out_paths, lake, runs)
    return published, [run.run_id for run in runs if run.run_id not in published]


def publish_runs(out_paths: OutPaths, lake: Lake, runs: Iterable[RunManifest]) -> list[str]:
    """Publish complete runs, the earliest first; return those that the tables did not hold already.

    Raises:
        SettingsError: no such catalog.
        MuscRayError: publishing a run failed.
    """
    catalog = _open(out_paths, lake)
    from musc_ray.lake.run_tables import LakeRun, publish_run

    published = []
    for run in runs:
        if run.thresholds is None:
            logger.warning("Run %s is not published: its thresholds are half written; run it again.", run.run_id)
            continue
        found = LakeRun(run, out_paths.uri(out_paths.root), _scores_of(out_paths.run(run.run_id)), lake.maps)
        try:
            if publish_run(catalog, lake.table, found):
                published.append(run.run_id)
        except MuscRayError:
            raise
        except Exception as error:  # drivers of catalogs and stores raise errors of many libraries
            logger.debug("Publishing failed:", exc_info=True)
            raise MuscRayError(
                f"Run {run.run_id} is complete but not in the table {lake.table}: {reason_of(error)}. "
                f"`musc-ray publish {out_paths.uri(out_paths.root)}` tries again."
            ) from error
    return published


def _scores_of(run_paths: RunPaths) -> Callable[[Sequence[str]], Iterator[pa.Table]]:
    """Return a function that reads some columns of a run's scores, file by file; null where an older run lacks one."""
    paths = run_paths.all_parts(run_paths.scores)
    return lambda columns: (
        with_size_and_peak(read_table(run_paths.fs, path, columns)).select(columns) for path in paths
    )


def _open(out_paths: OutPaths, lake: Lake) -> "Catalog":
    """Open the catalog of a lake; default: a SQLite file in OUT."""
    from musc_ray.lake.catalog import SQLITE, open_catalog

    if lake.catalog is not None:
        return open_catalog(lake.catalog, lake.warehouse)
    if not is_local(out_paths.fs):
        raise SettingsError(
            "Setting 'lake' needs a catalog where OUT is not a local folder, for example "
            "{catalog: https://host/iceberg, table: plant.scores}."
        )
    return open_catalog(f"{SQLITE}{out_paths.lake}/catalog.db", lake.warehouse)
