"""Reads that are refused before they take more memory than the settings allow."""

import fsspec

from musc_ray.errors import ImageError


def read_at_most(fs: fsspec.AbstractFileSystem, path: str, max_bytes: int) -> bytes:
    """Read a file's content; never more than `max_bytes` of it into memory.

    Raises:
        ImageError: it is larger than `max_bytes`.
    """
    with fs.open(path, "rb") as file:
        size = getattr(file, "size", None)  # some web servers do not tell
        most = max_bytes if size is None else size  # a local file's `read` takes memory for all that is asked for
        content = b"" if most > max_bytes else bytes(file.read(most + 1))
    if max(size or 0, len(content)) > max_bytes:
        raise too_large("The file", size, max_bytes)
    return content


def too_large(what: str, size: int | None, max_bytes: int) -> ImageError:
    """Return the error of a file, or a part of one, that is larger than `max_bytes`; `size` None if unknown."""
    has = f"has {size / 2**20:,.0f} MiB, more" if size is not None else "is larger"
    return ImageError(f"{what} {has} than max_image_mb {max_bytes // 2**20}.")
