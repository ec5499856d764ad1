"""Shards of images that are cut: a row a place, each with checksums of its own; the whole image has its own grid."""

import json
from dataclasses import replace

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest

from musc_ray.core.crops import CropLayout
from musc_ray.storage.layer_columns import LayerTokens
from musc_ray.storage.shard_writer import Wholes, write_shard
from musc_ray.storage.shards import (
    BrokenShardError,
    FeaturesMeta,
    ShardImage,
    read_class_tokens,
    read_layer,
    read_meta,
    read_norms,
)

LAYERS, CHANNELS, PATCHES, WHOLE_PATCHES, PLACES, BASIS = (5, 11), 4, 6, 15, 3, "b" * 64
FS = fsspec.filesystem("file")


def meta_of(images: int, **given) -> FeaturesMeta:
    return FeaturesMeta(
        (2, 3), LAYERS, CHANNELS, 3, (28, 42), "timm:x", "0" * 64, "f" * 16,
        images=[ShardImage(f"id{i}", f"file:///{i}.png", "v") for i in range(images)]
        + [ShardImage("bad", "file:///bad.png", "v", "ImageError", "is no image")],
        crops=CropLayout(2, 1, 0.25), whole_grid=(5, 3), whole_size=(70, 42), **given,
    )  # fmt: skip


def rows_of(rows: int, patches: int, seed: int, compressed: bool) -> Wholes:
    generator = np.random.default_rng(seed)
    layers = []
    for _ in LAYERS:
        shape = (rows, patches, CHANNELS)
        if compressed:
            tokens = generator.integers(-127, 128, shape).astype(np.int8)
            layers.append(
                LayerTokens(
                    tokens, generator.random((rows, patches), np.float32), generator.random((rows, 2), np.float32)
                )
            )
        else:
            layers.append(LayerTokens(generator.standard_normal(shape).astype(np.float16)))
    return Wholes(generator.standard_normal((rows, 3)).astype(np.float32), layers)


def written(path, images: int = 3, compressed: bool = False) -> tuple[FeaturesMeta, Wholes, Wholes]:
    given = {"dtype": "int8", "original_channels": 9, "basis_sha256": BASIS} if compressed else {}
    meta = meta_of(images, **given)
    crops, wholes = rows_of(images * 2, PATCHES, 0, compressed), rows_of(images, WHOLE_PATCHES, 1, compressed)
    write_shard(FS, str(path), meta, crops.class_tokens, crops.layers, wholes)
    return meta, crops, wholes


def test_rows_are_images_and_their_places_in_order(tmp_path):
    path = tmp_path / "shard-00000.parquet"
    meta, crops, wholes = written(path)
    table = pq.read_table(path)
    assert [(f.name, str(f.type)) for f in table.schema][:4] == [
        ("image_id", "string"), ("uri", "string"), ("crop", "int16"), ("class_token", "binary"),
    ]  # fmt: skip
    assert table["image_id"].to_pylist() == ["id0"] * 3 + ["id1"] * 3 + ["id2"] * 3
    assert table["uri"].to_pylist()[3:6] == ["file:///1.png"] * 3
    assert table["crop"].to_pylist() == [0, 1, 2] * 3
    stored = json.loads(table.schema.metadata[b"musc_ray"])
    assert (stored["grid"], stored["whole_grid"], stored["image_size"], stored["whole_size"]) == (
        [2, 3], [5, 3], [28, 42], [70, 42],
    )  # fmt: skip
    assert stored["crops"] == {"rows": 2, "columns": 1, "overlap": 0.25}
    tokens = [np.frombuffer(value, "<f2") for value in table["layer_11"].to_pylist()]
    np.testing.assert_array_equal(tokens[3], wholes.layers[1].tokens[1].reshape(-1))
    np.testing.assert_array_equal(tokens[5], crops.layers[1].tokens[3].reshape(-1))
    assert read_meta(FS, str(path)) == meta


@pytest.mark.parametrize("compressed", [False, True])
def test_places_come_back_bit_for_bit_image_by_image(tmp_path, compressed):
    path = str(tmp_path / "shard-00000.parquet")
    _, crops, wholes = written(path, compressed=compressed)
    basis = BASIS if compressed else None
    for layer, of_crops, of_wholes in zip(LAYERS, crops.layers, wholes.layers, strict=True):
        for places, rows, source in [
            ((0,), [2, 0], of_wholes),
            ((1,), [4, 0], of_crops),
            ((2, 1), [5, 4, 1, 0], of_crops),
        ]:
            scales = 1 if source.scales is None else source.scales[rows][:, :, None]
            found = read_layer(FS, path, layer, ["id2", "id0"], basis, places)
            np.testing.assert_array_equal(found, source.tokens[rows] * scales)
            if compressed:
                norms = read_norms(FS, path, layer, ["id2", "id0"], BASIS, places)
                np.testing.assert_array_equal(norms, source.norms[rows])
    np.testing.assert_array_equal(read_class_tokens(FS, path, ["id2", "id1"]), wholes.class_tokens[[2, 1]])
    np.testing.assert_array_equal(read_class_tokens(FS, path, ["id1"], (1, 2)), crops.class_tokens[[2, 3]])


def test_the_whole_image_and_crops_are_never_read_as_one(tmp_path):
    path = str(tmp_path / "shard-00000.parquet")
    written(path)
    with pytest.raises(BrokenShardError, match="cannot be read together"):
        read_layer(FS, path, 5, ["id0"], None, (0, 1))
    for place in (3, -1):
        with pytest.raises(BrokenShardError):
            read_layer(FS, path, 5, ["id0"], None, (place,))


def test_a_row_that_took_the_place_of_another_of_its_image_is_found(tmp_path):
    path = tmp_path / "shard-00000.parquet"
    _, crops, _ = written(path)
    whole = path.read_bytes()
    first, second = (crops.layers[0].tokens[row].tobytes() for row in (2, 3))
    at, behind = whole.index(first), whole.index(second)
    swapped = bytearray(whole)
    swapped[at : at + len(first)], swapped[behind : behind + len(second)] = second, first
    path.write_bytes(bytes(swapped))
    with pytest.raises(BrokenShardError, match="checksum of image id1/2"):
        read_layer(FS, str(path), 5, ["id1"], None, (2,))
    with pytest.raises(BrokenShardError, match="checksum of image id1/1"):
        read_layer(FS, str(path), 5, ["id1"], None, (1, 2))
    read_layer(FS, str(path), 5, ["id0", "id2"], None, (1, 2))


def test_metadata_of_other_crops_than_the_table_has_are_refused(tmp_path):
    path = str(tmp_path / "shard-00000.parquet")
    meta, crops, wholes = written(path)
    plain = replace(meta, crops=None, whole_grid=None, whole_size=None)
    for wrong, of_wholes in [(plain, wholes), (meta, None)]:
        with pytest.raises(ValueError, match="go with crops"):
            write_shard(FS, path, wrong, crops.class_tokens, crops.layers, of_wholes)
    table = pq.read_table(path)
    for layout in ({"rows": 3, "columns": 1, "overlap": 0.25}, {"rows": 2, "columns": 1, "overlap": 7}, {"rows": 2}):
        stored = json.loads(table.schema.metadata[b"musc_ray"]) | {"crops": layout}
        pq.write_table(table.replace_schema_metadata({b"musc_ray": json.dumps(stored).encode()}), path)
        with pytest.raises(BrokenShardError):
            read_meta(FS, path)


def test_a_shard_of_cut_images_without_readable_ones_can_be_written(tmp_path):
    path = str(tmp_path / "shard-00000.parquet")
    written(path, images=0)
    assert read_meta(FS, path).extracted == []
