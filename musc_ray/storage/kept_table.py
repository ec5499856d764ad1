"""Which patches of a shard's images a run keeps, and which places of a group it uses; in the run's folder of work."""

from collections.abc import Mapping

import fsspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from musc_ray.storage.listing import exists
from musc_ray.storage.parquet import read_table, write_table
from musc_ray.storage.paths import RunPaths, escape_group

Flags = npt.NDArray[np.bool_]

KEPT = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("whole", pa.binary(), nullable=False),
        pa.field("crops", pa.binary(), nullable=False),
    ]
)
"""Flags of the patches of the whole image, and of all its crops one after the other; a byte each."""

KeptFlags = tuple[Flags, Flags]
"""Patches of the whole image (L,), and of its crops (P * L,)."""


def kept_path(run_paths: RunPaths, group: str, shard: int) -> str:
    """Return the table of a shard."""
    return f"{run_paths.work}/kept/group={escape_group(group)}/shard-{shard:05d}.parquet"


def used_path(run_paths: RunPaths, group: str) -> str:
    """Return the table of the places that any image of a group keeps; written last."""
    return f"{run_paths.work}/kept/group={escape_group(group)}/used.parquet"


def write_kept(fs: fsspec.AbstractFileSystem, path: str, kept: Mapping[str, KeptFlags]) -> None:
    """Write flags by image id."""
    whole, crops = ([flags[side].tobytes() for flags in kept.values()] for side in (0, 1))
    write_table(fs, path, pa.table([list(kept), whole, crops], schema=KEPT))


def read_kept(fs: fsspec.AbstractFileSystem, path: str) -> dict[str, KeptFlags] | None:
    """Read flags by image id; None where the table is missing."""
    if not exists(fs, path):
        return None
    table = read_table(fs, path)
    sides = ([np.frombuffer(value, np.bool_) for value in table[name].to_pylist()] for name in ("whole", "crops"))
    return dict(zip(table["image_id"].to_pylist(), zip(*sides, strict=True), strict=True))
