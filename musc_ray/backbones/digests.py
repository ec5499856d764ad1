"""The SHA-256 of large files, kept in the user's cache folder, so that not every command reads them whole."""

import hashlib
import logging
import os
import time
from pathlib import Path

from musc_ray.errors import MuscRayError, reason_of
from musc_ray.storage.filesystem import open_filesystem, read_json, write_json

MIN_BYTES = 2**26
"""Smaller files are hashed each time: it takes less than a tenth of a second."""

MIN_AGE_SECONDS = 10.0
"""The digest of a file that changed more recently is not kept: its times might not show another change."""

logger = logging.getLogger(__name__)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes in hexadecimal digits.

    A kept one is taken as long as the file's path, device, inode, size and times of change are those of the file that
    was hashed.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        found = os.fstat(file.fileno())
        identity = _identity(path, found)
        if found.st_size < MIN_BYTES:
            return hashlib.file_digest(file, "sha256").hexdigest()
        entry = cache_folder() / "digests" / f"{hashlib.sha256(identity['path'].encode()).hexdigest()[:24]}.json"
        digest = _kept(entry, identity)
        if digest is None:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            unchanged = _identity(path, os.fstat(file.fileno())) == identity
            if unchanged and time.time() - max(found.st_mtime, found.st_ctime) > MIN_AGE_SECONDS:
                _keep(entry, {**identity, "sha256": digest})
        return digest


def cache_folder() -> Path:
    """Return the folder of what this user's commands keep for later ones; it may be missing."""
    given = os.environ.get("XDG_CACHE_HOME")
    return (Path(given) if given else Path("~/.cache").expanduser()) / "musc-ray"


def _identity(path: Path, found: os.stat_result) -> dict[str, str]:
    """Return what changes when a file does."""
    numbers = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    return {"path": str(path.resolve()), "version": "-".join(map(str, numbers))}


def _kept(entry: Path, identity: dict[str, str]) -> str | None:
    """Return the digest that is kept for a file of this identity; None if it is missing."""
    try:
        kept = read_json(*open_filesystem(str(entry)))
    except (OSError, MuscRayError) as error:
        logger.info("A kept digest cannot be read: %s.", reason_of(error))
        return None
    if kept is None or any(kept.get(key) != value for key, value in identity.items()):
        return None
    return str(kept["sha256"])


def _keep(entry: Path, content: dict[str, str]) -> None:
    try:
        write_json(*open_filesystem(str(entry)), content)
    except OSError as error:  # a home that cannot be written: the next command hashes again
        logger.info("A digest cannot be kept: %s.", reason_of(error))
