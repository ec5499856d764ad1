"""Extraction of images that are cut: a row a place, each as if the crop were an image of its own."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from musc_ray.backbones import Tokens, describe_backbone
from musc_ray.core.crops import CropInput, CropLayout, InputShape
from musc_ray.features.extraction import ExtractorOptions, FitTask, ShardTask
from musc_ray.features.extractor import Extractor
from musc_ray.features.fitting import MIN_CUT_IMAGES, SAMPLE_ROWS, sample_size
from musc_ray.features.workspace import features_meta
from musc_ray.runtime.worker import WorkerResources
from musc_ray.settings.loading import load_settings
from musc_ray.sources.catalog import catalog_images
from musc_ray.storage.shards import read_class_tokens, read_layer, read_meta
from tests.helpers.pictures import write_pictures

MODEL = "timm:vit_tiny_patch16_224"
LAYOUT = CropLayout(2, 2, 0.25)
CUT = InputShape((32, 48), CropInput(LAYOUT, (48, 32)))
IMAGES = 5


@pytest.fixture
def extractor_of(tmp_path):
    torch.manual_seed(0)
    weights = tmp_path / "w.safetensors"
    save_file(timm.create_model("vit_tiny_patch16_224").state_dict(), weights)

    def make(**given) -> Extractor:
        overrides = {"backbone": MODEL, "weights": str(weights), "batch_size": 3} | given
        meta = features_meta(describe_backbone(MODEL, (32, 32)), "0" * 64, "f" * 16)
        options = ExtractorOptions.of(load_settings(None, overrides), "float32")
        return Extractor(options, str(tmp_path / "out"), meta, WorkerResources(1, 1, 0, 1, "cpu"))

    return make


@pytest.fixture
def images(tmp_path):
    write_pictures(tmp_path / "images", IMAGES)
    return catalog_images(str(tmp_path / "images"))["all"]


def stored(extractor: Extractor, places, shard: int = 0, layer: int = 11):
    fs, path = extractor.out_paths.fs, extractor.out_paths.shard(extractor.meta.features_id, "all", shard)
    ids = [image.image_id for image in read_meta(fs, path).extracted]
    return ids, read_layer(fs, path, layer, ids, None, places), read_class_tokens(fs, path, ids, places)


def test_each_row_is_what_its_crop_gives_as_an_image(extractor_of, images, tmp_path):
    extractor = extractor_of()
    stats = extractor.extract(ShardTask("all", 0, images, shape=CUT))
    assert (stats.images, stats.failed) == (IMAGES, [])
    ids, tokens, class_tokens = stored(extractor, range(1, 5))
    assert tokens.shape == (IMAGES * 4, 3 * 2, 192)
    meta = read_meta(extractor.out_paths.fs, extractor.out_paths.shard(extractor.meta.features_id, "all", 0))
    assert (meta.grid, meta.whole_grid, meta.crops, meta.shape) == ((3, 2), (2, 3), LAYOUT, CUT)
    assert [image.height is not None for image in meta.images] == [True] * IMAGES
    for image, path in {image.image_id: image.uri for image in images}.items():
        picture = Image.open(path.removeprefix("file://")).convert("RGB")
        for place, (top, left, bottom, right) in enumerate(LAYOUT.boxes(picture.height, picture.width)):
            folder = tmp_path / "crops" / str(place)
            folder.mkdir(parents=True, exist_ok=True)
            picture.crop((left, top, right, bottom)).save(folder / f"{image}.png")
    for place in range(4):
        alone = catalog_images(str(tmp_path / "crops" / str(place)))["all"]
        extractor.extract(ShardTask("all", 1 + place, alone, shape=InputShape((48, 32))))
        names, found, class_found = stored(extractor, (0,), 1 + place)
        by_id = {image.image_id: image.uri.rpartition("/")[2].removesuffix(".png") for image in alone}
        order = [[by_id[name] for name in names].index(image_id) for image_id in ids]
        np.testing.assert_allclose(tokens[place::4].astype(float), found[order].astype(float), atol=2e-3)
        np.testing.assert_allclose(class_tokens[place::4], class_found[order], atol=1e-4)
    extractor.extract(ShardTask("all", 9, images, shape=InputShape((32, 48))))
    cut, uncut = stored(extractor, (0,)), stored(extractor, (0,), 9)
    assert cut[0] == uncut[0]
    np.testing.assert_allclose(cut[1].astype(float), uncut[1].astype(float), atol=2e-3)
    np.testing.assert_allclose(cut[2], uncut[2], atol=1e-4)


def test_batches_count_inputs_of_the_model_and_are_full(extractor_of, images, monkeypatch):
    extractor, sizes = extractor_of(), []
    forward = extractor.backbone.forward

    def counted(pictures):
        sizes.append(tuple(pictures.shape[:3]))
        return forward(pictures)

    monkeypatch.setattr(extractor.backbone, "forward", counted)
    extractor.extract(ShardTask("all", 0, images, shape=CUT))
    assert sizes == [(3, 48, 32)] * 6 + [(2, 48, 32), (3, 32, 48), (2, 32, 48)]


@pytest.mark.parametrize("bad", ["crop", "whole"])
def test_one_bad_row_fails_its_image_alone(extractor_of, images, monkeypatch, bad):
    extractor = extractor_of(batch_size=1)
    extractor.extract(ShardTask("all", 0, images, shape=CUT))
    (ids, crops, _), (_, wholes, _) = stored(extractor, (1, 2, 3, 4)), stored(extractor, (0,))
    forward, call = extractor.backbone.forward, iter(range(10**6))
    poisoned = 2 * 4 + 1 if bad == "crop" else IMAGES * 4 + 2

    def poison(pictures):
        result = forward(pictures)
        if next(call) != poisoned:
            return result
        return Tokens([layer * float("nan") for layer in result.layers], result.class_tokens)

    monkeypatch.setattr(extractor.backbone, "forward", poison)
    stats = extractor.extract(ShardTask("all", 0, images, shape=CUT))
    assert [(image.image_id, image.error) for _, image in stats.failed] == [(ids[2], "FeatureError")]
    left, others, _ = stored(extractor, (1, 2, 3, 4))
    assert left == [*ids[:2], *ids[3:]]
    np.testing.assert_array_equal(others, np.delete(crops, range(8, 12), axis=0))
    np.testing.assert_array_equal(stored(extractor, (0,))[1], np.delete(wholes, 2, axis=0))


def test_unreadable_images_fail_alone_and_all_failing_is_no_crash(extractor_of, images, tmp_path):
    extractor = extractor_of()
    files = sorted((tmp_path / "images").rglob("cell*"))
    files[0].write_bytes(b"no image")
    assert len(extractor.extract(ShardTask("all", 0, images, shape=CUT)).failed) == 1
    assert len(stored(extractor, (1, 2))[0]) == IMAGES - 1
    for path in files:
        path.write_bytes(b"no image")
    assert len(extractor.extract(ShardTask("all", 0, images, shape=CUT)).failed) == IMAGES
    assert stored(extractor, (0,))[0] == []


@pytest.mark.parametrize("place", [0, 3])
def test_repair_extracts_a_shard_with_a_broken_row_of_any_place(extractor_of, images, place):
    extractor, task = extractor_of(), ShardTask("all", 0, images, shape=CUT)
    extractor.extract(task)
    assert extractor.repair(task).shards == 0
    path = Path(extractor.out_paths.shard(extractor.meta.features_id, "all", 0))
    before = path.read_bytes()
    victim = stored(extractor, (place,))[1][1].tobytes()
    at = before.index(victim)
    path.write_bytes(before[:at] + bytes([victim[0] ^ 1]) + before[at + 1 :])
    assert extractor.repair(task).shards == 1
    assert path.read_bytes() == before


def test_a_basis_comes_from_rows_of_all_places_and_serves_all_of_them(extractor_of, images, monkeypatch):
    extractor = extractor_of(compress=8)
    seen = []
    forward = extractor.backbone.forward

    def watched(pictures):
        seen.append(tuple(pictures.shape[1:3]))
        return forward(pictures)

    monkeypatch.setattr(extractor.backbone, "forward", watched)
    fitted = extractor.fit(FitTask("all", images, 8, shape=CUT)).fitted["all"]
    assert fitted is not None
    assert (fitted.sample, fitted.channels) == (IMAGES, 8)
    assert set(seen) == {(48, 32), (32, 48)}
    stats = extractor.extract(ShardTask("all", 0, images, shape=CUT, compression=fitted))
    assert stats.outside["all"].images == IMAGES
    fs, path = extractor.out_paths.fs, extractor.out_paths.shard(extractor.meta.features_id, "all", 0)
    ids = [image.image_id for image in images]
    for places, patches in (((0,), 6), ((4, 1), 6)):
        found = read_layer(fs, path, 11, ids, fitted.sha256, places)
        assert found.shape == (IMAGES * len(places), patches, 8)
    assert extractor.repair(ShardTask("all", 0, images, shape=CUT, compression=fitted)).shards == 0


def test_samples_of_bases_are_bounded():
    for layout in (CropLayout(1, 2), CropLayout(3, 3), CropLayout(6, 7), CropLayout(30, 30)):
        found, crops = sample_size(InputShape((32, 32), CropInput(layout, (32, 32))))
        assert found >= MIN_CUT_IMAGES
        assert 1 <= crops <= layout.count
        assert found * (crops + 1) <= SAMPLE_ROWS * 1.5
