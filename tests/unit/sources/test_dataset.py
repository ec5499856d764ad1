"""Images from a Parquet dataset with a filter: which files, row groups and columns are read, and which need not be."""

import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from musc_ray.errors import MuscRayError, SettingsError
from musc_ray.sources.catalog import catalog_images
from musc_ray.sources.reading import read_image


def write(folder, day: str, numbers, name: str = "part-0.parquet", **more) -> str:
    """A file of a Hive-partitioned table, three rows a row group."""
    path = folder / f"day={day}" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {
        "uri": [f"s3://plant/{n}.png" for n in numbers],
        "line": list(numbers),
        "note": [f"a note that nobody reads {n}" for n in numbers],
    }
    table = pa.table(columns | {name: [value] * len(numbers) for name, value in more.items()})
    pq.write_table(table, path, row_group_size=3, compression="none", use_dictionary=False)
    return str(path)


def spoil(path: str, row_group: int, column: str) -> None:
    """Overwrite a column's pages: whoever reads them fails."""
    metadata = pq.read_metadata(path).row_group(row_group)
    chunk = next(metadata.column(n) for n in range(metadata.num_columns) if metadata.column(n).path_in_schema == column)
    with open(path, "r+b") as file:  # noqa: PTH123
        file.seek(chunk.data_page_offset)
        file.write(b"\xff" * chunk.total_compressed_size)


def uris(source: str) -> list[str]:
    groups = catalog_images(source)
    return sorted(image.uri.removeprefix("s3://plant/").removesuffix(".png") for i in groups.values() for image in i)


def test_only_rows_columns_row_groups_and_files_of_the_filter_are_read(tmp_path):
    old = write(tmp_path, "2026-11-22", range(6))
    new = write(tmp_path, "2026-11-23", range(10, 16))
    for path, row_group, column in ((old, 0, "uri"), (new, 0, "uri"), (new, 1, "note")):
        spoil(path, row_group, column)
    assert uris(f"{tmp_path}?filter=day >= '2026-11-23' and line > 13") == ["14", "15"]
    assert uris(f"{tmp_path}/day=2026-11-22?filter=line > 2") == ["3", "4", "5"]
    for wanted in ("line > 9 and line < 14", "line < 3"):
        with pytest.raises((MuscRayError, OSError)):
            uris(f"{tmp_path}?filter={wanted}")


def test_a_filter_is_no_part_of_a_name_and_may_be_escaped(tmp_path):
    write(tmp_path, "2026-11-22", range(3))
    write(tmp_path, "2026-11-23", range(10, 13), name="a file.parquet")
    write(tmp_path / "_log", "2026-11-23", range(90, 93))
    assert len(uris(f"{tmp_path}?filter=true")) == 6
    assert len(uris(f"{tmp_path}/?filter=true")) == 6
    assert uris(f"file://{tmp_path}?filter=day%20=%20'2026-11-22'%20and%20line%20in%20(0,%202)") == ["0", "2"]
    assert uris(f"{tmp_path}/*/part-*.parquet?filter=line >= 1 or day = '2026-11-23'") == ["1", "2"]
    assert uris(f"{tmp_path}/day=2026-11-23/a file.parquet?filter=line = 11") == ["11"]


def test_columns_that_came_later_and_partitions_that_are_groups(tmp_path):
    os.utime(write(tmp_path / "group=tiles", "2026-11-22", range(3)), (0, 0))
    write(tmp_path / "group=cells %231", "2026-11-23", range(10, 13), shift=1)
    groups = catalog_images(f"{tmp_path}?filter=shift = 1 or line = 0")
    assert {group: len(images) for group, images in groups.items()} == {"tiles": 1, "cells #1": 3}
    assert uris(f"{tmp_path}?filter=shift is null") == ["0", "1", "2"]


def test_relative_uris_lie_in_the_folder(tmp_path):
    (tmp_path / "day=1").mkdir()
    pq.write_table(pa.table({"uri": ["a.png", "sub/b.png"]}), tmp_path / "day=1" / "t.parquet")
    images = catalog_images(f"{tmp_path}?filter=day = 1")["all"]
    assert {image.uri for image in images} == {(tmp_path / name).as_uri() for name in ("a.png", "sub/b.png")}


def test_rows_with_image_bytes_are_read_back_from_their_uri(tmp_path):
    rows = {"image": [bytes([n]) * 9 for n in range(7)], "line": list(range(7)), "group": list("aabbbbb")}
    pq.write_table(pa.table(rows), tmp_path / "images.parquet", row_group_size=2)
    groups = catalog_images(f"{tmp_path}?filter=line > 0 and line != 4")
    found = {group: sorted(read_image(image.uri)[0] for image in images) for group, images in groups.items()}
    assert found == {"a": [1], "b": [2, 3, 5, 6]}
    all_images = {image.image_id: image for images in catalog_images(str(tmp_path)).values() for image in images}
    for images in groups.values():
        assert all(all_images[image.image_id] == image for image in images)  # the same images, filtered or not


@pytest.mark.parametrize(
    ("query", "kind", "sentence"),
    [
        ("line >> 3", SettingsError, "The filter 'line >> 3' does not fit"),
        ("week = 3", SettingsError, "week"),
        ("line = 'three'", SettingsError, "does not fit"),
        ("line = 77", MuscRayError, "No images found"),
    ],
)
def test_filters_that_fit_nothing_are_one_sentence(tmp_path, query, kind, sentence):
    write(tmp_path, "2026-11-22", range(3))
    with pytest.raises(kind, match=sentence) as error:
        catalog_images(f"{tmp_path}?filter={query}")
    assert "\n" not in str(error.value)


def test_folders_without_tables_and_tables_without_uris_are_one_sentence(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(MuscRayError, match="no Parquet files"):
        catalog_images(f"{tmp_path}?filter=true")
    with pytest.raises(MuscRayError, match="There is nothing at"):
        catalog_images(f"{tmp_path}/nowhere?filter=true")
    pq.write_table(pa.table({"number": [1]}), tmp_path / "t.parquet")
    with pytest.raises(MuscRayError, match="no column 'uri'"):
        catalog_images(f"{tmp_path}?filter=true")
    (tmp_path / "t.parquet").write_bytes(b"no table at all" * 9)
    with pytest.raises(MuscRayError, match="cannot be read") as error:
        catalog_images(f"{tmp_path}?filter=true")
    assert "\n" not in str(error.value)
