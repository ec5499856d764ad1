"""Layers as scoring takes them: projections for LNAMD, of raw tokens for SNAMD, turned back for groups together."""

import fsspec
import numpy as np
import pytest
import torch

from musc_ray.backbones import Tokens
from musc_ray.core.compression import Energies, find_bases
from musc_ray.core.lnamd import layer_norm
from musc_ray.features.layer_reader import LayerReader
from musc_ray.features.stored_tokens import TokenStore
from musc_ray.settings.loading import load_settings
from musc_ray.storage.bases import Compression, decide, write_directions
from musc_ray.storage.paths import OutPaths
from musc_ray.storage.shard_writer import write_shard
from musc_ray.storage.shards import BrokenShardError, FeaturesMeta, ShardImage

LAYERS, CHANNELS, IDS = (3, 7), 24, ["a", "b", "c"]
IMAGES = [ShardImage(image_id, f"made://{image_id}", "1") for image_id in IDS]
META = FeaturesMeta((2, 3), LAYERS, CHANNELS, 5, (32, 48), "timm:x", "0" * 64, "f" * 16)


@pytest.fixture
def tokens() -> Tokens:
    generator = torch.Generator().manual_seed(0)
    layers = [torch.randn(3, 6, CHANNELS, generator=generator) * 3 + 1 for _ in LAYERS]
    return Tokens(layers, torch.randn(3, 5, generator=generator))


def store(out: OutPaths, tokens: Tokens, group: str, channels: int | None, dtype: str = "float16") -> str:
    """Write a shard of a group that is compressed to some channels; returns its path."""
    decided = None
    if channels is not None:
        sums = [Energies(CHANNELS, torch.device("cpu")) for _ in LAYERS]
        for total, layer in zip(sums, tokens.layers, strict=True):
            total.add(layer)
        bases = find_bases(sums, channels)
        sha256 = write_directions(
            out,
            META.features_id,
            group,
            {layer: basis.vectors.numpy() for layer, basis in zip(LAYERS, bases, strict=True)},
        )
        decided = decide(
            out, META.features_id, group, Compression(3, channels, 3, tuple(basis.energy for basis in bases), sha256)
        )
    made = TokenStore(out, META, dtype, torch.device("cpu"))
    features, path = made.features(tokens, group, decided), out.shard(META.features_id, group, 0)
    meta = FeaturesMeta(**{**vars(made.meta_of(decided)), "images": IMAGES})
    write_shard(fsspec.filesystem("file"), path, meta, features.class_tokens, features.layers)
    return path


def reader_of(out: OutPaths, **given: object) -> LayerReader:
    return LayerReader(out, META.features_id, load_settings(None, {"compress": 8, **given}), LAYERS)


def test_all_directions_give_back_what_the_aggregations_take(tmp_path, tokens):
    out = OutPaths.at(str(tmp_path))
    path = store(out, tokens, "g", CHANNELS)
    for layer, raw in zip(LAYERS, tokens.layers, strict=True):
        lnamd, snamd = reader_of(out), reader_of(out, aggregation="snamd")
        y = lnamd.read("g", path, layer, IDS)
        assert y.shape == (3, 6, CHANNELS)
        assert not torch.allclose(y.float(), layer_norm(raw), atol=0.1)  # turned
        torch.testing.assert_close(lnamd.read_in_full("g", path, layer, IDS), layer_norm(raw), atol=5e-3, rtol=0)
        torch.testing.assert_close(snamd.read_in_full("g", path, layer, IDS), raw, atol=2e-2, rtol=0)
    assert reader_of(out).is_compressed("g")


def test_groups_that_are_left_as_they_are_give_raw_tokens(tmp_path, tokens):
    out = OutPaths.at(str(tmp_path))
    path = store(out, tokens, "g", None)
    decide(out, META.features_id, "g", Compression(3))
    for aggregation in ("lnamd", "snamd"):
        reader = reader_of(out, aggregation=aggregation)
        assert not reader.is_compressed("g")
        assert torch.equal(reader.read("g", path, 7, IDS[::-1]), tokens.layers[1].half().flip(0))
        assert torch.equal(reader.read_in_full("g", path, 7, IDS), tokens.layers[1].half())


def test_a_shard_of_another_basis_than_the_groups_is_broken(tmp_path, tokens):
    out = OutPaths.at(str(tmp_path))
    path, other = store(out, tokens, "g", 8, "int8"), store(out, tokens, "h", 9, "int8")
    assert reader_of(out).read("g", path, 3, IDS).shape == (3, 6, 8)
    raw = store(out, tokens, "raw", None)
    for group, wrong in (("g", other), ("h", path), ("g", raw), ("raw", path)):
        with pytest.raises(BrokenShardError, match=r"its features have (no )?basis.*, its group has (no )?basis"):
            reader_of(out).read(group, wrong, 3, IDS)


def test_numbers_that_are_not_finite_show_in_what_is_stored(tmp_path, tokens):
    out = OutPaths.at(str(tmp_path))
    store(out, tokens, "g", 8)
    for value in (torch.nan, torch.inf):
        poisoned = [layer.clone() for layer in tokens.layers]
        poisoned[1][1, 2, 3] = value
        for dtype in ("float16", "int8"):
            made = TokenStore(out, FeaturesMeta(**{**vars(META), "dtype": dtype}), dtype, torch.device("cpu"))
            decided = reader_of(out).compression_of("g")
            for compression in (None, decided):
                features = made.features(Tokens(poisoned, tokens.class_tokens), "g", compression)
                assert features.finite.tolist() == [True, False, True]
                kept = features.select(features.finite)
                assert [len(layer.tokens) for layer in kept.layers] == [2, 2]
                whole = made.features(tokens, "g", compression).select(np.array([True, False, True]))
                for got, want in zip(kept.layers, whole.layers, strict=True):
                    np.testing.assert_array_equal(got.tokens, want.tokens)
