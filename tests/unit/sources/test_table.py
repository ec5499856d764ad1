"""Tables that are sources: what each kind of column and each way of writing a path means, and what is an error."""

import datetime
import decimal
import io
from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from musc_ray.errors import MuscRayError, SettingsError
from musc_ray.sources.catalog import Catalog, list_images
from musc_ray.sources.images import ListedImage, Unreadable
from musc_ray.sources.reading import read_image
from musc_ray.sources.registry import open_source

NOT_UTF8 = pa.Array.from_buffers(pa.string(), 2, pa.array([b"\xff.png", b"b.png"], pa.binary()).buffers())


@pytest.fixture(autouse=True)
def _empty_memory():
    yield
    memory = fsspec.filesystem("memory")
    for folder in memory.ls("/", detail=False):
        memory.rm(folder, recursive=True)


def put(uri: str, content: bytes | str | pa.Table) -> str:
    if isinstance(content, pa.Table):
        file = io.BytesIO()
        pq.write_table(content, file)
        content = file.getvalue()
    with fsspec.open(uri, "wb") as opened:
        opened.write(content.encode() if isinstance(content, str) else content)
    return uri


def groups_of(catalog: Catalog) -> dict[str, list[str]]:
    return {group: sorted(image.uri.rpartition("/")[2] for image in images) for group, images in catalog.groups.items()}


# --- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([0, 1]), {"0": ["a.png"], "1": ["b.png"]}),
        (pa.array([0, None]), {"0": ["a.png"], "": None}),
        (pa.array([3.0, float("nan")]), {"3": ["a.png"], "": None}),
        (pa.array([12345678.0, 1e20]), {"12345678": ["a.png"], "100000000000000000000": ["b.png"]}),
        (pa.array([0.5, 0.1], pa.float32()), {"0.5": ["a.png"], "0.1": ["b.png"]}),
        (pa.array([3.0, 4.0], pa.float16()), {"3": ["a.png"], "4": ["b.png"]}),
        (pa.array([7, 255], pa.uint8()), {"7": ["a.png"], "255": ["b.png"]}),
        (pa.array([False, True]), {"false": ["a.png"], "true": ["b.png"]}),
        (pa.array(["001", "01"]), {"001": ["a.png"], "01": ["b.png"]}),
        (pa.array(["001", ""]), {"001": ["a.png"], "": None}),
        (pa.array(["None", " "]), {"None": ["a.png"], "": None}),
        (pa.array(["x", "y"], pa.large_string()), {"x": ["a.png"], "y": ["b.png"]}),
        (pa.array(["x", "y"], pa.string_view()), {"x": ["a.png"], "y": ["b.png"]}),
        (pa.array(["x", None]).dictionary_encode(), {"x": ["a.png"], "": None}),
        (pa.array([7, 8]).dictionary_encode(), {"7": ["a.png"], "8": ["b.png"]}),
        (pa.array([b"x", "ü".encode()]), {"x": ["a.png"], "ü": ["b.png"]}),
        (pa.array([b"x", b"\xff"]), {"x": ["a.png"], "": None}),
        (pa.array([b"xy", b"z\0"], pa.binary(2)), {"xy": ["a.png"], "z": ["b.png"]}),
        (NOT_UTF8, {"b.png": ["b.png"], "": None}),
        (pa.array([datetime.date(2026, 1, 2)] * 2), {"2026-01-02": ["a.png", "b.png"]}),
        (pa.array([decimal.Decimal("3.00"), decimal.Decimal("4.50")]), {"3.00": ["a.png"], "4.50": ["b.png"]}),
        (pa.nulls(2), {"": None}),
    ],
)
def test_groups_keep_their_meaning_and_missing_ones_are_errors(column, expected):
    source = put("memory://t/list.parquet", pa.table({"uri": ["a.png", "b.png"], "group": column}))
    if all(images is None for images in expected.values()):
        with pytest.raises(MuscRayError, match="names no group"):
            list_images(source)
        return
    catalog = list_images(source)
    assert groups_of(catalog) == {group: images for group, images in expected.items() if images is not None}
    listed = sum(len(images or ()) for images in expected.values())
    assert len(catalog.unreadable) == 2 - listed
    for row in catalog.unreadable:
        assert row.group == ""
        assert row.uri.startswith("memory://t/") or row.uri.startswith("memory:///t/")
        assert "group" in row.message


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["a.png", None, ""]),
        pa.array(["a.png", None, " "], pa.large_string()),
        pa.array(["a.png", "", None], pa.string_view()),
        pa.array(["a.png", None, ""]).dictionary_encode(),
        pa.array([b"a.png", None, b"\xff"]),
        pa.array([b"a.png", None, b"\0\0\0\0\0"], pa.binary(5)),
        pa.array([b"a.png", None, b""]).dictionary_encode(),
    ],
)
@pytest.mark.parametrize("folder", ["memory://t/list.parquet", "memory://t"])
def test_rows_without_a_uri_are_errors_with_their_number(column, folder):
    put("memory://t/list.parquet", pa.table({"uri": column, "group": ["x", "y", "y"]}))
    catalog = list_images(folder)
    assert groups_of(catalog) == {"x": ["a.png"]}
    assert [row.uri.rpartition("/")[2] for row in catalog.unreadable] == ["list.parquet#row=1", "list.parquet#row=2"]
    assert {(row.group, row.error) for row in catalog.unreadable} == {("y", "RowError")}
    assert "Row 1 of the table" in catalog.unreadable[0].message


def test_frames_of_pandas_mean_what_they_show():
    frame = pd.DataFrame(
        {
            "uri": pd.Categorical(["a.png", "b.png", np.nan]),
            "group": [0, np.nan, 3],  # of whole numbers with a gap pandas makes floats
            "version": [1, 2, 3],
        }
    )
    catalog = list_images(put("memory://t/list.parquet", pa.Table.from_pandas(frame)))
    assert groups_of(catalog) == {"0": ["a.png"]}
    assert catalog.groups["0"][0].version == "1"
    assert [row.uri.rpartition("/")[2] for row in catalog.unreadable] == ["b.png", "list.parquet#row=2"]


def test_csv_rows_that_cannot_be_images_are_errors_with_their_line():
    source = put(
        "memory://t/list.csv", '\ufeffUri ; Group\r\n a.png ; 001 \r\n\r\n;x\r\nb.png;\r\nc.png;x;9\r\nd.png;"x"'
    )
    catalog = list_images(source)
    assert groups_of(catalog) == {"001": ["a.png"], "x": ["d.png"]}
    found = [(row.uri.rpartition("/")[2], row.message.partition(" of")[0]) for row in catalog.unreadable]
    assert found[0] == ("list.csv#row=1", "Line 4")
    assert found[1] == ("b.png", "Line 5")
    assert found[2][0] == "list.csv#row=3"
    assert "Line 6 has 3 values, but the header 2" in found[2][1]


def test_a_tsv_is_a_table():
    assert groups_of(list_images(put("memory://t/list.TSV", "uri\tgroup\na,b.png\tx\n"))) == {"x": ["a,b.png"]}


def test_group_by_does_not_need_the_column_of_groups():
    source = put("memory://t/list.csv", "uri,group\n./x/a.png,\ny\\b.png,\n")
    catalog = list_images(source, "{group}/**")
    assert groups_of(catalog) == {"x": ["a.png"], "y": ["b.png"]}
    assert not catalog.unreadable


def test_one_image_in_two_groups_and_twice_in_one():
    catalog = list_images(put("memory://t/list.csv", "uri,group\na.png,x\n./a.png,y\nsub/../a.png,x\n"))
    assert groups_of(catalog) == {"x": ["a.png"], "y": ["a.png"]}
    assert [row.reason for row in catalog.skipped] == ["second_name"]


# --- paths ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "given", "expected"),
    [
        ("memory://bucket/lot/list.csv", "a.png", "memory:///bucket/lot/a.png"),
        ("memory://bucket/lot/list.csv", "./a.png", "memory:///bucket/lot/a.png"),
        ("memory://bucket/lot/list.csv", "../b/./a.png", "memory:///bucket/b/a.png"),
        ("memory://bucket/lot/list.csv", "x//a.png", "memory:///bucket/lot/x/a.png"),
        ("memory://bucket/lot/list.csv", "x\\y\\a.png", "memory:///bucket/lot/x/y/a.png"),
        ("memory://bucket/lot/list.csv", "../../../a.png", None),
        ("memory://bucket/lot/list.csv", "C:\\lot\\a.png", None),
        ("memory://bucket/lot/list.csv", "c:/lot/a.png", None),
        ("memory://bucket/lot/list.csv", "\\\\server\\share\\a.png", None),
        ("memory://bucket/lot/list.csv", "s3://other/../a.png", "s3://other/../a.png"),
        ("memory://bucket/lot/list.csv", "file:/data/a.png", "file:///data/a.png"),
    ],
)
def test_paths_start_from_the_folder_of_the_table(table, given, expected):
    put(table, f"uri\n{given}\n")
    (entry,) = open_source(table).entries()
    if expected is None:
        assert isinstance(entry, Unreadable)
        assert entry.uri.endswith("list.csv#row=0")
        assert given[:3] in entry.message or given[0] == "\\"
    else:
        assert isinstance(entry, ListedImage)
        assert entry.uri.replace("memory:///", "memory://") == expected.replace("memory:///", "memory://")


def test_the_same_paths_by_table_and_by_folder_are_the_same_images(tmp_path):
    (tmp_path / "lots" / "1").mkdir(parents=True)
    (tmp_path / "tables").mkdir()
    (tmp_path / "lots" / "1" / "a.png").write_bytes(b"a")
    (tmp_path / "tables" / "list.csv").write_text("uri\n../lots/1/a.png\n..\\lots\\1\\a.png\n")
    by_table = list_images(str(tmp_path / "tables" / "list.csv"))
    by_folder = list_images(str(tmp_path / "lots"))
    assert [i.image_id for i in by_table.groups["all"]] == [i.image_id for i in by_folder.groups["all"]]
    assert len(by_table.skipped) == 1


# --- folders of tables ------------------------------------------------------------------------------------------------


def test_partitions_keep_their_text_with_and_without_a_filter(tmp_path):
    for group, name in (("001", "a"), ("01", "b"), ("1", "c"), ("__HIVE_DEFAULT_PARTITION__", "d"), ("t%2Fx", "e")):
        (tmp_path / f"group={group}").mkdir()
        pq.write_table(pa.table({"uri": [f"{name}.png"]}), tmp_path / f"group={group}" / "part-0.parquet")
    (tmp_path / "_SUCCESS").write_bytes(b"")
    for source in (str(tmp_path), f"{tmp_path}?filter=true"):
        catalog = list_images(source)
        assert groups_of(catalog) == {"001": ["a.png"], "01": ["b.png"], "1": ["c.png"], "t/x": ["e.png"]}
        assert [i.uri for i in catalog.groups["001"]] == [(tmp_path / "a.png").as_uri()]  # above the partitions
        assert [row.uri for row in catalog.unreadable] == [(tmp_path / "d.png").as_uri()]
        assert [row.uri.rpartition("/")[2] for row in catalog.skipped] == ["_SUCCESS"]
    assert groups_of(list_images(f"{tmp_path}?filter=group = '01'")) == {"01": ["b.png"]}


def test_partitions_of_whole_numbers_are_compared_as_numbers(tmp_path):
    for group in (2, 10):
        (tmp_path / f"group={group}").mkdir()
        pq.write_table(pa.table({"image": [b"x"]}), tmp_path / f"group={group}" / "part-0.parquet")
    assert list(list_images(f"{tmp_path}?filter=group > 2").groups) == ["10"]
    assert list(list_images(str(tmp_path)).groups) == ["10", "2"]


def test_partitions_that_are_columns_of_the_files_too(tmp_path):
    (tmp_path / "group=07").mkdir()
    pq.write_table(pa.table({"uri": ["s3://b/a.png"], "group": ["x"]}), tmp_path / "group=07" / "part-0.parquet")
    for source in (str(tmp_path), f"{tmp_path}?filter=group = '07'"):
        assert groups_of(list_images(source)) == {"07": ["a.png"]}


def test_uri_and_version_may_be_partitions(tmp_path):
    folder = tmp_path / "uri=s3%3A%2F%2Fb%2Fa.png" / "version=03"
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"note": ["x"]}), folder / "part-0.parquet")
    for source in (str(tmp_path), f"{tmp_path}?filter=true"):
        (image,) = list_images(source).groups["all"]
        assert (image.uri, image.version) == ("s3://b/a.png", "03")


def test_tables_in_subfolders_name_what_is_beside_them(tmp_path):
    (tmp_path / "lot" / "day=1").mkdir(parents=True)
    pq.write_table(pa.table({"uri": ["a.png"]}), tmp_path / "lot" / "day=1" / "t.parquet")
    for source in (str(tmp_path), f"{tmp_path}?filter=true"):
        assert [i.uri for i in list_images(source).groups["all"]] == [(tmp_path / "lot" / "a.png").as_uri()]


def test_logs_and_leftovers_beside_tables_are_skipped(tmp_path):
    for name in ("t.parquet", "_temporary/t.parquet", "_delta_log/1.parquet"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        pq.write_table(pa.table({"uri": [f"s3://b/{path.parent.name}.png"]}), path)
    for source in (str(tmp_path), f"{tmp_path}?filter=true"):
        catalog = list_images(source)
        assert catalog.images == 1
        assert [row.reason for row in catalog.skipped] == ["hidden", "hidden"]


def test_a_table_of_other_things_beside_images_is_skipped_and_alone_refused(tmp_path):
    pq.write_table(pa.table({"torque": [1.5], "path": ["a.png"]}), tmp_path / "t.parquet")
    for source in (tmp_path, tmp_path / "t.parquet"):
        with pytest.raises(MuscRayError, match=r"torque \(double\), path \(string\).* setting 'column'"):
            list_images(str(source))
    (tmp_path / "a.png").write_bytes(b"a")
    catalog = list_images(str(tmp_path))
    assert (catalog.images, [row.reason for row in catalog.skipped]) == (1, ["other"])
    assert "torque (double)" in catalog.skipped[0].message


def test_a_filter_leaves_nothing_of_its_folder_unsaid(tmp_path):
    pq.write_table(pa.table({"uri": ["a.png"]}), tmp_path / "t.parquet")
    for name in ("a.png", "b.png", "notes.txt", ".hidden"):
        (tmp_path / name).write_bytes(b"x")
    catalog = list_images(f"{tmp_path}?filter=true")
    assert groups_of(catalog) == {"all": ["a.png"]}
    assert sorted(row.uri.rpartition("/")[2] for row in catalog.skipped) == [".hidden", "b.png", "notes.txt"]
    assert catalog.listed == 4


# --- names of columns -------------------------------------------------------------------------------------------------

ROWS = {"path": ["a.png", "b.png"], "line": [0, 1], "rev": ["r1", "r2"], "tile.png": [b"A", b"B"], "uri": ["c", "d"]}


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        ("path", {"all": ["a.png", "b.png"]}),
        ("uri=path,group=line", {"0": ["a.png"], "1": ["b.png"]}),
        ("uri=path, version=rev", {"all": ["a.png", "b.png"]}),
        ("group=line", {"0": ["c"], "1": ["d"]}),
        (None, {"all": ["c", "d"]}),
    ],
)
@pytest.mark.parametrize("kind", ["list.csv", "list.parquet", "folder", "filter"])
def test_columns_of_other_names(column, expected, kind):
    if kind == "list.csv":
        lines = zip(*(ROWS[name] for name in ("path", "line", "rev", "uri")), strict=True)
        put("memory://t/list.csv", "path,line,rev,uri\n" + "".join(",".join(map(str, line)) + "\n" for line in lines))
    else:
        put("memory://t/list.parquet", pa.table(ROWS))
    source = {"folder": "memory://t", "filter": "memory://t?filter=true"}.get(kind, f"memory://t/{kind}")
    catalog = list_images(source, column=column)
    assert groups_of(catalog) == expected
    if column is not None and "version" in column:
        assert {image.version for image in catalog.groups["all"]} == {"r1", "r2"}


@pytest.mark.parametrize("column", ["tile.png", "image=tile.png,group=line"])
@pytest.mark.parametrize("source", ["memory://t/list.parquet", "memory://t", "memory://t?filter=line >= 0"])
def test_images_of_a_column_of_another_name_are_read_from_their_uri(column, source):
    put("memory://t/list.parquet", pa.table(ROWS))
    groups = list_images(source, column=column).groups
    images = [image for images in groups.values() for image in images]
    assert sorted(image.uri.partition("#")[2] for image in images) == [f"column=tile%2Epng&row={n}" for n in (0, 1)]
    assert sorted(read_image(image.uri) for image in images) == [b"A", b"B"]
    assert sorted(groups) == (["0", "1"] if "group" in column else ["all"])


def test_naming_the_usual_column_gives_the_usual_images():
    put("memory://t/list.parquet", pa.table({"image": [b"A"], "bytes": [b"B"]}))
    usual, named, other = (list_images("memory://t", column=name) for name in (None, "image", "bytes"))
    assert usual == named
    assert read_image(other.groups["all"][0].uri) == b"B"


@pytest.mark.parametrize(
    "column",
    [
        pa.array([b"A", b"B"], pa.large_binary()),
        pa.array([b"A", b"B"], pa.binary_view()),
        pa.array([b"A", b"B"], pa.binary(1)),
        pa.array([b"A", b"B"]).dictionary_encode(),
        pa.array([{"bytes": b"A", "path": "a"}, {"bytes": b"B", "path": None}]),
    ],
)
@pytest.mark.parametrize("name", ["image", "Image", "scan"])
def test_all_kinds_of_image_columns_are_read(column, name):
    put("memory://t/list.parquet", pa.table({name: column}))
    images = list_images("memory://t", column="scan" if name == "scan" else None).groups["all"]
    assert sorted(read_image(image.uri) for image in images) == [b"A", b"B"]


@pytest.mark.parametrize(
    ("column", "kind", "sentence"),
    [
        ("nowhere", MuscRayError, "no column 'nowhere' of images or URIs; it has path"),
        ("line", MuscRayError, r"no column 'line' of images or URIs; it has .*line \(int64\)"),
        ("uri=path,group=nowhere", MuscRayError, "no column 'nowhere' of groups; it has path"),
        ("uri=path,image=x", SettingsError, "both uri and image"),
        ("picture=path", SettingsError, "'column' is NAME, or each of uri, group, version, image"),
    ],
)
def test_columns_that_are_not_there_are_one_sentence(column, kind, sentence):
    with pytest.raises(kind, match=sentence) as error:
        list_images(put("memory://t/list.parquet", pa.table(ROWS)), column=column)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("names", [("URI", "Uri"), ("uri", "GROUP", "Group")])
def test_columns_that_differ_in_capitals_alone_are_refused(names):
    with pytest.raises(MuscRayError, match="call one of them"):
        list_images(put("memory://t/list.parquet", pa.table({name: ["a"] for name in names})))


@pytest.mark.parametrize("query", ["", "?filter=true"])
def test_groups_of_times_are_in_utc(query):
    times = pa.array([0, 1], pa.timestamp("s", "Europe/Berlin"))
    put("memory://t/list.parquet", pa.table({"uri": ["a.png", "b.png"], "group": times}))
    assert groups_of(list_images(f"memory://t{query}")) == {
        "1970-01-01 00:00:00Z": ["a.png"],
        "1970-01-01 00:00:01Z": ["b.png"],
    }


@pytest.mark.parametrize(
    ("name", "content"), [("list.csv", "uri,group\n\n"), ("t.parquet", pa.table({"uri": pa.array([], pa.string())}))]
)
def test_a_table_without_rows_says_so(name, content):
    with pytest.raises(MuscRayError, match="the table has no rows"):
        list_images(put(f"memory://t/{name}", content))


def test_groups_that_are_lists_are_refused():
    table = pa.table({"uri": ["a.png"], "group": [["x"]]})
    with pytest.raises(MuscRayError, match="'group' holds list"):
        list_images(put("memory://t/list.parquet", table))


def test_a_table_given_itself_may_have_any_name(tmp_path):
    path = Path(tmp_path / "_list.parquet")
    pq.write_table(pa.table({"uri": ["a.png"]}), path)
    assert list_images(str(path)).images == 1


def test_images_in_a_folder_are_listed_once_beside_the_table_that_names_them(tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"x")
    pq.write_table(pa.table({"uri": ["a.png", "s3://b/c.png"], "group": ["x", "y"]}), tmp_path / "0.parquet")
    catalog = list_images(str(tmp_path))
    assert groups_of(catalog) == {"all": ["a.png", "b.png"], "y": ["c.png"]}
    assert [(row.uri.rpartition("/")[2], row.reason) for row in catalog.skipped] == [("a.png", "second_name")]
    assert "0.parquet as the source for the groups" in catalog.skipped[0].message


@pytest.mark.parametrize("query", ["", "?filter=true"])
@pytest.mark.parametrize("content", [b"PAR1" + bytes(50) + b"PAR1", b"no table" * 9, b""])
def test_a_broken_table_in_a_folder_is_named(tmp_path, content, query):
    pq.write_table(pa.table({"uri": ["s3://b/c.png"]}), tmp_path / "0.parquet")
    (tmp_path / "1.parquet").write_bytes(content)
    with pytest.raises(MuscRayError, match=r"1\.parquet") as error:
        list_images(f"{tmp_path}{query}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("query", ["", "?filter=true"])
def test_a_table_whose_rows_cannot_all_be_read_is_not_listed_in_part(tmp_path, query):
    table = pa.table({"uri": [f"s3://b/{n}.png" for n in range(9)]})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=3, compression="none", use_dictionary=False)
    chunk = pq.read_metadata(tmp_path / "t.parquet").row_group(2).column(0)
    content = bytearray((tmp_path / "t.parquet").read_bytes())
    content[chunk.data_page_offset : chunk.data_page_offset + chunk.total_compressed_size] = (
        b"\xff" * chunk.total_compressed_size
    )
    (tmp_path / "t.parquet").write_bytes(content)
    with pytest.raises(MuscRayError, match=r"t\.parquet is not a readable Parquet table"):
        list_images(f"{tmp_path}{query}")
