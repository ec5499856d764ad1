"""The role of extraction: reads, decodes and embeds the images of a shard, and writes it itself."""

import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from musc_ray.backbones import Tokens, load_backbone
from musc_ray.backbones.names import model_module, resolve_backbone
from musc_ray.backbones.weights import fetch_weights
from musc_ray.core.compression import Energies, find_bases
from musc_ray.features.embedding import Embedder
from musc_ray.features.extraction import ExtractorOptions, ExtractStats, FitTask, ShardTask
from musc_ray.features.fitting import MAX_CANDIDATES, sample_energies
from musc_ray.features.one_picture import OnePicture
from musc_ray.features.outside import Outside
from musc_ray.features.read_ahead import ReadAhead
from musc_ray.features.stored_tokens import Features, TokenStore
from musc_ray.runtime.worker import WorkerResources, import_modules, use_threads
from musc_ray.storage.bases import Compression, decide, write_directions
from musc_ray.storage.paths import OutPaths
from musc_ray.storage.shard_writer import Wholes, write_shard
from musc_ray.storage.shards import BrokenShardError, FeaturesMeta, read_class_tokens, read_layer, read_norms


class Extractor:
    """One copy of the model; extracts a shard per call, and writes it while the next one is in the model."""

    def __init__(self, options: ExtractorOptions, out: str, meta: FeaturesMeta, plan: WorkerResources) -> None:
        self.options, self.meta, self.plan = options, meta, plan
        self.out_paths = OutPaths.at(out)
        self.model_turn = threading.Lock()
        self.reader = ReadAhead(options.batch_size, options.limits, plan.threads)
        import_modules([model_module(options.backbone)])
        self.backbone = load_backbone(
            options.backbone,
            image_size=meta.image_size,
            layers=meta.layers,
            weights=fetch_weights(resolve_backbone(options.backbone), options.weights),
            device=plan.device,
            precision=options.model_precision,
        )
        self.embedder = Embedder(self.backbone, options.batch_size)
        self.store = TokenStore(self.out_paths, meta, options.compressed_dtype, self.backbone.device)

    def extract(self, task: ShardTask) -> ExtractStats:
        """Extract and write one shard; images that cannot be read become `failed` entries.

        Shards of a group follow each other, so that the model seldom has to change its image size.
        """
        shape = task.shape or self.meta.shape
        stats = ExtractStats(shards=1, images=len(task.images))
        seen = OnePicture()

        def take(tokens: Tokens) -> Features:
            return self.store.features(tokens, task.group, task.compression)

        # its first images are decoded while another shard has the model
        batches = self.reader.batches(task.images, shape, task.intensity)
        with self.model_turn:
            use_threads(self.plan.threads)  # PyTorch keeps the number per calling thread
            outcome, features, wholes = self.embedder.embed(seen.watch(batches), shape, take, stats)
        started = time.perf_counter()
        path = self.out_paths.shard(self.meta.features_id, task.group, task.shard)
        intensity = None if task.intensity is None else (task.intensity.low, task.intensity.high)
        meta = self.store.meta_of(task.compression).shaped(shape)
        meta = replace(meta, images=outcome, intensity=intensity, one_picture=seen.digest)
        beside = None if wholes is None else Wholes(wholes.class_tokens, wholes.layers)
        fs = self.out_paths.fs
        stats.bytes_written = write_shard(fs, path, meta, features.class_tokens, features.layers, beside)
        stats.seconds_writing = time.perf_counter() - started
        stats.failed = [(task.group, image) for image in outcome if image.error is not None]
        stats.sizes.update(
            (task.group, i.height, i.width) for i in outcome if i.height is not None and i.width is not None
        )
        stats.remarks = Counter((task.group, remark) for image in meta.extracted for remark in image.remarks)
        stats.outside = {task.group: Outside.of(meta.extracted)} if meta.basis_sha256 is not None else {}
        return stats

    def fit(self, task: FitTask) -> ExtractStats:
        """Find the basis of a group from the first of its images that can be read, and decide on it for all runs."""
        started, stats = time.perf_counter(), ExtractStats()
        shape = task.shape or self.meta.shape
        batches = self.reader.batches(task.images[:MAX_CANDIDATES], shape, task.intensity)
        with self.model_turn:
            use_threads(self.plan.threads)
            sums, images = sample_energies(self.embedder, batches, shape)
            stats.fitted = {task.group: self._decide(task, sums, images) if images else None}
        stats.seconds_fitting = time.perf_counter() - started
        return stats

    def _decide(self, task: FitTask, sums: Sequence[Energies], images: int) -> Compression:
        """Find and store the basis of a group, unless another run has stored one; return the one that holds."""
        bases = find_bases(sums, task.channels)
        directions = {layer: basis.vectors.numpy() for layer, basis in zip(self.meta.layers, bases, strict=True)}
        sha256 = write_directions(self.out_paths, self.meta.features_id, task.group, directions)
        energy = tuple(basis.energy for basis in bases)
        found = Compression(len(task.images), bases[0].vectors.shape[1], images, energy, sha256)
        return decide(self.out_paths, self.meta.features_id, task.group, found)

    def repair(self, task: ShardTask) -> ExtractStats:
        """Read a whole shard, and extract it again if it is broken."""
        fs, path = self.out_paths.fs, self.out_paths.shard(self.meta.features_id, task.group, task.shard)
        ids = [image.image_id for image in task.images]
        basis = None if task.compression is None else task.compression.sha256
        crops = range(1, (task.shape or self.meta.shape).places)
        try:
            for places in [(0,), crops] if crops else [(0,)]:
                read_class_tokens(fs, path, ids, places)
                for layer in self.meta.layers:
                    read_layer(fs, path, layer, ids, basis, places)
                    if basis is not None:
                        read_norms(fs, path, layer, ids, basis, places)
        except (BrokenShardError, FileNotFoundError):
            return self.extract(task)
        return ExtractStats()
