"""Rows of CSV files as people write them: other delimiters, byte order marks, spaces, blank lines, quoted newlines."""

import codecs
import csv
import io
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from itertools import chain
from typing import BinaryIO, cast

import fsspec

from musc_ray.errors import MuscRayError, reason_of

DELIMITERS = ",;\t|"
"""Of equally frequent ones the first is taken."""

ONE_COLUMN = "\x1f"
"""Delimiter of a table with one column: commas are part of its values."""

UTF_16 = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}

EXCEL_HINT = re.compile(rf'"?sep=([{DELIMITERS}])"?\s*', re.IGNORECASE)
"""First line of files that some programs write for Excel."""

MAX_LINE = 1_000_000
"""Characters of a line; what has longer ones is no table of paths, and would be read into memory whole."""

NAMES = ("uri", "group", "version", "label", "mask")

CsvRow = tuple[int, dict[str, str] | str]
"""The number of a row's first line, from 1, and its values by column name, or one sentence why it has none."""


def read_csv_rows(fs: fsspec.AbstractFileSystem, path: str, names: Collection[str] = NAMES) -> Iterator[CsvRow]:
    """Read the rows of a CSV file.

    The delimiter (comma, semicolon, tab or bar) is found from the header. Names and values lose the spaces around
    them. Lines without any value are ignored. A row whose values do not fit the header is a sentence: which value is
    missing cannot be known.

    Args:
        fs, path: of a file in UTF-8, or in UTF-16 with a byte order mark.
        names: the columns that the caller needs; the file may write them in capitals.

    Yields:
        For each row the number of its first line, and its values by column name, or what is wrong with it.

    Raises:
        MuscRayError: the file is not such a table, or its header names a column twice.
    """
    with fs.open(path, "rb") as file:
        lines = _Lines(cast(BinaryIO, file), path)
        header: list[str] | None = None
        for number, values in _records(lines, names):
            if header is None:
                header = _column_names(values, names, path)
            elif any(values) or (len(values) == 1 and '"' in lines.last):  # "" alone: an empty value of one column
                yield number, _by_name(header, values, number)
        if header is None:
            raise MuscRayError(f"The table {path} is empty: write the names of the columns into its first line.")


class _Lines(Iterator[str]):
    """The lines of a text file, with their ends.

    Attributes:
        last, number: the line that was read last, and its number from 1.
    """

    def __init__(self, file: BinaryIO, path: str) -> None:
        start = file.read(2)
        file.seek(0)
        self._encoding = UTF_16.get(start, "utf-8")
        errors = "surrogateescape" if self._encoding == "utf-8" else "strict"
        self._lines = io.TextIOWrapper(file, self._encoding, errors, newline="")
        self._path = path
        self.last, self.number = "", 0

    def __next__(self) -> str:
        try:
            line = self._lines.readline(MAX_LINE + 1)
        except UnicodeDecodeError as error:
            raise self._refused(self.number + 1, "is not UTF-16", "save it as 'CSV UTF-8'") from error
        if not line:
            raise StopIteration
        if self.number == 0:
            line = line.removeprefix("\ufeff")
        self.last, self.number = line, self.number + 1
        if len(line) > MAX_LINE:
            raise self._refused(self.number, f"is longer than {MAX_LINE:,} characters", "give a CSV file of paths")
        if "\0" in line:
            raise self._refused(self.number, "has a NUL character", "save it as 'CSV UTF-8'")
        if not (line.isascii() or _is_text(line)):
            raise self._refused(self.number, "is not UTF-8", "save it as 'CSV UTF-8'")
        return line

    def refused(self, number: int, error: csv.Error) -> MuscRayError:
        """Say why the record that begins in a line cannot be parsed."""
        reason = reason_of(error)
        if "unexpected end of data" in reason:
            return self._refused(number, "opens a quotation mark that is not closed", "close it, or double it")
        if "field limit" in reason:
            what = f"begins a value of more than {csv.field_size_limit():,} characters"
            return self._refused(number, what, "look for a quotation mark that is not closed")
        return self._refused(number, f"is not CSV ({reason})", "double the quotation marks inside quoted values")

    def _refused(self, number: int, what: str, way_out: str) -> MuscRayError:
        return MuscRayError(f"Line {number} of the table {self._path} {what}: {way_out}.")


def _is_text(line: str) -> bool:
    """Return whether all bytes of a line were UTF-8."""
    try:
        line.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _records(lines: _Lines, names: Collection[str]) -> Iterator[tuple[int, list[str]]]:
    """Read the header and all rows: the number of the first line, and the values without the spaces around them."""
    first = next((line for line in lines if line.strip()), None)
    if first is None:
        return
    hint = EXCEL_HINT.fullmatch(first)
    delimiter = hint[1] if hint else _delimiter(first, names)
    sign, blank = re.escape(delimiter), " " if delimiter == "\t" else " \t"
    spaces = re.compile(rf'(?<!")"[{blank}]+(?=[{sign}\r\n]|$)')  # after a quoted value
    cleaned = (spaces.sub('"', line) if '"' in line else line for line in chain(() if hint else (first,), lines))
    reader = csv.reader(cleaned, delimiter=delimiter, strict=True, skipinitialspace=True)
    while True:
        number = lines.number + (reader.line_num > 0 or hint is not None)
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise lines.refused(number, error) from error
        if values:
            yield number, [value.strip() for value in values]


def _delimiter(header: str, names: Collection[str]) -> str:
    """Find the delimiter that a header is written with: of those that separate a known name, the most frequent."""
    outside = re.sub(r'"[^"]*"', '""', header)
    counts = Counter(sign for sign in outside if sign in DELIMITERS)
    wanted = {name.casefold() for name in names}
    known = [sign for sign in counts if any(part.strip(' "\r\n\t').casefold() in wanted for part in header.split(sign))]
    return max(known or counts, key=lambda sign: (counts[sign], -DELIMITERS.index(sign)), default=ONE_COLUMN)


def _column_names(header: Sequence[str], names: Collection[str], path: str) -> list[str]:
    """Return the names of the columns, known ones as the caller writes them; empty ones at the end do not count."""
    found = list(header)
    while found and not found[-1]:
        found.pop()
    twice = [name for name, count in Counter(filter(None, found)).items() if count > 1]
    for name in names:
        alike = [given for given in found if given.casefold() == name.casefold()]
        if name not in found and alike:
            twice += alike[1:]
            found[found.index(alike[0])] = name
    if twice:
        raise MuscRayError(f"The table {path} has the column '{twice[0]}' twice: rename one of them.")
    return found


def _by_name(header: Sequence[str], values: list[str], number: int) -> dict[str, str] | str:
    """Return a row's values by column name, or what is wrong with it."""
    count = len(values)
    while count > len(header) and not values[count - 1]:
        count -= 1
    if count != len(header):
        return (
            f"Line {number} has {count} values, but the header {len(header)}: quote values that contain the delimiter."
        )
    return {name: value for name, value in zip(header, values, strict=False) if name}
