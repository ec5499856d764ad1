"""Rows of CSV files: what each way of writing them means, and which are refused."""

import csv
import io

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from musc_ray.errors import MuscRayError
from musc_ray.sources.csv_rows import read_csv_rows

A, B = {"uri": "a.png", "group": "x"}, {"uri": "b.png", "group": "y"}


def rows_of(content: str | bytes, **options):
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/t/list.csv", content if isinstance(content, bytes) else content.encode())
    return list(read_csv_rows(memory, "/t/list.csv", **options))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("uri,group\na.png,x\nb.png,y\n", [(2, A), (3, B)]),
        ("uri,group\na.png,x\nb.png,y", [(2, A), (3, B)]),
        ("\ufeffuri;group\r\na.png;x\r\nb.png;y\r\n", [(2, A), (3, B)]),
        ("uri\tgroup\na.png\tx\n", [(2, A)]),
        ("uri|group\na.png|x\n", [(2, A)]),
        ("uri,group\ra.png,x\rb.png,y\r", [(2, A), (3, B)]),
        ("\n\nuri,group\n\n  \na.png,x\n;\n,\n\n", [(6, A), (7, "1 values")]),
        (" uri , group\n a.png ,\tx \n", [(2, A)]),
        ('"uri" ; "group"\n "a.png" ; "x" \n', [(2, A)]),
        ("sep=;\nuri;group\na.png;x\n", [(3, A)]),
        ("URI,Group\na.png,x\n", [(2, A)]),
        (",uri,group\n0,a.png,x\n", [(2, A)]),
        ("uri;group;\na.png;x;\nb.png;y\n", [(2, A), (3, B)]),
        ("uri,group\na.png,x,,\n", [(2, A)]),
        ('uri,group\n"a.png",x\n"b\r\nb.png",y\nb.png,y\n', [(2, A), (3, {"uri": "b\r\nb.png", "group": "y"}), (5, B)]),
        ('uri,group\n"a ""1"".png",5" disk\n', [(2, {"uri": 'a "1".png', "group": '5" disk'})]),
        ("uri\na, b;c.png\n", [(2, {"uri": "a, b;c.png"})]),
        ('uri\n"a, b.png"\n""\n\n', [(2, {"uri": "a, b.png"}), (3, {"uri": ""})]),
        ("uri;size, mm;shift, day\na.png;3,5;7\n", [(2, {"uri": "a.png", "size, mm": "3,5", "shift, day": "7"})]),
        ("uri,group\na.png,\n,x\n", [(2, {"uri": "a.png", "group": ""}), (3, {"uri": "", "group": "x"})]),
        ("uri,group\na.png,001\nb.png,NaN\n", [(2, A | {"group": "001"}), (3, B | {"group": "NaN"})]),
        ("uri,group\n", []),
        ("uri,grüße\na.png,ä\n", [(2, {"uri": "a.png", "grüße": "ä"})]),
    ],
)
def test_values_by_name_and_line(content, expected):
    found = rows_of(content)
    assert [line for line, _ in found] == [line for line, _ in expected]
    for (_, values), (_, wanted) in zip(found, expected, strict=True):
        assert wanted in values if isinstance(wanted, str) else values == wanted


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_names_the_encoding(encoding):
    assert rows_of("uri\tgroup\nä.png\tx\n".encode(encoding)) == [(2, {"uri": "ä.png", "group": "x"})]


def test_rows_that_do_not_fit_the_header_are_sentences_and_not_shifted():
    found = rows_of("uri,note,group\na.png,x\nb,1.png,n,y\nb.png,n,y\n")
    assert found[0] == (2, "Line 2 has 2 values, but the header 3: quote values that contain the delimiter.")
    assert "Line 3 has 4 values" in found[1][1]
    assert found[2] == (4, {"uri": "b.png", "note": "n", "group": "y"})


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "list.csv is empty"),
        (" \n\n", "list.csv is empty"),
        ("uri,uri\na,b\n", "the column 'uri' twice"),
        ("URI,Uri\na,b\n", "the column 'Uri' twice"),
        ("uri,note,note \na,b,c\n", "the column 'note' twice"),
        ("uri,group\na.png,x\nb\xe4.png,y\n".encode("latin-1"), "Line 3 .*is not UTF-8: save it as 'CSV UTF-8'"),
        ("uri\na.png\0\n", "Line 2 .*NUL"),
        ("uri\na.png\n".encode("utf-16-le"), "Line 1 .*NUL"),
        (b"\xff\xfeu\x00\x00\xdc\n\x00", "Line 1 .*UTF-16"),
        ('uri,group\na.png,x\n"b.png,y\nc.png,z\n', "Line 3 .*quotation mark that is not closed"),
        ('uri,group\n"a.png"x,y\n', "Line 2 .*quot"),
        (f"uri\n{'a' * 200_000}\n", "Line 2 .*more than 131,072 characters"),
        (b"\x01" * 1_000_001, "Line 1 .*longer than 1,000,000"),
    ],
)
def test_what_is_not_a_table_is_one_sentence_with_the_line_and_the_way_out(content, sentence):
    with pytest.raises(MuscRayError, match=sentence) as error:
        rows_of(content)
    assert "\n" not in str(error.value)
    assert ": " in str(error.value)


def test_names_that_the_caller_needs_decide_the_delimiter_and_may_be_capitals():
    content = "a;b,c,d\tPfad\nx\ty.png\n"
    for name in ("pfad", "Pfad", "PFAD"):
        assert rows_of(content, names=(name,)) == [(2, {"a;b,c,d": "x", name: "y.png"})]


VALUES = st.text(st.sampled_from("ab,;|\t\"\r\n ='ü"), max_size=6)


@settings(max_examples=200, deadline=None)
@given(
    rows=st.lists(st.tuples(VALUES, VALUES, VALUES), max_size=6),
    delimiter=st.sampled_from(",;\t|"),
    ends=st.sampled_from(["\n", "\r\n", "\r"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
def test_what_the_csv_module_writes_is_read_back(rows, delimiter, ends, encoding, quoting):
    if quoting != csv.QUOTE_ALL:  # it quotes only the newlines that it writes itself
        rows = [tuple(value.replace("\r", "").replace("\n", "") for value in row) for row in rows]
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, lineterminator=ends, quoting=quoting)
    writer.writerows([("uri", "group", "note"), *rows])
    found = rows_of(text.getvalue().encode(encoding))
    expected = [tuple(value.strip() for value in row) for row in rows]
    assert [tuple(values.values()) for _, values in found] == [row for row in expected if any(row)]
