"""The extractor on its own: memory that runs out, features that are not finite, images that are none."""

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from musc_ray.backbones import Tokens, describe_backbone
from musc_ray.features import read_ahead
from musc_ray.features.extraction import ExtractorOptions, ExtractStats, ShardTask
from musc_ray.features.extractor import Extractor
from musc_ray.features.workspace import features_meta
from musc_ray.runtime.worker import WorkerResources
from musc_ray.settings.limits import ImageLimits
from musc_ray.settings.loading import load_settings
from musc_ray.sources.catalog import catalog_images
from musc_ray.storage.shard_writer import write_shard
from musc_ray.storage.shards import read_class_tokens, read_layer, read_meta
from tests.helpers.pictures import write_pictures

MODEL = "timm:vit_tiny_patch16_224"


@pytest.fixture
def extractor_and_task(tmp_path):
    torch.manual_seed(0)
    weights = tmp_path / "w.safetensors"
    save_file(timm.create_model("vit_tiny_patch16_224").state_dict(), weights)
    write_pictures(tmp_path / "images", 7)
    overrides = {"backbone": MODEL, "weights": str(weights), "batch_size": 4}
    meta = features_meta(describe_backbone(MODEL, (32, 32)), "0" * 64, "f" * 16)
    options = ExtractorOptions.of(load_settings(None, overrides), "float32")
    extractor = Extractor(options, str(tmp_path / "out"), meta, WorkerResources(1, 1, 0, 1, "cpu"))
    return extractor, ShardTask("all", 0, catalog_images(str(tmp_path / "images"))["all"])


def stored(extractor: Extractor, layer: int) -> tuple[list[str], np.ndarray, np.ndarray]:
    path = extractor.out_paths.shard(extractor.meta.features_id, "all", 0)
    ids = [image.image_id for image in read_meta(extractor.out_paths.fs, path).extracted]
    return (
        ids,
        read_layer(extractor.out_paths.fs, path, layer, ids),
        read_class_tokens(extractor.out_paths.fs, path, ids),
    )


def test_a_batch_that_runs_out_of_memory_is_halved_and_gives_the_same(extractor_and_task, monkeypatch):
    extractor, task = extractor_and_task
    assert extractor.extract(task).halved_batches == 0
    whole = stored(extractor, 11)
    forward = extractor.backbone.forward

    def small_memory(images):
        if len(images) > 1:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
        return forward(images)

    monkeypatch.setattr(extractor.backbone, "forward", small_memory)
    stats = extractor.extract(task)
    assert stats.halved_batches == 3 + 2  # batches of 4 and 3 images, one by one
    ids, tokens, class_tokens = stored(extractor, 11)
    assert ids == whole[0]
    assert len(ids) == 7
    np.testing.assert_allclose(tokens, whole[1], atol=2e-3)
    np.testing.assert_allclose(class_tokens, whole[2], atol=1e-4)


def test_a_single_image_that_does_not_fit_is_an_error(extractor_and_task, monkeypatch):
    extractor, task = extractor_and_task

    def no_memory(images):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(extractor.backbone, "forward", no_memory)
    with pytest.raises(torch.OutOfMemoryError):
        extractor.extract(task)


def test_other_errors_of_the_model_are_not_swallowed(extractor_and_task, monkeypatch):
    extractor, task = extractor_and_task

    def broken(images):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(extractor.backbone, "forward", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        extractor.extract(task)


def test_an_image_with_nan_features_fails_alone(extractor_and_task, monkeypatch):
    extractor, task = extractor_and_task
    extractor.extract(task)
    ids, tokens, _ = stored(extractor, 5)
    forward = extractor.backbone.forward

    def poisoned(images):
        result = forward(images)
        layers = [layer.clone() for layer in result.layers]
        layers[1][0, 3, 2] = float("inf")
        return Tokens(layers, result.class_tokens)

    monkeypatch.setattr(extractor.backbone, "forward", poisoned)
    stats = extractor.extract(task)
    bad = {image.image_id for _, image in stats.failed}
    assert bad == {ids[0], ids[4]}  # the first of each batch
    left, others, _ = stored(extractor, 5)
    assert left == [image_id for image_id in ids if image_id not in bad]
    np.testing.assert_array_equal(others, tokens[[1, 2, 3, 5, 6]])


def test_a_missing_and_a_broken_file_fail_alone_and_all_failing_is_no_crash(extractor_and_task, tmp_path):
    extractor, task = extractor_and_task
    files = sorted((tmp_path / "images").rglob("cell*"))
    files[0].unlink()
    files[1].write_bytes(b"no image")
    stats = extractor.extract(task)
    assert sorted(image.error for _, image in stats.failed) == ["FileNotFoundError", "ImageError"]
    assert len(stored(extractor, 11)[0]) == 5
    for path in files[1:]:
        path.write_bytes(b"no image")
    stats = extractor.extract(task)
    assert len(stats.failed) == 7
    path = extractor.out_paths.shard(extractor.meta.features_id, "all", 0)
    assert read_meta(extractor.out_paths.fs, path).extracted == []


def test_pixels_beyond_the_limit_are_refused(extractor_and_task, tmp_path):
    extractor, task = extractor_and_task
    Image.new("L", (400, 400)).save(tmp_path / "images" / "large.png")
    extractor.reader.limits = ImageLimits(pixels=150_000)
    images = catalog_images(str(tmp_path / "images"))["all"]
    stats = extractor.extract(replace(task, images=images))
    assert [image.uri.rsplit("/", 1)[1] for _, image in stats.failed] == ["large.png"]


def test_a_shard_is_written_while_the_next_one_is_in_the_model(extractor_and_task, monkeypatch):
    extractor, task = extractor_and_task
    next_in_model, forward = threading.Event(), extractor.backbone.forward

    def slow_store(fs, path, *features):
        assert path.endswith("shard-00001.parquet") or next_in_model.wait(60)
        return write_shard(fs, path, *features)

    def announced(images):
        if threading.current_thread().name == "second":
            next_in_model.set()
        return forward(images)

    monkeypatch.setattr("musc_ray.features.extractor.write_shard", slow_store)
    monkeypatch.setattr(extractor.backbone, "forward", announced)
    second = threading.Thread(target=lambda: extractor.extract(replace(task, shard=1)), name="second")
    started = threading.Timer(0.2, second.start)
    started.start()
    extractor.extract(task)
    started.join()
    second.join()
    assert next_in_model.is_set()
    ids, tokens, _ = stored(extractor, 11)
    other = extractor.out_paths.shard(extractor.meta.features_id, "all", 1)
    np.testing.assert_array_equal(tokens, read_layer(extractor.out_paths.fs, other, 11, ids))


def test_only_a_broken_shard_is_extracted_again_and_what_fails_then_leaves_it(extractor_and_task, monkeypatch):
    extractor, task = extractor_and_task
    extractor.extract(task)
    path = Path(extractor.out_paths.shard(extractor.meta.features_id, "all", 0))
    whole = path.read_bytes()
    assert extractor.repair(task) == ExtractStats()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    path.write_bytes(flipped)
    assert extractor.repair(task).shards == 1
    assert path.read_bytes() == whole
    forward, calls = extractor.backbone.forward, []

    def gives_nan(images):
        tokens = forward(images)
        layers = [layer.clone() for layer in tokens.layers]
        if not calls:
            layers[0][1, 2, 3] = torch.nan
        calls.append(len(images))
        return Tokens(layers, tokens.class_tokens)

    monkeypatch.setattr(extractor.backbone, "forward", gives_nan)
    path.write_bytes(whole[:1000])
    stats = extractor.repair(task)
    assert [(image.image_id, image.error) for _, image in stats.failed] == [(task.images[1].image_id, "FeatureError")]
    assert stored(extractor, 5)[0] == [image.image_id for image in task.images if image is not task.images[1]]


def test_too_little_memory_to_read_beside_the_model_costs_no_image(extractor_and_task, monkeypatch):
    extractor, task = extractor_and_task
    read, short = read_ahead.read_image, {task.images[0].uri: 1, task.images[1].uri: 99}

    def scarce(uri, max_bytes):
        short[uri] = short.get(uri, 0) - 1
        if short[uri] >= 0:
            raise MemoryError
        return read(uri, max_bytes)

    monkeypatch.setattr(read_ahead, "read_image", scarce)
    stats = extractor.extract(task)
    ((_, failed),) = stats.failed
    assert (failed.image_id, failed.error) == (task.images[1].image_id, "MemoryError")
    assert "max_worker_gb" in failed.message
