"""Which image lies in which shard: stable under resumption, growth and change."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from musc_ray.core.crops import CropInput, CropLayout, InputShape
from musc_ray.features.sharding import PENDING, GroupShards, assign_shards
from musc_ray.sources.images import CatalogImage, image_id
from musc_ray.storage.shards import FeaturesMeta, ShardImage

SIZE = (28, 28)
SHAPE = InputShape(SIZE)
META = FeaturesMeta((2, 2), (0,), 4, 4, SIZE, "timm:x", "0" * 64, "f" * 16)


def listed(count: int, version: str = "1") -> list[CatalogImage]:
    uris = [f"file:///archive/{number}.png" for number in range(count)]
    return sorted(CatalogImage(image_id(uri), uri, "all", version) for uri in uris)


def written(images: list[CatalogImage], broken: frozenset[str] = frozenset()) -> FeaturesMeta:
    return replace(
        META,
        images=[
            ShardImage(i.image_id, i.uri, i.version, *(("ImageError", "no image") if i.uri in broken else (None, None)))
            for i in images
        ],
    )


def everything(shards: GroupShards) -> list[CatalogImage]:
    return sorted(image for images in shards.all.values() for image in images)


@given(count=st.integers(1, 60), shard_size=st.integers(1, 20), keep=st.sets(st.integers(0, 59)))
def test_an_interrupted_extraction_is_resumed_with_the_same_shards(count, shard_size, keep):
    images = listed(count)
    planned = assign_shards(images, {}, shard_size, SHAPE)
    assert everything(planned) == images
    assert all(len(shard) <= shard_size for shard in planned.missing.values())
    there = {number: written(shard) for number, shard in planned.missing.items() if number in keep}
    resumed = assign_shards(images, there, shard_size, SHAPE)
    assert resumed.all == planned.all
    assert set(resumed.done) == set(there)


@given(first=st.integers(1, 40), later=st.integers(0, 40), shard_size=st.integers(1, 16))
def test_images_that_come_later_form_new_shards_and_old_ones_stay(first, later, shard_size):
    everyone = listed(first + later)
    early = [image for image in everyone if int(image.uri.rsplit("/", 1)[1][:-4]) < first]
    there = {number: written(shard) for number, shard in assign_shards(early, {}, shard_size, SHAPE).missing.items()}
    grown = assign_shards(everyone, there, shard_size, SHAPE)
    assert {number: [i.uri for i in shard] for number, shard in grown.done.items()} == {
        number: [i.uri for i in meta.images] for number, meta in there.items()
    }
    assert everything(grown) == everyone
    assert not set(grown.missing) & set(there)


def test_a_changed_file_is_extracted_again_and_its_old_row_is_no_longer_read():
    images = listed(6)
    there = {0: written(images[:3]), 1: written(images[3:])}
    changed = [replace(images[4], version="2")]
    shards = assign_shards(sorted([*images[:4], *changed, images[5]]), there, 3, SHAPE)
    assert shards.done == {0: images[:3], 1: [images[3], images[5]]}
    assert shards.missing == {2: changed}


def test_a_broken_image_is_remembered_until_its_file_changes():
    images = listed(4)
    there = {0: written(images, broken=frozenset({images[1].uri}))}
    again = assign_shards(images, there, 4, SHAPE)
    assert again.missing == {}
    assert [image.uri for image in again.failed] == [images[1].uri]
    assert images[1] in [image for shard in again.listed.values() for image in shard]
    assert again.images == 4
    mended = [replace(images[1], version="2")]
    assert assign_shards(sorted([images[0], *mended, *images[2:]]), there, 4, SHAPE).missing == {1: mended}


def test_images_that_left_the_source_are_not_scored():
    images = listed(5)
    shards = assign_shards(images[1:], {0: written(images)}, 5, SHAPE)
    assert shards.all == {0: images[1:]}


def test_shards_of_another_image_size_stay_and_are_not_used():
    images = listed(6)
    there = {0: written(images[:3]), 1: replace(written(images[3:]), image_size=(14, 56))}
    shards = assign_shards(images, there, 3, SHAPE)
    assert shards.done == {0: images[:3]}
    assert shards.missing == {2: images[3:]}


def test_shards_of_another_basis_stay_and_are_not_used_but_their_errors_are():
    images = listed(6)
    broken = frozenset(image.uri for image in images[4:])
    existing = {
        0: replace(written(images[:2]), basis_sha256="b" * 64),
        1: written(images[2:4]),
        2: written(images[4:], broken),
    }
    for basis, number in (("b" * 64, 0), (None, 1), (PENDING, None)):
        found = assign_shards(images, existing, 10, SHAPE, basis=basis)
        assert set(found.done) == ({number} - {None})
        assert set(found.missing) == {3}
        assert {image.image_id for image in found.failed} == {image.image_id for image in images[4:]}
        assert everything(found) == sorted(images[:4])


def test_shards_of_other_crops_are_not_used_and_crops_count_as_rows():
    images = listed(20)
    cut = InputShape(SIZE, CropInput(CropLayout(2, 2), (28, 42)))
    there = assign_shards(images, {0: written(images)}, 10, cut)
    assert [len(shard) for shard in there.missing.values()] == [2] * 10  # of 5 rows each
    assert 0 not in there.missing
    done = {
        number: replace(written(shard), **vars(META.shaped(cut)) | {"images": written(shard).images})
        for number, shard in there.missing.items()
    }
    assert not assign_shards(images, done, 10, cut).missing
    for other in (
        SHAPE,
        InputShape(SIZE, CropInput(CropLayout(2, 2), (42, 28))),
        InputShape((14, 28), CropInput(CropLayout(2, 2), (28, 42))),
        InputShape(SIZE, CropInput(CropLayout(2, 2, 0.3), (28, 42))),
        InputShape(SIZE, CropInput(CropLayout(1, 4), (28, 42))),
    ):
        assert not assign_shards(images, done, 10, other).done
    assert [len(shard) for shard in assign_shards(images[:3], {}, 4, cut).missing.values()] == [1, 1, 1]
