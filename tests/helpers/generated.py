"""An archive of generated features, and a command that scores it: stages 3 to 5 alone, at any size.

    python -m tests.helpers.generated OUT '{"images": 400, ...}'

prints the stages' figures as JSON.
"""

import errno
import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import torch

from musc_ray.backbones import Tokens
from musc_ray.core import patch_scores
from musc_ray.core.compression import Energies, find_bases
from musc_ray.features.arithmetic import resolve_arithmetic
from musc_ray.features.context import RunContext
from musc_ray.features.sharding import GroupShards
from musc_ray.features.stored_tokens import TokenStore
from musc_ray.runtime.executor import open_executor
from musc_ray.runtime.hardware import LocalHardware
from musc_ray.runtime.options import ExecutorOptions
from musc_ray.runtime.progress import Progress
from musc_ray.runtime.worker import Role
from musc_ray.scoring import driver, tile_driver
from musc_ray.scoring.block_multiplier import BlockMultiplier
from musc_ray.scoring.patch_sets import patch_sets
from musc_ray.scoring.ring import GroupImages
from musc_ray.scoring.scorer import Scorer
from musc_ray.settings.loading import load_settings
from musc_ray.sources.images import CatalogImage
from musc_ray.storage.bases import Compression, decide, write_directions
from musc_ray.storage.paths import OutPaths
from musc_ray.storage.shard_writer import Wholes, write_shard
from musc_ray.storage.shards import FeaturesMeta, ShardImage

DEFAULTS = {
    "images": 60,
    "grid": [4, 4],
    "channels": 16,
    "layers": 2,
    "groups": 1,
    "shard_size": 8,
    "oom": False,
    "summaries": False,
    "planted": 0,
    "loose": False,
    "shuffled": [],
    "settings": {},
}


PLANTED_SIDE = 3


def group_features(spec: Mapping, group: int, images: range) -> tuple[list[str], np.ndarray, list[np.ndarray]]:
    """Ids, class tokens (n, 8) and tokens (n, L, C) float16, a layer each; every image comes from its own seed."""
    length, channels = spec["grid"][0] * spec["grid"][1], spec["channels"]
    common = np.random.default_rng(group).standard_normal((spec["layers"], length, channels))
    ids, class_tokens, layers = [], [], []
    for n in images:
        generator = np.random.default_rng([group, n])
        ids.append(f"{n:08x}{generator.integers(2**63):024x}")  # in order, but random when read backwards
        class_tokens.append(generator.standard_normal(8) + 1)
        tokens = common + 0.5 * generator.standard_normal(common.shape)
        if group in spec["shuffled"]:  # every image has its places in an order of its own
            tokens = tokens[:, generator.permutation(length)]
        if n % 4 == 1 and n < 4 * spec["planted"]:  # the same defect, a square of patches, hardly different
            place = (np.arange(PLANTED_SIDE)[:, None] * spec["grid"][1] + np.arange(PLANTED_SIDE)).ravel()
            defect = np.random.default_rng(99).standard_normal((spec["layers"], len(place), channels))
            tokens[:, place] = 2 * defect + 0.1 * generator.standard_normal(defect.shape)
        layers.append(tokens.astype(np.float16))
    return ids, np.array(class_tokens, np.float32), list(np.stack(layers, axis=1))


def crop_grid(spec: Mapping) -> tuple[int, int]:
    """The patches (h, w) of a crop: another number than of the whole image."""
    return spec["grid"][0], spec["grid"][1] - 1


def crop_features(spec: Mapping, group: int, images: range, crops: int) -> list[np.ndarray]:
    """Tokens (n * crops, L, C) float16 of images, a layer each; their crops one after the other.

    Crops at one place look alike; in a loose archive every image has its crops in an order of its own.
    """
    (h, w), channels = crop_grid(spec), spec["channels"]
    common = np.random.default_rng([group, 7]).standard_normal((crops, spec["layers"], h * w, channels))
    layers = []
    for n in images:
        generator = np.random.default_rng([group, n, 7])
        tokens = common + 0.5 * generator.standard_normal(common.shape)
        layers.append((tokens[generator.permutation(crops)] if spec["loose"] else tokens).astype(np.float16))
    return list(np.concatenate(layers).swapaxes(0, 1))


def generated_archive(out: str, given: Mapping) -> tuple[RunContext, list[GroupImages]]:
    """Write the feature shards that are missing; returns what `score_groups` takes."""
    spec = {**DEFAULTS, **given}
    settings = load_settings(
        None, {"source": "generated", "out": out, "shard_size": spec["shard_size"], **spec["settings"]}
    )
    out_paths, layers = OutPaths.at(out), tuple(range(spec["layers"]))
    size = (14 * spec["grid"][0], 14 * spec["grid"][1])
    meta = FeaturesMeta(tuple(spec["grid"]), layers, spec["channels"], 8, size, "generated", "0" * 64, "generated")
    if settings.crop_rule is not None:  # the whole image keeps the grid, crops have another one
        grid = crop_grid(spec)
        crop_size = (14 * grid[0], 14 * grid[1])
        meta = replace(meta, crops=settings.crop_rule.layout, whole_grid=meta.grid, whole_size=size)
        meta = replace(meta, grid=grid, image_size=crop_size)
    groups, compression = {}, {}
    for group in range(spec["groups"]):
        name, shards = f"group-{group}", {}
        if settings.compress != "none":
            compression[name] = fitted(out_paths, meta, spec, group, int(settings.compress))
        store = TokenStore(out_paths, meta, settings.stored_dtype(compressed=True), torch.device("cpu"))
        for number, start in enumerate(range(0, spec["images"], spec["shard_size"])):
            ids, class_tokens, tokens = group_features(
                spec, group, range(start, min(start + spec["shard_size"], spec["images"]))
            )
            path = out_paths.shard(meta.features_id, name, number)
            if not out_paths.fs.exists(path):
                images = [ShardImage(image_id, f"made://{image_id}", "") for image_id in ids]
                found = Tokens([torch.from_numpy(layer) for layer in tokens], torch.from_numpy(class_tokens))
                features = store.features(found, name, compression.get(name))
                of_group = replace(store.meta_of(compression.get(name)), images=images)
                wholes = None
                if meta.crops is not None:
                    wholes = Wholes(features.class_tokens, features.layers)
                    layers_of_crops = crop_features(spec, group, range(start, start + len(ids)), meta.crops.count)
                    crop_tokens = torch.from_numpy(np.repeat(class_tokens, meta.crops.count, axis=0))
                    found = Tokens([torch.from_numpy(layer) for layer in layers_of_crops], crop_tokens)
                    features = store.features(found, name, compression.get(name))
                write_shard(out_paths.fs, path, of_group, features.class_tokens, features.layers, wholes)
            shards[number] = [CatalogImage(image_id, f"made://{image_id}", name, "") for image_id in ids]
        groups[name] = GroupShards(done=shards)
    hardware = LocalHardware()
    compressed = settings.compress != "none"
    arithmetic = resolve_arithmetic(settings.device, settings.precision, settings.model_precision, hardware, compressed)
    context = RunContext(
        settings, out_paths, meta, arithmetic, "generated", "generated", groups, compression=compression
    )
    images = {
        name: {number: [image.image_id for image in images] for number, images in group.done.items()}
        for name, group in groups.items()
    }
    of_groups = [
        GroupImages.of(name, ids, meta.grid, settings.reference_count, settings.seed) for name, ids in images.items()
    ]
    meeting = "same" if settings.crop_references == "same" else "all"
    return context, [replace(group, sets=patch_sets(context.meta_of(group.group), meeting)) for group in of_groups]


def fitted(out_paths: OutPaths, meta: FeaturesMeta, spec: Mapping, group: int, channels: int) -> Compression:
    """Find and store the basis of a group from its first images, as extraction does."""
    _, _, layers = group_features(spec, group, range(min(spec["images"], 32)))
    sums = [Energies(meta.channels, torch.device("cpu")) for _ in layers]
    for total, tokens in zip(sums, layers, strict=True):
        total.add(torch.from_numpy(tokens))
    bases = find_bases(sums, channels)
    directions = {layer: basis.vectors.numpy() for layer, basis in zip(meta.layers, bases, strict=True)}
    name = f"group-{group}"
    sha256 = write_directions(out_paths, meta.features_id, name, directions)
    energy = tuple(basis.energy for basis in bases)
    return decide(
        out_paths, meta.features_id, name, Compression(spec["images"], channels, len(layers[0]), energy, sha256)
    )


def keep_summaries() -> None:
    """Distances of more than 20 references are summarised, 12 at a time."""
    patch_scores.MAX_EXACT_REFERENCES = tile_driver.MAX_EXACT_REFERENCES = 20
    tile_driver.SUMMARY_CHUNK = 12


class SummarisingScorer(Scorer):
    """A worker that does so, too: it lives in a process of its own."""

    def __init__(self, *arguments):
        keep_summaries()
        super().__init__(*arguments)


class ForgetfulMultiplier(BlockMultiplier):
    """Runs out of memory in its first block."""

    failed = False

    def _multiply(self, task, shards):
        if not self.failed:
            self.failed = True
            raise MemoryError("injected")
        return super()._multiply(task, shards)


class ForgetfulScorer(Scorer):
    """A worker that runs out of memory in its first block."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.multiplier = ForgetfulMultiplier(self.cache)


class CrampedMultiplier(BlockMultiplier):
    """Finds the disk full in its first block."""

    always, failed = False, False

    def _multiply(self, task, shards):
        if self.always or not self.failed:
            self.failed = True
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "scratch")
        return super()._multiply(task, shards)


class CrampedScorer(Scorer):
    """A worker whose first block finds the disk full."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.multiplier = CrampedMultiplier(self.cache)


class FullScorer(CrampedScorer):
    """A worker whose blocks all find the disk full."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.multiplier.always = True


def role(name: str) -> Role:
    """The role of a scorer of this module, which workers can import."""
    return Role("tests.helpers.generated", name, calls=2)


def score_generated(out: str, spec: Mapping) -> dict:
    """Score an archive, on the Ray that runs if there is one; returns the stages' figures."""
    context, groups = generated_archive(out, spec)
    stages: dict = {}
    progress = Progress(quiet=True)
    with open_executor(ExecutorOptions.of(context.settings), progress) as executor:
        started = time.perf_counter()
        _, failed = driver.score_groups(context, executor, groups, datetime.now(UTC), progress, stages)
        stages["seconds"] = time.perf_counter() - started
    return {**stages, "failed": {name: str(error) for name, error in failed.items()}}


def main() -> None:
    spec = {**DEFAULTS, **json.loads(sys.argv[2])}
    if spec["oom"]:
        driver.SCORER = role("ForgetfulScorer")
    if spec["summaries"]:
        keep_summaries()
        driver.SCORER = role("SummarisingScorer")
    print(json.dumps(score_generated(sys.argv[1], spec)))


if __name__ == "__main__":
    main()
