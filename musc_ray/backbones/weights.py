"""Find weights in a local path, an object URI or a model hub, and bring them onto this machine; needs no torch."""

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec

from musc_ray.backbones.digests import sha256_of
from musc_ray.backbones.hub import check_downloadable, download_weights
from musc_ray.backbones.names import BackboneName
from musc_ray.errors import MuscRayError, reason_of
from musc_ray.storage.filesystem import atomic_file, is_local, open_filesystem


@dataclass(frozen=True)
class WeightsFile:
    """A local weights file and the SHA-256 of its bytes."""

    path: Path
    sha256: str


def fetch_weights(name: BackboneName, weights: str | None, cache_dir: Path | None = None) -> WeightsFile:
    """Fetch weights onto this machine.

    Args:
        name: what the hub is asked for when `weights` is None.
        weights: local path or URI, or None for the library's own download.
        cache_dir: folder of remote files' copies, by URI and version; a temporary folder by default.

    Raises:
        MuscRayError: the file does not exist or cannot be read, or the hub cannot be reached.
    """
    path = download_weights(name) if weights is None else _local_file(weights, cache_dir)
    try:
        return WeightsFile(path, sha256_of(path))
    except OSError as error:
        raise MuscRayError(f"Cannot read the weights at {path}: {error.strerror}; check --weights.") from error


def check_weights(name: BackboneName, weights: str | None) -> None:
    """Check that there are weights to fetch, before work that takes longer; the hub is not asked.

    Args:
        name, weights: as for `fetch_weights`.

    Raises:
        MuscRayError: the file does not exist or cannot be looked at, or the name does not say what to download.
    """
    if weights is None:
        check_downloadable(name)
    else:
        with _named_errors(weights):
            _file_info(weights)


def _local_file(weights: str, cache_dir: Path | None) -> Path:
    """Return a path on this machine for a path or URI."""
    with _named_errors(weights):
        fs, location, info = _file_info(weights)
        return Path(location) if is_local(fs) else _cached_copy(fs, location, info, cache_dir)


def _file_info(weights: str) -> tuple[fsspec.AbstractFileSystem, str, dict[str, Any]]:
    """Return the filesystem and path of a weights file, and what the filesystem says of it."""
    fs, location = open_filesystem(weights)
    info = fs.info(location)
    if info["type"] == "directory":
        raise MuscRayError(f"{weights} is a folder: --weights takes a safetensors or pth file.")
    return fs, location, info


@contextmanager
def _named_errors(weights: str) -> Iterator[None]:
    """Turn whatever a store raises into a sentence that names the weights file."""
    try:
        yield
    except MuscRayError:
        raise
    except FileNotFoundError as error:
        raise MuscRayError(f"There is no weights file at {weights}: check --weights.") from error
    except Exception as error:  # drivers of object stores raise errors of many libraries
        raise MuscRayError(f"Cannot read the weights at {weights}: {reason_of(error)}; check --weights.") from error


def _cached_copy(fs: fsspec.AbstractFileSystem, location: str, info: dict[str, Any], cache_dir: Path | None) -> Path:
    """Return a local copy of a remote file, made once per version."""
    # all that the store says of the file: stores name ETag and time differently, and retraining keeps the size
    version = f"{fs.unstrip_protocol(location)}|{sorted(info.items())!r}"
    folder = cache_dir or Path(tempfile.gettempdir()) / "musc-ray-weights"
    copy = folder / hashlib.sha256(version.encode()).hexdigest()[:24] / Path(location).name
    if not copy.exists():
        with atomic_file(fsspec.filesystem("file"), str(copy)) as partial:
            fs.get_file(location, str(partial))
    return copy
