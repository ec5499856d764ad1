"""All kinds of sources: recognise a SOURCE and list its images."""

from collections.abc import Iterator
from contextlib import contextmanager

from musc_ray.errors import MuscRayError, SettingsError, reason_of
from musc_ray.settings.columns import parse_columns
from musc_ray.sources.base import Source
from musc_ray.sources.dataset import DatasetSource
from musc_ray.sources.files import FilesSource
from musc_ray.sources.iceberg import IcebergSource
from musc_ray.sources.images import Entry
from musc_ray.sources.table import TableSource

SOURCES: tuple[type[Source], ...] = (IcebergSource, DatasetSource, TableSource, FilesSource)
"""In the order of recognition; the last kind recognises everything."""


def open_source(text: str, column: str | None = None, grouped: bool = True) -> Source:
    """Return a SOURCE as the first kind that recognises it; nothing is read.

    Args:
        text: the SOURCE.
        column: names of the columns of its tables, see `parse_columns`.
        grouped: False if no column of groups is read.

    Raises:
        SettingsError: `column` is not such names.
    """
    try:
        columns = parse_columns(column)._replace(grouped=grouped)
    except ValueError as error:
        raise SettingsError(str(error)) from error
    return next(kind(text, columns) for kind in SOURCES if kind.recognises(text))


def list_source(source: Source) -> Iterator[Entry]:
    """List everything in a source; whatever fails becomes one sentence.

    Raises:
        MuscRayError: there is no such source, or it cannot be listed, or not to its end.
    """
    with _one_sentence(source):
        yield from source.entries()


def may_hold_images(source: Source) -> bool:
    """Return False where a quick look shows that a source has nothing to list; whatever fails becomes one sentence.

    Raises:
        MuscRayError: there is no such source, or it cannot be looked at.
    """
    with _one_sentence(source):
        return source.may_hold_images()


@contextmanager
def _one_sentence(source: Source) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise MuscRayError(
            f"There is nothing at {source.text}: give an existing folder, URI, glob or table."
        ) from error
    except MuscRayError:
        raise
    except Exception as error:  # drivers of object stores raise errors of many libraries
        raise MuscRayError(f"Cannot list {source.text}: {reason_of(error)}.") from error
