"""The basis of a group's compressed features: what was decided of the group, once, and the directions of each layer.

`_compression.json` is the decision; whoever creates it first has decided for all. The directions have a file of their
own, named by their hash and written before: who only decides need not read them.
"""

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from musc_ray.errors import MuscRayError
from musc_ray.storage.conditional import create
from musc_ray.storage.filesystem import atomic_file, read_json
from musc_ray.storage.layer_columns import layer_column
from musc_ray.storage.listing import exists, names_in
from musc_ray.storage.paths import BASIS, COMPRESSION, OutPaths
from musc_ray.storage.retry import with_retries
from musc_ray.storage.shards import FeaturesMeta

Directions = Mapping[int, npt.NDArray[np.float32]]
"""Directions (C, K) by layer."""

SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Compression:
    """What was decided of a group's features.

    Attributes:
        images: listed images of the group at that time.
        channels: directions that are kept, K; None where the features are left as they are.
        sample: images that the directions were found from.
        energy: share of the sample's energy that they keep, by layer in the order of the layers.
        sha256: of the directions.
    """

    images: int
    channels: int | None = None
    sample: int = 0
    energy: tuple[float, ...] = ()
    sha256: str | None = None

    @property
    def outside(self) -> float:
        """Share of the sample's energy that the directions do not keep, mean over layers."""
        return 1 - sum(self.energy) / len(self.energy) if self.energy else 0.0


def compressed_meta(meta: FeaturesMeta, compression: Compression | None, dtype: str) -> FeaturesMeta:
    """Return what the shards of a group have in common.

    Args:
        meta: what those of all groups have in common.
        compression: what was decided of the group.
        dtype: number format of compressed features.
    """
    if compression is None or compression.channels is None:
        return meta
    return replace(
        meta,
        channels=compression.channels,
        dtype=dtype,
        original_channels=meta.channels,
        basis_sha256=compression.sha256,
    )


def read_compression(out_paths: OutPaths, features_id: str, group: str) -> Compression | None:
    """Read what was decided of a group; None if nothing was.

    Raises:
        MuscRayError: the file is broken.
    """
    path = out_paths.compression(features_id, group)
    content = read_json(out_paths.fs, path)
    return None if content is None else _parsed(content, out_paths.uri(path))


def decide(out_paths: OutPaths, features_id: str, group: str, decision: Compression) -> Compression:
    """Store a decision, unless there is one already; return the one that holds.

    Raises:
        MuscRayError: the stored one is broken.
    """
    path = out_paths.compression(features_id, group)
    if create(out_paths.fs, path, (json.dumps(asdict(decision), indent=2) + "\n").encode()):
        return decision
    return _parsed(read_json(out_paths.fs, path) or {}, out_paths.uri(path))


def forget_decision(out_paths: OutPaths, features_id: str, group: str) -> None:
    """Delete what was decided of a group, with the directions; nothing happens where nothing was."""
    path = out_paths.compression(features_id, group)
    if exists(out_paths.fs, path):
        with_retries(lambda: out_paths.fs.rm_file(path), f"remove {path}")
        for basis in unused_bases(out_paths, out_paths.features(features_id, group)):
            with_retries(partial(out_paths.fs.rm_file, basis), f"remove {basis}")


def unused_bases(out_paths: OutPaths, folder: str) -> list[str]:
    """List the files of directions in a group's folder that its decision does not name.

    Runs leave them that found directions at the same time as another one, which was faster.
    """
    found = [path for path in names_in(out_paths.fs, folder) if PurePosixPath(path).name.startswith(BASIS)]
    decided = (read_json(out_paths.fs, f"{folder}/{COMPRESSION}") or {}).get("sha256") if found else None
    return [path for path in found if not PurePosixPath(path).stem.endswith(str(decided)[:16])]


def write_directions(out_paths: OutPaths, features_id: str, group: str, directions: Directions) -> str:
    """Write the directions of a group's layers; return their sha256."""
    arrays = {layer: np.ascontiguousarray(vectors, "<f4") for layer, vectors in directions.items()}
    sha256 = _digest(arrays)
    path = out_paths.basis(features_id, group, sha256)
    with atomic_file(out_paths.fs, path) as target, target.open("wb") as file, zipfile.ZipFile(file, "w") as archive:
        for layer, vectors in arrays.items():  # what `np.savez` writes, which can refuse to pickle since NumPy 2 alone
            with archive.open(f"{layer_column(layer)}.npy", "w") as member:
                np.save(member, vectors, allow_pickle=False)
    return sha256


def read_directions(
    out_paths: OutPaths, features_id: str, group: str, sha256: str, layers: tuple[int, ...]
) -> Directions:
    """Read the directions of a group's layers.

    Raises:
        MuscRayError: the file is missing, or is not what was written.
    """
    path = out_paths.basis(features_id, group, sha256)
    try:
        content = io.BytesIO(out_paths.fs.cat_file(path))
        if not zipfile.is_zipfile(content):
            raise ValueError("it is not an npz file")
        with np.load(content, allow_pickle=False) as stored:
            found = {layer: stored[layer_column(layer)] for layer in layers}
        if _digest(found) != sha256:
            raise ValueError("its checksum is wrong")
    except FileNotFoundError as error:
        raise _broken(out_paths, features_id, group, "it is missing", sha256) from error
    except (EOFError, LookupError, TypeError, ValueError, zipfile.BadZipFile, zipfile.LargeZipFile) as error:
        raise _broken(out_paths, features_id, group, str(error), sha256) from error
    return found


def _broken(out_paths: OutPaths, features_id: str, group: str, reason: str, sha256: str) -> MuscRayError:
    path, decision = out_paths.basis(features_id, group, sha256), out_paths.compression(features_id, group)
    return MuscRayError(
        f"{out_paths.uri(path)} is not the basis of group '{group}' ({reason}): delete {out_paths.uri(decision)} and "
        f"run again, which finds a new one and extracts the group again."
    )


def _digest(directions: Directions) -> str:
    content = hashlib.sha256()
    for layer, vectors in sorted(directions.items()):
        content.update(f"{layer} {vectors.shape} {vectors.dtype.str}\n".encode())
        content.update(np.ascontiguousarray(vectors).tobytes())
    return content.hexdigest()


def _parsed(content: Mapping[str, Any], path: str) -> Compression:
    try:
        found = Compression(**{**content, "energy": tuple(map(float, content["energy"]))})
        if (found.channels, found.sha256) != (None, None) and (
            type(found.channels) is not int or found.channels < 1 or not SHA256.fullmatch(str(found.sha256))
        ):
            raise ValueError(f"channels {found.channels}, sha256 {found.sha256}")
    except (LookupError, TypeError, ValueError) as error:
        raise MuscRayError(
            f"{path} does not say how features are compressed ({error}): delete it and run again."
        ) from error
    return found
