"""Feature shards come back as they were written, and half-written files are never visible."""

import json
import re
from dataclasses import replace

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest

from musc_ray.errors import MuscRayError
from musc_ray.storage.filesystem import atomic_file, check_writable, read_json, write_json
from musc_ray.storage.layer_columns import LayerTokens, layer_column
from musc_ray.storage.paths import OutPaths, escape_group
from musc_ray.storage.shard_writer import write_shard
from musc_ray.storage.shards import (
    BrokenShardError,
    FeaturesMeta,
    ShardImage,
    read_class_tokens,
    read_layer,
    read_meta,
    read_norms,
)

GRID, LAYERS, CHANNELS = (2, 3), (5, 11), 4


@pytest.fixture(params=["file", "memory"])
def fs_and_folder(request, tmp_path):
    if request.param == "file":
        yield fsspec.filesystem("file"), str(tmp_path)
    else:
        memory = fsspec.filesystem("memory")
        yield memory, "/musc"
        memory.rm("/musc", recursive=True)


def shard_of(images: int):
    generator = np.random.default_rng(0)
    meta = FeaturesMeta(
        GRID, LAYERS, CHANNELS, 3, (28, 42), "timm:x", "0" * 64, "f" * 16,
        images=[ShardImage(f"id{i}", f"file:///{i}.png", "v") for i in range(images)]
        + [ShardImage("bad", "file:///bad.png", "v", "ImageError", "is no image")],
    )  # fmt: skip
    layers = [generator.standard_normal((images, 6, CHANNELS)).astype(np.float16) for _ in LAYERS]
    return meta, generator.standard_normal((images, 3)).astype(np.float32), layers


def test_a_shard_comes_back_bit_for_bit(fs_and_folder):
    fs, folder = fs_and_folder
    path = f"{folder}/shard-00000.parquet"
    meta, class_tokens, layers = shard_of(5)
    write_shard(fs, path, meta, class_tokens, layers)
    assert read_meta(fs, path) == meta
    some = ["id3", "id0"]
    for layer, tokens in zip(LAYERS, layers, strict=True):
        np.testing.assert_array_equal(read_layer(fs, path, layer, some), tokens[[3, 0]])
    np.testing.assert_array_equal(read_class_tokens(fs, path, some), class_tokens[[3, 0]])


def test_the_table_is_the_contract(tmp_path):
    path = tmp_path / "shard-00000.parquet"
    meta, class_tokens, layers = shard_of(2)
    write_shard(fsspec.filesystem("file"), str(path), meta, class_tokens, layers)
    table = pq.read_table(path)
    assert [(f.name, str(f.type)) for f in table.schema] == [
        ("image_id", "string"), ("uri", "string"), ("class_token", "binary"), ("layer_05", "binary"),
        ("layer_11", "binary"),
    ]  # fmt: skip
    stored = json.loads(table.schema.metadata[b"musc_ray"])
    assert stored["grid"] == [2, 3]
    assert stored["layers"] == [5, 11]
    assert stored["channels"] == CHANNELS
    assert stored["class_channels"] == 3
    assert stored["dtype"] == "float16"
    assert stored["image_size"] == [28, 42]
    assert {"backbone", "weights_sha256", "features_id"} <= set(stored)
    raw = table[layer_column(11)][1].as_py()
    np.testing.assert_array_equal(np.frombuffer(raw, "<f2").reshape(6, CHANNELS), layers[1][1])


BASIS = "b" * 64


def compressed_shard(dtype: str, images: int = 4):
    meta, class_tokens, _ = shard_of(images)
    listed = [replace(image, outside=(0.25, 0.5)) if image.error is None else image for image in meta.images]
    meta = replace(meta, dtype=dtype, original_channels=9, basis_sha256=BASIS, images=listed)
    generator = np.random.default_rng(1)
    layers = []
    for _ in LAYERS:
        shape, norms = (images, 6, CHANNELS), generator.random((images, 2), np.float32)
        if dtype == "int8":
            tokens = generator.integers(-127, 128, shape).astype(np.int8)
            layers.append(LayerTokens(tokens, generator.random((images, 6), np.float32), norms))
        else:
            layers.append(LayerTokens(generator.standard_normal(shape).astype(np.float16), None, norms))
    return meta, class_tokens, layers


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_a_compressed_shard_comes_back_for_its_own_basis_only(fs_and_folder, dtype):
    fs, folder = fs_and_folder
    path = f"{folder}/shard-00000.parquet"
    meta, class_tokens, layers = compressed_shard(dtype)
    write_shard(fs, path, meta, class_tokens, layers)
    assert read_meta(fs, path) == meta
    rows, ids = [3, 0], ["id3", "id0"]
    for layer, stored in zip(LAYERS, layers, strict=True):
        found = read_layer(fs, path, layer, ids, BASIS)
        scales = 1 if stored.scales is None else stored.scales[rows][:, :, None]
        assert found.dtype == (np.float16 if dtype == "float16" else np.float32)
        np.testing.assert_array_equal(found, stored.tokens[rows] * scales)
        np.testing.assert_array_equal(read_norms(fs, path, layer, ids, BASIS), stored.norms[rows])
    for other in (None, "c" * 64):
        with pytest.raises(BrokenShardError, match="its features have basis bbbbbbbbbbbb, its group has"):
            read_layer(fs, path, LAYERS[0], ids, other)
    write_shard(fs, path, *shard_of(4))
    with pytest.raises(BrokenShardError, match="its features have no basis, its group has basis bbbbbbbbbbbb"):
        read_layer(fs, path, LAYERS[0], ids, BASIS)


def test_raw_tokens_can_be_int8_too_and_scales_and_norms_are_as_safe_as_tokens(tmp_path):
    fs, path = fsspec.filesystem("file"), tmp_path / "shard-00000.parquet"
    meta, class_tokens, layers = compressed_shard("int8")
    raw = replace(meta, original_channels=None, basis_sha256=None)
    write_shard(fs, str(path), raw, class_tokens, [replace(stored, norms=None) for stored in layers])
    found = read_layer(fs, str(path), 11, ["id1"])
    np.testing.assert_array_equal(found[0], layers[1].tokens[1] * layers[1].scales[1][:, None])
    with pytest.raises(ValueError, match="layer_05_scale does not go with"):
        write_shard(fs, str(path), raw, class_tokens, [replace(stored, scales=None) for stored in layers])
    with pytest.raises(ValueError, match="layer_05_norm does not go with"):
        write_shard(fs, str(path), raw, class_tokens, layers)
    for broken in ("scales", "norms"):
        poisoned = [replace(stored, **{broken: np.full_like(getattr(stored, broken), np.nan)}) for stored in layers]
        write_shard(fs, str(path), meta, class_tokens, poisoned)
        with pytest.raises(BrokenShardError, match="NaN"):
            (read_layer if broken == "scales" else read_norms)(fs, str(path), 5, ["id2"], BASIS)
    write_shard(fs, str(path), meta, class_tokens, layers)
    whole = path.read_bytes()
    for values, read in ((layers[0].scales[2], read_layer), (layers[0].norms[2], read_norms)):
        at = whole.index(values.tobytes())
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(BrokenShardError, match="checksum of image id2"):
            read(fs, str(path), 5, ["id2"], BASIS)


def test_a_shard_without_readable_images_can_be_written(tmp_path):
    meta, class_tokens, layers = shard_of(0)
    path = str(tmp_path / "shard-00000.parquet")
    write_shard(fsspec.filesystem("file"), path, meta, class_tokens, layers)
    assert read_meta(fsspec.filesystem("file"), path).extracted == []
    assert len(pq.read_table(path)) == 0


def test_a_failed_write_leaves_nothing_and_keeps_what_was_there(fs_and_folder):
    fs, folder = fs_and_folder
    path = f"{folder}/a.json"
    write_json(fs, path, {"old": 1})

    def broken_write():
        with atomic_file(fs, path) as partial:
            partial.write_text("half")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        broken_write()
    assert read_json(fs, path) == {"old": 1}
    assert [name.rsplit("/", 1)[1] for name in fs.find(folder)] == ["a.json"]


def test_files_that_are_not_shards_are_named(tmp_path):
    fs = fsspec.filesystem("file")
    path = tmp_path / "shard-00000.parquet"
    path.write_bytes(b"PAR1 but no more")
    with pytest.raises(MuscRayError, match="shard-00000"):
        read_meta(fs, str(path))


def test_an_unwritable_folder_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MuscRayError, match="Cannot write to") as error:
        check_writable(fsspec.filesystem("file"), str(tmp_path / "file" / "below"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("group", ["..", "a/b", "a b", "a=b", "line\nbreak", "ünï", "x" * 1000, "%2e%2e", ""])
def test_group_names_stay_one_path_segment(group, tmp_path):
    segment = escape_group(group)
    assert "/" not in segment
    assert "\n" not in segment
    assert len(segment) < 220
    run_paths = OutPaths.at(str(tmp_path)).run("run")
    path = run_paths.part(run_paths.scores, group, 3)
    name = path.removeprefix(f"{tmp_path}/runs/run/scores/")
    assert re.fullmatch(r"part-[A-Za-z0-9._-]*[0-9a-f]{8}-00003\.parquet", name)


def test_different_long_groups_do_not_meet():
    assert escape_group("x" * 1000) != escape_group("x" * 1001)
