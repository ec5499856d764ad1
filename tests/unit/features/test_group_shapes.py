"""The image size of a group: found from a sample, stored, the same for later images; upright, and cheap to find."""

import json
from pathlib import Path

import pytest
from PIL import Image

from musc_ray.errors import MuscRayError
from musc_ray.features import group_shapes
from musc_ray.features.context import context_of
from musc_ray.features.group_shapes import FIRST_IMAGES, SAMPLE_IMAGES, input_shape
from musc_ray.settings.loading import load_settings
from musc_ray.sources.catalog import catalog_images
from musc_ray.storage.feature_shards import existing_shards
from musc_ray.storage.retry import StorageError
from musc_ray.storage.shards import FeaturesMeta, ShardImage
from tests.unit.features.test_ids import opened

SQUARE, TALL, WIDE = (224, 224), (352, 144), (144, 352)
"""Of 14 x 14 patches of 16 pixels, and of 22 x 9, which have about the ratio 2.5."""

MIRRORED_AND_TURNED = 5


def write(folder: Path, count: int, size: tuple[int, int], orientation: int = 1) -> None:
    """Write images of a height and width, as they are stored."""
    folder.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    for number in range(count):
        path = folder / f"{size[0]}-{size[1]}-{orientation}-{number}.jpg"
        Image.new("L", size[::-1], number).save(path, exif=exif)


def sizes(tmp_path, **given):
    workspace = opened(tmp_path / "out", **({"image_size": 224} | given))
    listed = catalog_images(str(tmp_path / "images"), "{group}/**")
    existing = {name: existing_shards(workspace.out_paths, workspace.meta.features_id, name) for name in listed}
    return wholes(workspace, listed, existing)


def wholes(workspace, listed, existing):
    found = group_shapes.group_shapes(workspace, listed, existing)
    assert all(shape.crops is None for shape in found.values())
    return {name: shape.whole for name, shape in found.items()}


def shard(size: tuple[int, int], error: str | None = None) -> FeaturesMeta:
    """Describe a written shard of one image, which has features, or could not be read."""
    image = ShardImage("00", "a.jpg", "1", error=error)
    return FeaturesMeta((1, 1), (0,), 4, 4, size, "timm:x", "0" * 64, "f" * 16, images=[image])


def stored(tmp_path) -> dict[str, object]:
    files = (tmp_path / "out").glob("features/*/group=*/_image_size.json")
    return {path.parent.name.removeprefix("group="): json.loads(path.read_text()) for path in files}


def test_each_group_has_the_shape_of_its_images(tmp_path):
    write(tmp_path / "images" / "tall", 3, (125, 50))
    write(tmp_path / "images" / "wide", 3, (50, 125))
    write(tmp_path / "images" / "square", 3, (60, 59))
    expected = {"tall": TALL, "wide": WIDE, "square": SQUARE}
    assert sizes(tmp_path) == expected
    assert stored(tmp_path) == {name: {"image_size": list(size)} for name, size in expected.items()}
    assert sizes(tmp_path) == expected  # as stored


def test_images_are_seen_upright(tmp_path):
    write(tmp_path / "images" / "a", 3, (125, 50), MIRRORED_AND_TURNED)
    write(tmp_path / "images" / "a", 2, (50, 125))
    assert sizes(tmp_path) == {"a": WIDE}


def test_the_median_decides_and_two_halves_make_a_square(tmp_path):
    write(tmp_path / "images" / "most", 5, (125, 50))
    write(tmp_path / "images" / "most", 4, (50, 500))
    write(tmp_path / "images" / "half", 4, (125, 50))
    write(tmp_path / "images" / "half", 4, (50, 125))
    assert sizes(tmp_path) == {"most": TALL, "half": SQUARE}


def test_paper_and_a_pair_have_one_size_for_all(tmp_path):
    write(tmp_path / "images" / "a", 3, (125, 50))
    assert sizes(tmp_path, method="paper") == {}
    assert sizes(tmp_path, image_size="96,64") == {}
    assert stored(tmp_path) == {}


def test_a_size_stays_when_other_images_come_and_overwrite_finds_it_again(tmp_path):
    write(tmp_path / "images" / "a", 2, (125, 50))
    assert sizes(tmp_path) == {"a": TALL}
    write(tmp_path / "images" / "a", 20, (50, 125))
    assert sizes(tmp_path) == {"a": TALL}
    assert sizes(tmp_path, overwrite=True) == {"a": WIDE}
    assert sizes(tmp_path) == {"a": WIDE}


def test_without_a_stored_size_that_of_the_shards_is_used(tmp_path, monkeypatch):
    write(tmp_path / "images" / "a", 2, (50, 125))
    metas = dict(enumerate(shard(size) for size in (TALL, SQUARE, TALL)))
    listed = catalog_images(str(tmp_path / "images"), "{group}/**")
    workspace = opened(tmp_path / "out", image_size=224)
    assert wholes(workspace, listed, {"a": metas}) == {"a": TALL}
    assert sizes(tmp_path) == {"a": TALL}  # stored now
    again = opened(tmp_path / "out", image_size=224, overwrite=True)
    assert wholes(again, listed, {"a": metas}) == {"a": WIDE}


def test_shards_without_a_readable_image_do_not_decide(tmp_path):
    """A group whose first images were all broken has shards of the square: good images that come later decide."""
    write(tmp_path / "images" / "a", 2, (125, 50))
    listed = catalog_images(str(tmp_path / "images"), "{group}/**")
    existing = {"a": {0: shard(SQUARE, "ImageError")}}
    assert wholes(opened(tmp_path / "out", image_size=224), listed, existing) == {"a": TALL}


@pytest.fixture
def reads(monkeypatch):
    """The URIs of images that are read."""
    read, seen = group_shapes.read_image, []
    monkeypatch.setattr(group_shapes, "read_image", lambda uri, limit: (seen.append(uri), read(uri, limit))[1])
    return seen


def test_few_images_are_read_where_all_are_alike_and_the_sample_is_always_the_same(tmp_path, reads):
    write(tmp_path / "images" / "a", 50, (125, 50))
    sizes(tmp_path)
    assert len(reads) == FIRST_IMAGES
    sizes(tmp_path)
    assert len(reads) == FIRST_IMAGES  # stored
    sizes(tmp_path, overwrite=True)
    assert sorted(reads[:FIRST_IMAGES]) == sorted(reads[FIRST_IMAGES:])


def test_a_larger_sample_decides_where_images_differ(tmp_path, reads):
    write(tmp_path / "images" / "a", 25, (125, 50))
    write(tmp_path / "images" / "a", 25, (50, 125))
    sizes(tmp_path)
    assert len(reads) == len(set(reads)) == SAMPLE_IMAGES


def test_images_that_cannot_be_read_do_not_count(tmp_path):
    write(tmp_path / "images" / "a", 2, (125, 50))
    for group in ("a", "b"):
        (tmp_path / "images" / group).mkdir(exist_ok=True)
        (tmp_path / "images" / group / "broken.jpg").write_bytes(b"no image")
    assert sizes(tmp_path) == {"a": TALL, "b": SQUARE}
    assert set(stored(tmp_path)) == {"a"}  # images of b that come later decide


def test_a_fault_of_the_storage_is_raised(tmp_path, monkeypatch):
    def away(uri, limit):
        raise StorageError("The storage is away.")

    write(tmp_path / "images" / "a", 2, (125, 50))
    monkeypatch.setattr(group_shapes, "read_image", away)
    with pytest.raises(StorageError):
        sizes(tmp_path)


@pytest.mark.parametrize("content", ["{}", '{"image_size": [224]}', '{"image_size": [224, 100]}', '{"image_size": 7}'])
def test_a_broken_file_is_named(tmp_path, content):
    write(tmp_path / "images" / "a", 2, (125, 50))
    sizes(tmp_path)
    (path,) = (tmp_path / "out").glob("features/*/group=*/_image_size.json")
    path.write_text(content)
    with pytest.raises(MuscRayError, match=r"_image_size\.json is not an image size"):
        sizes(tmp_path)


def test_a_size_is_part_of_the_runs_id_and_of_its_groups(tmp_path):
    write(tmp_path / "images" / "a", 2, (125, 50))
    listed = catalog_images(str(tmp_path / "images"))
    workspace = opened(tmp_path / "out", image_size=224)
    found = context_of(workspace, listed)
    assert (found.meta.image_size, found.meta.grid) == (SQUARE, (14, 14))
    assert (found.meta_of("all").image_size, found.meta_of("all").grid) == (TALL, (22, 9))
    (path,) = (tmp_path / "out").glob("features/*/group=*/_image_size.json")
    path.write_text(json.dumps({"image_size": WIDE}))
    other = context_of(workspace, listed)
    assert found.run_id != other.run_id
    assert other.meta_of("all").grid == (9, 22)


def test_the_features_id_says_whether_shapes_are_kept(tmp_path):
    kept, square, paper = (
        opened(tmp_path / "out", **given).meta.features_id
        for given in ({"image_size": 224}, {"image_size": "224,224"}, {"image_size": 224, "method": "paper"})
    )
    assert kept != square
    assert kept != paper


@pytest.mark.parametrize(("crops", "count"), [("auto", 4), ("scale=1", 12), ("scale=4", 1)])
def test_crops_are_as_many_as_the_scale_needs(crops, count):
    settings = load_settings(None, {"crops": crops, "method": "paper"})
    shape = input_shape(settings, "a", (224, 224), 14, 0.75, 600 * 800)
    assert shape.places == (1 if count == 1 else count + 1)
