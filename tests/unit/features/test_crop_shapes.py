"""Where the images of each group are cut: decided once from a sample, stored, part of the run's id, kept afterwards."""

import json

import pytest

from musc_ray.core.crops import CropInput, CropLayout, InputShape
from musc_ray.errors import MuscRayError, SettingsError
from musc_ray.features.context import context_of
from musc_ray.features.group_shapes import group_shapes
from musc_ray.sources.catalog import catalog_images
from musc_ray.storage.feature_shards import existing_shards
from tests.unit.features.test_group_shapes import write
from tests.unit.features.test_ids import made, opened

SQUARE = (224, 224)


def shapes(tmp_path, **given):
    workspace = opened(tmp_path / "out", **({"image_size": 224} | given))
    listed = catalog_images(str(tmp_path / "images"), "{group}/**")
    existing = {name: existing_shards(workspace.out_paths, workspace.meta.features_id, name) for name in listed}
    return group_shapes(workspace, listed, existing)


def stored_files(tmp_path):
    return list((tmp_path / "out").glob("features/*/group=*/_image_size.json"))


def test_rows_and_columns_are_the_same_for_all_and_crops_keep_their_shape(tmp_path):
    write(tmp_path / "images" / "tall", 3, (1250, 500))
    write(tmp_path / "images" / "square", 3, (600, 600))
    found = shapes(tmp_path, crops="3x1,overlap=0")
    layout = CropLayout(3, 1, 0)
    assert found == {
        "tall": InputShape((352, 144), CropInput(layout, (208, 240))),  # of 417 x 500 pixels
        "square": InputShape(SQUARE, CropInput(layout, (128, 384))),  # of 200 x 600
    }
    assert shapes(tmp_path, crops="3x1,overlap=0") == found  # as stored
    assert all("crops" in json.loads(path.read_text()) for path in stored_files(tmp_path))


def test_auto_cuts_what_the_model_sees_badly_and_nothing_else(tmp_path):
    write(tmp_path / "images" / "small", 3, (440, 440))
    write(tmp_path / "images" / "large", 3, (1000, 1500))
    found = shapes(tmp_path, crops="auto")
    assert found["small"] == InputShape(SQUARE)
    crops = found["large"].crops
    assert crops is not None
    high, wide = crops.layout.crop_size(1000, 1500)
    assert high <= 2 * crops.size[0]
    assert wide <= 2 * crops.size[1]
    assert (crops.layout.rows, crops.layout.columns, crops.layout.overlap) == (2, 5, 0.1)
    assert shapes(tmp_path, crops="auto") == found


def test_a_size_is_in_pixels_of_the_images(tmp_path):
    write(tmp_path / "images" / "a", 3, (1000, 1500))
    write(tmp_path / "images" / "b", 3, (300, 320))
    found = shapes(tmp_path, crops="size=640,overlap=0.25")
    assert found["a"].crops is not None
    assert found["a"].crops.layout == CropLayout(2, 3, 0.25)
    assert found["b"].crops is None
    with pytest.raises(SettingsError, match="cuts the images of group 'a', of about 1000 x 1500 pixels, into too many"):
        shapes(tmp_path, crops="size=10")


def test_the_median_size_decides_whatever_the_orientation(tmp_path):
    write(tmp_path / "images" / "a", 5, (1000, 1500))
    write(tmp_path / "images" / "a", 3, (500, 750))
    write(tmp_path / "images" / "a", 2, (1500, 1000), 5)
    found = shapes(tmp_path, crops="size=640,overlap=0.25")["a"].crops
    assert found is not None
    assert found.layout == CropLayout(2, 3, 0.25)


def test_with_one_image_size_crops_have_it_too(tmp_path):
    write(tmp_path / "images" / "a", 3, (1000, 1500))
    for given in ({"image_size": "96,64"}, {"method": "paper"}):
        size = (96, 64) if "image_size" in given else SQUARE
        assert shapes(tmp_path, crops="2x2", **given) == {"a": InputShape(size, CropInput(CropLayout(2, 2), size))}
        found = shapes(tmp_path, crops="auto", **given)["a"].crops
        assert found is not None
        assert found.size == size


def test_groups_without_readable_images_are_cut_only_where_the_settings_say_how(tmp_path):
    (tmp_path / "images" / "a").mkdir(parents=True)
    (tmp_path / "images" / "a" / "broken.jpg").write_bytes(b"no image")
    assert shapes(tmp_path, crops="auto") == {"a": InputShape(SQUARE)}
    assert shapes(tmp_path, crops="2x2") == {"a": InputShape(SQUARE, CropInput(CropLayout(2, 2), SQUARE))}
    assert not stored_files(tmp_path)


def test_a_layout_stays_when_other_images_come_and_overwrite_finds_it_again(tmp_path):
    write(tmp_path / "images" / "a", 2, (1000, 1500))
    first = shapes(tmp_path, crops="auto")
    write(tmp_path / "images" / "a", 30, (300, 300))
    assert shapes(tmp_path, crops="auto") == first
    assert shapes(tmp_path, crops="auto", overwrite=True) == {"a": InputShape(SQUARE)}


@pytest.mark.parametrize(
    "crops",
    [
        "{}",
        "7",
        '{"rows": 2}',
        '{"rows": 2, "columns": 2, "overlap": 0.9, "image_size": [32, 32]}',
        '{"rows": 2, "columns": 2, "overlap": 0.1, "image_size": [32, 31]}',
    ],
)
def test_a_broken_file_is_named(tmp_path, crops):
    write(tmp_path / "images" / "a", 2, (1000, 1500))
    shapes(tmp_path, crops="auto")
    (path,) = stored_files(tmp_path)
    path.write_text(f'{{"image_size": [224, 224], "crops": {crops}}}')
    with pytest.raises(MuscRayError, match=r"_image_size\.json is not an image size"):
        shapes(tmp_path, crops="auto")


def test_the_layout_is_part_of_the_runs_id_and_of_its_shards(tmp_path):
    write(tmp_path / "images" / "a", 2, (1000, 1500))
    listed = catalog_images(str(tmp_path / "images"))
    workspace = opened(tmp_path / "out", image_size=224, crops="auto", shard_size=30)
    found = context_of(workspace, listed)
    meta = found.meta_of("all")
    assert (meta.crops, meta.whole_size) == (CropLayout(2, 5), found.shape_of("all").whole)
    assert meta.shape == found.shape_of("all")
    assert found.image_sizes == {"all": meta.whole_size}
    (path,) = stored_files(tmp_path)
    content = json.loads(path.read_text())
    content["crops"]["overlap"] = 0.3
    path.write_text(json.dumps(content))
    other = context_of(workspace, listed)
    assert other.run_id != found.run_id
    assert other.meta.features_id == found.meta.features_id


def test_shards_hold_as_many_rows_with_crops_as_without(tmp_path):
    given = {"image_size": "224,224", "shard_size": 15}
    plain = context_of(opened(tmp_path / "out", **given), {"all": made(*range(30))})
    cut = context_of(opened(tmp_path / "out", crops="2x2", **given), {"all": made(*range(30))})
    assert [len(shard) for shard in plain.groups["all"].missing.values()] == [15, 15]
    assert [len(shard) for shard in cut.groups["all"].missing.values()] == [3] * 10
