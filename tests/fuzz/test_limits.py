"""Limits are kept: memory of a worker, requests in flight; and what is refused names its setting."""

import subprocess
import sys
import threading
import time

import fsspec
import pytest

from musc_ray.settings.loading import load_settings
from musc_ray.sources.reading import read_image
from musc_ray.storage import requests as in_flight

SHORT_OF_MEMORY = """
import re, sys
from pathlib import Path
import numpy as np
from musc_ray.backbones import describe_backbone
from musc_ray.settings.loading import load_settings
from musc_ray.sources.catalog import catalog_images
from musc_ray.runtime.worker import WorkerResources, limit_memory
from musc_ray.features.extraction import ExtractorOptions, ShardTask
from musc_ray.features.workspace import features_meta
from musc_ray.features.extractor import Extractor
from musc_ray.storage.shards import read_layer
from tests.helpers.pictures import write_pictures
from tests.fuzz.test_limits import tiny_weights

folder = Path(sys.argv[1])
write_pictures(folder / "images", 24)
model = "timm:vit_tiny_patch16_224"
settings = load_settings(None, {"backbone": model, "weights": tiny_weights(folder), "batch_size": 24})
meta = features_meta(describe_backbone(model, (448, 448)), "0" * 64, "f" * 16)
task = ShardTask("all", 0, catalog_images(str(folder / "images"))["all"])
found = []
for out in ("roomy", "short"):
    options = ExtractorOptions.of(settings, "float32")
    extractor = Extractor(options, str(folder / out), meta, WorkerResources(1, 1, 0, 1, "cpu"))
    extractor.extract(ShardTask("all", 1, task.images[:1]))  # the model is there
    if out == "short":
        taken = int(re.search(r"VmData:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
        limit_memory(taken + 300_000_000)
    stats = extractor.extract(task)
    path = extractor.out_paths.shard(meta.features_id, "all", 0)
    found.append(read_layer(extractor.out_paths.fs, path, 11, [image.image_id for image in task.images]))
    print(out, stats.halved_batches, len(stats.failed))
print(float(np.abs(found[0].astype(float) - found[1].astype(float)).max()))
"""


def tiny_weights(folder) -> str:
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    save_file(timm.create_model("vit_tiny_patch16_224", num_classes=0).state_dict(), folder / "w.safetensors")
    return str(folder / "w.safetensors")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_a_worker_that_reaches_its_memory_halves_its_batches_and_gives_the_same(tmp_path):
    done = subprocess.run([sys.executable, "-c", SHORT_OF_MEMORY, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    roomy, short, difference = done.stdout.splitlines()
    assert roomy == "roomy 0 0"
    name, halved, failed = short.split()
    assert (name, failed) == ("short", "0")
    assert int(halved) > 0
    assert float(difference) < 0.02


def test_no_more_requests_are_in_flight_than_the_setting_says(monkeypatch):
    memory, now, most, lock = fsspec.filesystem("memory"), [0], [0], threading.Lock()
    memory.pipe_file("/requests/a.png", b"x")
    opened = type(memory).open

    def counted(self, *args, **kwargs):
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.01)
        with lock:
            now[0] -= 1
        return opened(self, *args, **kwargs)

    monkeypatch.setattr(type(memory), "open", counted)
    in_flight.limit_requests(3)
    try:
        threads = [threading.Thread(target=read_image, args=("memory://requests/a.png",)) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        in_flight.limit_requests(in_flight.MAX_REQUESTS)
    assert most[0] == 3


@pytest.mark.parametrize(
    "name", ["max_pixels", "max_image_mb", "max_requests", "max_worker_gb", "max_pending_gb", "cache_mb"]
)
def test_limits_are_settings_that_say_what_they_must_be(name):
    with pytest.raises(Exception, match=f"Setting '{name}' must be a whole number of at least 1"):
        load_settings(None, {name: 0})
    assert getattr(load_settings(None, {name: "7"}), name) == 7
