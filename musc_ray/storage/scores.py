"""The scores of a run, read group by group."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from musc_ray.storage.parquet import read_table
from musc_ray.storage.paths import RunPaths

READS_AT_ONCE = 16


def read_tables(fs: fsspec.AbstractFileSystem, paths: Sequence[str], columns: Sequence[str]) -> list[pa.Table]:
    """Some columns of many small files, several read at a time: they wait for the storage."""
    with ThreadPoolExecutor(READS_AT_ONCE) as threads:
        return list(threads.map(lambda path: read_table(fs, path, columns), paths))


def read_scores(run_paths: RunPaths, group: str, columns: Sequence[str]) -> pa.Table:
    """Some columns of a group's scores, all its images."""
    return pa.concat_tables(read_tables(run_paths.fs, run_paths.parts(run_paths.scores, group), columns))


def map_scale(run_paths: RunPaths, group: str, largest: float) -> tuple[float, float]:
    """One scale for a group's heat maps, whichever of them are shown.

    Args:
        layout: where the run lies.
        run_id: the run.
        group: the group.
        largest: its largest `score_raw`.

    Returns:
        Patch scores: the normal level, which is the median of one shard (a random sample of images), and `largest`.
    """
    maps = read_table(run_paths.fs, run_paths.parts(run_paths.scores, group)[0], ["patch_map"])["patch_map"]
    low = float(np.median(pc.list_flatten(maps).to_numpy()))
    return low, max(low, largest)
