"""Read the rows of a verdicts.csv, as the report downloads it or people write it."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from fsspec import AbstractFileSystem

from musc_ray.errors import MuscRayError
from musc_ray.sources.csv_rows import read_csv_rows
from musc_ray.sources.rows import check_secrets
from musc_ray.storage.filesystem import open_filesystem, uri_beside
from musc_ray.storage.verdicts import VERDICT_WORDS, VerdictWord

COLUMNS = ("image_id", "uri", "group", "verdict", "note", "who", "when")

MAX_AHEAD = timedelta(days=1)
"""How far ahead a clock may be: a verdict that is later would count until then, whatever is said."""

GUARDED = re.compile(r"'+[=+\-@]")
"""How a text begins that the report has put an apostrophe before, so that no spreadsheet takes it for a formula."""


@dataclass(frozen=True, slots=True)
class VerdictRow:
    """A row of the file.

    Attributes:
        line: number of its first line, from 1.
        image_id: empty where the row has only a URI.
        uris: what its URI may be called; empty where the row has only an id.
        verdict, note, who, when: as in `storage.verdicts.Verdict`, but that `who` may be empty.
    """

    line: int
    image_id: str
    uris: tuple[str, ...]
    verdict: VerdictWord
    note: str
    who: str
    when: datetime

    @property
    def image(self) -> str:
        """What the row calls its image."""
        return self.uris[0] if self.uris else self.image_id


def read_rows(table: str, now: datetime) -> list[VerdictRow]:
    """Read all rows of a file.

    Comma, semicolon, tab or bar separate its columns, of which `verdict`, `when`, and `image_id` or `uri` are needed.
    Relative paths are beside the file.

    Args:
        table: path or URI.
        now: the present time.

    Raises:
        MuscRayError: there is no such file, it is empty, lacks a column, or has a row that cannot be used.
    """
    fs, path = open_filesystem(table)
    try:
        rows = list(_rows(fs, path, table, now))
    except FileNotFoundError as error:
        raise MuscRayError(f"There are no verdicts at {table}: give the verdicts.csv of a report.") from error
    except IsADirectoryError as error:
        raise MuscRayError(f"{table} is a folder: give the verdicts.csv in it.") from error
    if not rows:
        raise MuscRayError(f"{table} has no rows: mark images in the report and download them again.")
    return rows


def _rows(fs: AbstractFileSystem, path: str, table: str, now: datetime) -> Iterator[VerdictRow]:
    for line, row in read_csv_rows(fs, path, COLUMNS):
        if isinstance(row, str):
            raise MuscRayError(f"{table}: {row}")
        missing = [name for name in ("verdict", "when") if name not in row]
        if not {"image_id", "uri"} & row.keys():
            missing.insert(0, "image_id")
        if missing:
            raise MuscRayError(
                f"{table} has no column '{missing[0]}': verdicts need image_id or uri, verdict, and when."
            )
        try:
            yield _verdict_row(fs, path, table, line, row, now)
        except ValueError as error:
            raise MuscRayError(f"{table}, line {line}: {error}") from error


def _verdict_row(
    fs: AbstractFileSystem, path: str, table: str, line: int, row: Mapping[str, str], now: datetime
) -> VerdictRow:
    """Check and convert the values of a row.

    Raises:
        ValueError: says what is wrong with a value.
        MuscRayError: the URI carries credentials or means nothing.
    """
    image_id, uri = row.get("image_id", "").lower(), row.get("uri", "")
    if not (image_id or uri):
        raise ValueError("the row names no image: give its image_id or its uri.")
    check_secrets(table, uri)
    word = row["verdict"].lower()
    known = next((known for known in VERDICT_WORDS if known == word), None)
    if known is None:
        raise ValueError(f"verdict must be {', '.join(VERDICT_WORDS[:-1])} or {VERDICT_WORDS[-1]}, not '{word}'.")
    uris = [uri] if uri else []
    if uri and not image_id:
        uris.append(uri_beside(fs, path, uri))
    note, who = (_unguarded(row.get(name, "")) for name in ("note", "who"))
    return VerdictRow(line, image_id, tuple(dict.fromkeys(uris)), known, note, who, _time(row["when"], now))


def _time(text: str, now: datetime) -> datetime:
    """Return a time in UTC.

    Raises:
        ValueError: it is not one, has no zone, or is in the future.
    """
    example = "such as 2026-11-24T15:51:07Z"
    if not text:
        raise ValueError(f"when is missing: give the time of the verdict, {example}.")
    try:
        when = datetime.fromisoformat(text)
        in_utc = when.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError(f"when must be a time {example}, not '{text}'.") from None
    if when.tzinfo is None:
        raise ValueError(f"when '{text}' has no zone: write it {example}, where Z is UTC, or with an offset, +01:00.")
    if in_utc > now + MAX_AHEAD:
        raise ValueError(f"when '{text}' is in the future: it would count until then, so correct it.")
    return in_utc


def _unguarded(text: str) -> str:
    """Return a text without the apostrophe that keeps spreadsheets from computing it."""
    return text[1:] if GUARDED.match(text) else text
