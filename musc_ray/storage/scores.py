"""Read the scores of a run, group by group."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from musc_ray.storage.parquet import read_table
from musc_ray.storage.schemas import SIZE_AND_PEAK

MAX_READS = 16


def read_tables(fs: fsspec.AbstractFileSystem, paths: Sequence[str], columns: Sequence[str]) -> list[pa.Table]:
    """Read some columns of many small files, several at a time, since each waits for the storage."""
    with ThreadPoolExecutor(MAX_READS) as threads:
        return list(threads.map(lambda path: read_table(fs, path, columns), paths))


def read_scores(fs: fsspec.AbstractFileSystem, paths: Sequence[str], columns: Sequence[str]) -> pa.Table:
    """Read some columns of a group's files of scores (`RunPaths.parts_of`) as one table."""
    return pa.concat_tables(read_tables(fs, paths, columns))


def with_size_and_peak(table: pa.Table) -> pa.Table:
    """Append those of the columns SIZE_AND_PEAK that the scores of an older run lack, all null."""
    for field in SIZE_AND_PEAK:
        if field.name not in table.column_names:
            table = table.append_column(field, pa.nulls(len(table), field.type))
    return table


def numbers(table: pa.Table, column: str) -> npt.NDArray[Any]:
    """Return a column of numbers without nulls (N,), read-only where it is one chunk.

    Not by `to_numpy`, which imports pandas where that is installed: most of the time of a command that shows a run.
    """
    return np.from_dlpack(table[column].combine_chunks())


def flags(values: npt.NDArray[np.bool_]) -> pa.BooleanArray:
    """Return flags (N,) as an array of a table; not by `pa.array`, which imports pandas, too."""
    packed = np.packbits(values, bitorder="little")
    return pa.Array.from_buffers(pa.bool_(), len(values), [None, pa.py_buffer(packed)])


def map_scale(fs: fsspec.AbstractFileSystem, paths: Sequence[str], largest: float) -> tuple[float, float]:
    """Return the one scale of a group's heat maps, whichever of them are shown.

    Args:
        fs: where the files are.
        paths: the group's files of scores.
        largest: its largest `score_raw`.

    Returns:
        Patch scores: the normal level, which is the median of one shard (a random sample of images), and `largest`.
    """
    maps = read_table(fs, paths[0], ["patch_map"])["patch_map"]
    low = float(np.nanmedian(pc.list_flatten(maps).to_numpy()))  # NaN: patches that are not scored
    return low, max(low, largest)
