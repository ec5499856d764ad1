"""Damaged files of compressed features: shards are broken or as written, decisions and bases are named."""

import tempfile
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pytest
from hypothesis import given

from musc_ray.errors import MuscRayError
from musc_ray.storage.bases import Compression, decide, read_compression, read_directions, write_directions
from musc_ray.storage.layer_columns import LayerTokens
from musc_ray.storage.paths import OutPaths
from musc_ray.storage.shard_writer import write_shard
from musc_ray.storage.shards import BrokenShardError, read_layer, read_meta, read_norms
from tests.fuzz.conftest import examples
from tests.fuzz.mutation import mutated
from tests.fuzz.test_shards import CLASS_TOKENS, IDS, LOCAL
from tests.fuzz.test_shards import META as RAW

BASIS, ID, GROUP = "b" * 64, "f" * 16, "g"
META = replace(
    RAW,
    dtype="int8",
    original_channels=9,
    basis_sha256=BASIS,
    images=[replace(image, outside=(0.25, 0.5)) for image in RAW.images],
)


def stored_layers() -> list[LayerTokens]:
    chance = np.random.default_rng(0)
    return [
        LayerTokens(
            chance.integers(-127, 128, (5, 6, 4)).astype(np.int8),
            chance.random((5, 6), np.float32),
            chance.random((5, 2), np.float32),
        )
        for _ in META.layers
    ]


LAYERS = stored_layers()


def shard_bytes() -> bytes:
    memory = fsspec.filesystem("memory")
    write_shard(memory, "/fuzz/compressed.parquet", META, CLASS_TOKENS, LAYERS)
    return memory.cat_file("/fuzz/compressed.parquet")


SEED = shard_bytes()
DIRECTIONS = {layer: np.random.default_rng(layer).standard_normal((9, 4)).astype(np.float32) for layer in META.layers}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("compressed")


def as_written(path: Path) -> bool:
    """Whether the shard is read as it was written; False if it is found to be broken. Nothing else may happen."""
    try:
        meta = read_meta(LOCAL, str(path))
        layers = [read_layer(LOCAL, str(path), layer, IDS, BASIS) for layer in META.layers]
        norms = [read_norms(LOCAL, str(path), layer, IDS, BASIS) for layer in META.layers]
    except BrokenShardError as error:
        assert "\n" not in str(error)  # noqa: PT017
        return False
    assert meta == META
    for layer, norm, expected in zip(layers, norms, LAYERS, strict=True):
        np.testing.assert_array_equal(layer, expected.tokens * expected.scales[:, :, None])
        np.testing.assert_array_equal(norm, expected.norms)
    return True


@examples(300)
@given(data=mutated((SEED,)))
def test_damaged_compressed_shards(data: bytes, folder, no_hang, figures) -> None:
    figures["inputs fuzzed"] += 1
    path = folder / "shard-00000.parquet"
    path.write_bytes(data)
    with no_hang():
        as_written(path)


def test_every_flipped_byte_of_scales_and_norms_is_found(folder, figures):
    path = folder / "shard-00000.parquet"
    for column in (array for layer in LAYERS for array in (layer.tokens, layer.scales, layer.norms)):
        start = SEED.find(column[0].tobytes())
        assert start >= 0
        for place in range(start, start + column[0].nbytes):
            data = bytearray(SEED)
            data[place] ^= 1 << place % 8
            path.write_bytes(data)
            figures["inputs fuzzed"] += 1
            assert not as_written(path)


def files_of(folder: Path) -> tuple[OutPaths, str, bytes, bytes]:
    """Write a decision and its basis; returns the hash and what both files hold."""
    out = OutPaths.at(str(folder))
    sha256 = write_directions(out, ID, GROUP, DIRECTIONS)
    decide(out, ID, GROUP, Compression(70, 4, 64, (0.5, 0.75), sha256))
    decision, basis = Path(out.compression(ID, GROUP)), Path(out.basis(ID, GROUP, sha256))
    return out, sha256, decision.read_bytes(), basis.read_bytes()


@pytest.fixture(scope="module")
def files(folder) -> tuple[OutPaths, str]:
    return files_of(folder)[:2]


def seeds(which: int) -> tuple[bytes, ...]:
    """Bytes of a decision (2) or a basis (3)."""
    with tempfile.TemporaryDirectory() as name:
        return (files_of(Path(name))[which],)


@examples(200)
@given(data=mutated(seeds(3)))
def test_damaged_bases(data: bytes, files, no_hang, figures) -> None:
    figures["inputs fuzzed"] += 1
    out, sha256 = files
    Path(out.basis(ID, GROUP, sha256)).write_bytes(data)
    with no_hang():
        try:
            found = read_directions(out, ID, GROUP, sha256, META.layers)
        except MuscRayError as error:
            assert "is not the basis of group 'g'" in str(error)  # noqa: PT017
            return
    for layer, vectors in DIRECTIONS.items():
        np.testing.assert_array_equal(found[layer], vectors)


@examples(200)
@given(data=mutated(seeds(2)))
def test_damaged_decisions(data: bytes, files, no_hang, figures) -> None:
    figures["inputs fuzzed"] += 1
    out, _ = files
    Path(out.compression(ID, GROUP)).write_bytes(data)
    with no_hang():
        try:
            read_compression(out, ID, GROUP)
        except MuscRayError as error:
            assert "delete it and run again" in str(error)  # noqa: PT017
