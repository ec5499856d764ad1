"""Whether the files that a run writes would be listed as images of its own source."""

import posixpath
from pathlib import PurePosixPath

from musc_ray.sources.registry import open_source
from musc_ray.sources.walk import GLOB_SIGNS

SAME_STORES = {"s3a": "s3", "gcs": "gs", "abfs": "az", "local": "file"}
"""Protocols that are another name of the same store."""


def lists_out(source: str, out: str) -> bool:
    """Return whether listing `source` can find what is written to `out`, from their texts alone."""
    walked = open_source(source).walked()
    if walked is None:
        return False
    (source_store, pattern), (out_store, target) = _location(walked), _location(out)
    wild = [place for place, part in enumerate(pattern.parts) if GLOB_SIGNS.search(part)]
    folder = PurePosixPath(*pattern.parts[: wild[0]]) if wild else pattern
    reaches_below = not wild or "**" in pattern.parts
    return source_store == out_store and (
        folder.is_relative_to(target) or (reaches_below and target.is_relative_to(folder))
    )


def _location(uri: str) -> tuple[str, PurePosixPath]:
    """Return the store and the normal path of a local path or URI; no file system is asked."""
    store, separator, path = uri.partition("://")
    store = SAME_STORES.get(store, store)
    if not separator or store == "file":
        return "file", PurePosixPath(posixpath.abspath(posixpath.expanduser(path if separator else uri)))
    return store, PurePosixPath(posixpath.normpath(f"/{path}"))
