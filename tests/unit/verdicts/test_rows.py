"""The rows of a verdicts.csv: as the report writes them, as spreadsheets do, and what is refused."""

from datetime import UTC, datetime

import pytest

from musc_ray.errors import MuscRayError
from musc_ray.verdicts.rows import read_rows

NOW = datetime(2026, 3, 6, tzinfo=UTC)
HEADER = "image_id,uri,group,verdict,note,who,when"
ROW = "abc,file:///a.png,cable,good,,Ada,2026-03-05T12:00:00.123Z"
AT = datetime(2026, 3, 5, 12, 0, 0, 123000, tzinfo=UTC)


@pytest.fixture
def rows_of(tmp_path):
    def rows_of(content: str | bytes):
        path = tmp_path / "verdicts.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_rows(str(path), NOW)

    return rows_of


def test_a_row_as_the_report_writes_it(rows_of):
    (row,) = rows_of(f"{HEADER}\r\n{ROW}\r\n")
    assert (row.line, row.image_id, row.uris, row.verdict) == (2, "abc", ("file:///a.png",), "good")
    assert (row.note, row.who, row.when) == ("", "Ada", AT)


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + f"{HEADER}\n{ROW}\n".encode(),
        f"{HEADER}\n{ROW}\n".encode("utf-16"),
        f"{HEADER}\n{ROW}\n".replace(",", ";"),
        f"{HEADER}\n{ROW}\n".replace(",", "\t"),
        f"sep=;\n{HEADER}\n{ROW}\n".replace(",", ";"),
        f"{HEADER.upper()}\n{ROW.replace('good', 'GOOD')}",
        f"{HEADER}\n\n{ROW}\n,,,,,,\n\n",
        f"{HEADER},more\n{ROW},x\n",
        '"' + HEADER.replace(",", '","') + '"\n"' + ROW.replace(",", '","') + '"\n',
        f"{HEADER}\n{ROW.replace('2026-03-05T12:00:00.123Z', '2026-03-05 13:00:00.123+01:00')}\n",
        f"{HEADER}\n{ROW.replace('abc', 'ABC')}\n",
    ],
    ids=["bom", "utf16", "semicolons", "tabs", "sep", "capitals", "blank", "more", "quoted", "offset", "id"],
)
def test_how_spreadsheets_write_it(rows_of, content):
    (row,) = rows_of(content)
    assert (row.image_id, row.uris, row.verdict, row.who, row.when) == ("abc", ("file:///a.png",), "good", "Ada", AT)


def test_notes_may_have_lines_quotes_and_delimiters(rows_of):
    rows = rows_of(
        f'{HEADER}\na,,,good,"two\nlines, ""quoted""; done",,{AT.isoformat()}\nb,,,unsure,,,{AT.isoformat()}'
    )
    assert [row.note for row in rows] == ['two\nlines, "quoted"; done', ""]
    assert [row.line for row in rows] == [2, 4]


@pytest.mark.parametrize(
    ("written", "meant"), [("'=1+1", "=1+1"), ("'@x", "@x"), ("''-y", "'-y"), ("'tis fine", "'tis fine"), ("'", "'")]
)
def test_the_apostrophe_before_a_formula_is_taken_off(rows_of, written, meant):
    (row,) = rows_of(f'{HEADER}\na,,,good,"{written}","{written}",{AT.isoformat()}\n')
    assert (row.note, row.who) == (meant, meant)


@pytest.mark.parametrize(
    ("header", "row"),
    [("image_id,verdict,when", f"abc,good,{AT.isoformat()}"), ("uri,verdict,when", f"a.png,good,{AT.isoformat()}")],
)
def test_few_columns_are_enough(rows_of, header, row):
    (found,) = rows_of(f"{header}\n{row}")
    assert (found.note, found.who) == ("", "")
    assert found.image in ("abc", "a.png")


def test_a_path_is_beside_the_file(rows_of, tmp_path):
    (row,) = rows_of(f"uri,verdict,when\n./pictures/a.png,good,{AT.isoformat()}")
    assert row.uris == ("./pictures/a.png", (tmp_path / "pictures" / "a.png").as_uri())


TIME = "2026-03-05T12:00:00Z"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty: write the names of the columns"),
        ("\n\n", "is empty: write the names of the columns"),
        (HEADER, "has no rows: mark images in the report"),
        (f"{HEADER}\n,,,,,,\n", "has no rows"),
        (f"uri,when\na,{TIME}", "has no column 'verdict': verdicts need image_id or uri, verdict, and when"),
        ("uri,verdict\na,good", "has no column 'when'"),
        (f"verdict,when\ngood,{TIME}", "has no column 'image_id'"),
        (f"just words\nof prose {TIME}", "has no column 'image_id'"),
        (f"{HEADER}\n,,,good,,,{TIME}", "line 2: the row names no image"),
        (f"{HEADER}\na,,,fine,,,{TIME}", "line 2: verdict must be good, defective or unsure, not 'fine'"),
        (f"{HEADER}\na,,,,,,{TIME}", "line 2: verdict must be good, defective or unsure, not ''"),
        (f"{HEADER}\na,,,1,,,{TIME}", "not '1'"),
        (f'{HEADER}\na,,,good,"x\ny",,{TIME}\nb,,,bad,,,{TIME}', "line 4: verdict must be"),
        (f"{HEADER}\na,,,good,,,", "line 2: when is missing: give the time of the verdict"),
        (f"{HEADER}\na,,,good,,,yesterday", "line 2: when must be a time such as .*, not 'yesterday'"),
        (f"{HEADER}\na,,,good,,,05.03.2026 12:00", "not '05.03.2026 12:00'"),
        (f"{HEADER}\na,,,good,,,2026-13-05T12:00:00Z", "when must be a time"),
        (f"{HEADER}\na,,,good,,,0001-01-01T00:00:00+14:00", "when must be a time"),
        (f"{HEADER}\na,,,good,,,2026-03-05T12:00:00", "has no zone: write it such as 2026-11-24T15:51:07Z"),
        (f"{HEADER}\na,,,good,,,2026-03-05", "has no zone"),
        (f"{HEADER}\na,,,good,,,2026-03-08T12:00:00Z", "is in the future"),
        (f"{HEADER}\na,,,good,,{TIME}", "Line 2 has 6 values, but the header 7"),
        (f"{HEADER},uri\na,,,good,,,{TIME},", "has the column 'uri' twice"),
        (f'{HEADER}\na,,,good,"open,,{TIME}', "quotation mark that is not closed"),
        (f"{HEADER}\na,,,good,\udcff,,{TIME}".encode("utf-8", "surrogateescape"), "is not UTF-8"),
        (f"uri,verdict,when\nhttps://me:secret@host/a.png,good,{TIME}", "carries credentials"),
        (f"uri,verdict,when\nC:\\a.png,good,{TIME}", "is a path of Windows"),
        (b"PK\x03\x04\x00\x00", "has a NUL character"),
    ],
)
def test_what_cannot_be_used_is_refused_in_a_sentence(rows_of, content, message):
    with pytest.raises(MuscRayError, match=message) as caught:
        rows_of(content)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")
    assert "secret" not in str(caught.value)


def test_a_clock_may_be_some_hours_ahead(rows_of):
    (row,) = rows_of(f"{HEADER}\na,,,good,,,2026-03-06T20:00:00Z")
    assert row.when > NOW


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(MuscRayError, match=r"There are no verdicts at .*none.csv"):
        read_rows(str(tmp_path / "none.csv"), NOW)
    with pytest.raises(MuscRayError, match="is a folder"):
        read_rows(str(tmp_path), NOW)
