"""The range of a group: found from a sample, stored, the same for later images, and no cost for 8-bit archives."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from PIL import Image

from musc_ray.errors import MuscRayError
from musc_ray.features import intensity
from musc_ray.features.context import context_of
from musc_ray.features.intensity import SAMPLE_IMAGES, FoundRange, group_ranges
from musc_ray.sources.catalog import catalog_images
from musc_ray.sources.deep import Range
from musc_ray.storage.retry import StorageError
from tests.unit.features.test_ids import opened

RAMP = np.arange(256).reshape(16, 16)


def write(folder: Path, count: int, highest: float, dtype: type = np.uint16, suffix: str = "tif") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        values = (RAMP * (highest / 255)).astype(dtype)
        Image.fromarray(values).save(folder / f"{np.dtype(dtype).name}-{highest}-{number}.{suffix}")


def ranges(tmp_path, plain=(), **given):
    workspace = opened(tmp_path / "out", **given)
    return group_ranges(workspace, catalog_images(str(tmp_path / "images"), "{group}/**"), plain)


def stored(tmp_path) -> dict[str, object]:
    files = (tmp_path / "out").glob("features/*/group=*/_intensity.json")
    return {path.parent.name.removeprefix("group="): json.loads(path.read_text()) for path in files}


def test_each_group_has_the_depth_of_its_data(tmp_path):
    write(tmp_path / "images" / "twelve", 3, 4000)
    write(tmp_path / "images" / "eight", 3, 255, np.uint8, "png")
    write(tmp_path / "images" / "unit", 3, 1, np.float32)
    expected = {
        "twelve": FoundRange(Range(0, 4095, "integer"), "16-bit images hold 12-bit data"),
        "unit": FoundRange(Range(0, 1, "float"), "32-bit float images hold values from 0 to 1"),
    }
    assert ranges(tmp_path) == expected
    assert set(stored(tmp_path)) == {"twelve", "unit"}
    assert ranges(tmp_path) == expected  # as stored


def test_a_range_stays_when_other_images_come_and_overwrite_finds_it_again(tmp_path):
    write(tmp_path / "images" / "a", 2, 1000)
    assert ranges(tmp_path)["a"].range.high == 1023
    write(tmp_path / "images" / "a", 20, 60_000)
    assert ranges(tmp_path)["a"].range.high == 1023
    assert ranges(tmp_path, overwrite=True)["a"].range.high == 65_535
    assert ranges(tmp_path)["a"].range.high == 65_535


def test_a_group_whose_features_have_no_range_stays_without(tmp_path):
    write(tmp_path / "images" / "a", 2, 255, np.uint8)
    assert ranges(tmp_path) == {}
    write(tmp_path / "images" / "a", 20, 4000)
    assert ranges(tmp_path, plain={"a"}) == {}
    assert ranges(tmp_path, plain={"a"}, overwrite=True)["a"].range.high == 4095
    assert ranges(tmp_path, plain={"a"})["a"].range.high == 4095  # stored


@pytest.mark.parametrize(
    ("given", "low", "high"), [("full", 0, 65_535), ("percentile", 0, 4000), ("100,200", 100, 200), ("auto", 0, 4095)]
)
def test_the_rules(tmp_path, given, low, high):
    write(tmp_path / "images" / "a", 2, 4000)
    found = ranges(tmp_path, intensity=given)["a"].range
    assert (found.low, found.high) == (low, pytest.approx(high, abs=16))


@pytest.mark.parametrize("suffix", ["jpg", "bmp", "webp", "gif"])
def test_formats_of_8_bits_are_not_read_and_nothing_is_stored(tmp_path, suffix, monkeypatch):
    write(tmp_path / "images" / "a", 3, 255, np.uint8, suffix)
    monkeypatch.setattr(intensity, "read_image", None)
    assert ranges(tmp_path) == {}
    assert not (tmp_path / "out" / "features").exists()


def test_the_sample_is_the_same_for_the_same_images_and_small(tmp_path, monkeypatch):
    write(tmp_path / "images" / "a", 40, 4000)
    read, seen = intensity.read_image, []
    monkeypatch.setattr(intensity, "read_image", lambda uri, limit: (seen.append(uri), read(uri, limit))[1])
    for _ in range(2):
        ranges(tmp_path, overwrite=True)
    assert len(seen) == 2 * SAMPLE_IMAGES
    assert set(seen[:SAMPLE_IMAGES]) == set(seen[SAMPLE_IMAGES:])


def test_images_that_cannot_be_read_do_not_count(tmp_path):
    write(tmp_path / "images" / "a", 2, 4000)
    (tmp_path / "images" / "a" / "broken.tif").write_bytes(b"II*\0nothing")
    (tmp_path / "images" / "b").mkdir()
    (tmp_path / "images" / "b" / "broken.tif").write_bytes(b"II*\0nothing")
    assert set(ranges(tmp_path)) == {"a"}
    assert set(stored(tmp_path)) == {"a"}


def test_a_fault_of_the_storage_is_raised(tmp_path, monkeypatch):
    def away(uri, limit):
        raise StorageError("The storage is away.")

    write(tmp_path / "images" / "a", 2, 4000)
    monkeypatch.setattr(intensity, "read_image", away)
    with pytest.raises(StorageError):
        ranges(tmp_path)


def test_a_broken_file_is_named(tmp_path):
    write(tmp_path / "images" / "a", 2, 4000)
    ranges(tmp_path)
    (path,) = (tmp_path / "out").glob("features/*/group=*/_intensity.json")
    path.write_text('{"range": {"low": 0}}')
    with pytest.raises(MuscRayError, match=r"intensity\.json"):
        ranges(tmp_path)


def test_a_range_is_part_of_the_runs_id_and_of_no_other(tmp_path):
    write(tmp_path / "images" / "a", 2, 4000)
    listed = catalog_images(str(tmp_path / "images"))
    workspace = opened(tmp_path / "out")
    found = context_of(workspace, listed)
    (path,) = (tmp_path / "out").glob("features/*/group=*/_intensity.json")
    path.write_text(path.read_text().replace("4095", "4000"))
    other = context_of(workspace, listed)
    assert found.run_id != other.run_id
    assert (found.range_of("all").high, other.range_of("all").high) == (4095, 4000)


def test_the_folder_of_features_is_still_a_table(tmp_path):
    write(tmp_path / "images" / "a", 2, 4000)
    ranges(tmp_path)
    (path,) = (tmp_path / "out").glob("features/*/group=*/_intensity.json")
    pq.write_table(pa.table({"image_id": ["a"]}), path.parent / "shard-00000.parquet")
    assert ds.dataset(path.parent, format="parquet").count_rows() == 1
    assert pq.read_table(path.parent).num_rows == 1
