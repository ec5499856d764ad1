"""All kinds of sources: recognise a SOURCE and list its images."""

from collections.abc import Iterator

from musc_ray.errors import MuscRayError, reason_of
from musc_ray.sources.base import Source
from musc_ray.sources.dataset import DatasetSource
from musc_ray.sources.files import FilesSource
from musc_ray.sources.iceberg import IcebergSource
from musc_ray.sources.images import Entry
from musc_ray.sources.table import TableSource

SOURCES: tuple[type[Source], ...] = (IcebergSource, DatasetSource, TableSource, FilesSource)
"""In the order of recognition; the last kind recognises everything."""


def open_source(text: str) -> Source:
    """Return a SOURCE as the first kind that recognises it; nothing is read."""
    return next(kind(text) for kind in SOURCES if kind.recognises(text))


def list_source(source: Source) -> Iterator[Entry]:
    """List everything in a source; whatever fails becomes one sentence.

    Raises:
        MuscRayError: there is no such source, or it cannot be listed, or not to its end.
    """
    try:
        yield from source.entries()
    except FileNotFoundError as error:
        raise MuscRayError(
            f"There is nothing at {source.text}: give an existing folder, URI, glob or table."
        ) from error
    except MuscRayError:
        raise
    except Exception as error:  # drivers of object stores raise errors of many libraries
        raise MuscRayError(f"Cannot list {source.text}: {reason_of(error)}.") from error
