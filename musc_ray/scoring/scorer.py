"""The role of scoring: composes the steps of a run's scores on a worker, one call in the kernel at a time."""

import threading
import warnings
from dataclasses import replace
from datetime import datetime
from typing import Any

from musc_ray.core.crop_calibration import Shown
from musc_ray.core.precision import DTYPES
from musc_ray.core.references import ReferenceWindow
from musc_ray.core.warm_up import load_kernels
from musc_ray.features.arithmetic import Arithmetic
from musc_ray.runtime.worker import WorkerResources, use_threads
from musc_ray.scoring import crop_maps
from musc_ray.scoring.band_reducer import BandOf, BandReducer, StoredPart
from musc_ray.scoring.block_multiplier import BlockMultiplier
from musc_ray.scoring.crop_references_worker import sample_crop_references
from musc_ray.scoring.defects.driver import DefectStep
from musc_ray.scoring.defects.worker import ArrayCache, DefectWorker
from musc_ray.scoring.kept_flags import KeptTask, ShardKept
from musc_ray.scoring.kept_reader import KeptReader
from musc_ray.scoring.kept_worker import sample_foreground, write_shard_kept
from musc_ray.scoring.known_good_worker import KnownGoodWorker
from musc_ray.scoring.matching_worker import sample_matching
from musc_ray.scoring.patch_maps import image_maps, patch_maps_of, write_patch_maps
from musc_ray.scoring.patch_sets import PatchSet
from musc_ray.scoring.ranking_worker import Columns, GroupFigures, PartNeighbours, Ranker
from musc_ray.scoring.ring import BlockStats, BlockTask, GroupImages, RingShard
from musc_ray.scoring.salient import salient_features_of
from musc_ray.scoring.shard_cache import ShardCache
from musc_ray.settings.model import Settings
from musc_ray.storage.arrays import write_array
from musc_ray.storage.group_crop_references import GroupCropReferences
from musc_ray.storage.group_foreground import GroupForeground
from musc_ray.storage.group_matching import GroupMatching
from musc_ray.storage.group_shown_maps import GroupShownMaps
from musc_ray.storage.paths import OutPaths
from musc_ray.storage.shards import FeaturesMeta, read_meta

warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # the object store's are only read


class Scorer:
    """Multiplies blocks of tiles, reduces bands, removes repeated defects, combines layers, ranks, writes scores."""

    def __init__(
        self,
        settings: Settings,
        arithmetic: Arithmetic,
        out: str,
        run_id: str,
        meta: FeaturesMeta,
        plan: WorkerResources,
    ) -> None:
        """Load the kernels for the arithmetic of all groups."""
        self.settings, self.meta, self.plan = settings, meta, plan
        self.run_paths = OutPaths.at(out).run(run_id)
        self.kept = KeptReader(settings, self.run_paths)
        self.cache = ShardCache(settings, arithmetic, self.kept, meta, plan.threads)
        self.multiplier = BlockMultiplier(self.cache)
        self.reducer = BandReducer(settings, self.run_paths, self.kept, self.cache.device)
        self.known_good = KnownGoodWorker(self.cache, self.run_paths)
        self.ranker = Ranker(settings, self.run_paths, meta)
        self.defect_arrays = ArrayCache(self.run_paths.fs)
        self.kernel_turn = threading.Lock()
        for precision in arithmetic.precisions:
            dtype = DTYPES[precision]
            load_kernels(meta.grid, settings.degrees, dtype, settings.aggregation, self.cache.device, settings.radius)

    def choose_matching(self, images: GroupImages) -> GroupMatching:
        """Choose by a sample where the patches of a group look for their nearest."""
        with self.kernel_turn:
            use_threads(self.plan.threads)
            return sample_matching(images, self.cache, self.meta.layers)

    def choose_crop_references(self, images: GroupImages) -> GroupCropReferences:
        """Choose by a sample which crops of a group meet."""
        with self.kernel_turn:
            use_threads(self.plan.threads)
            return sample_crop_references(images, self.cache, self.meta.layers)

    def choose_foreground(self, images: GroupImages) -> GroupForeground:
        """Find by a sample which patches of a group show the part."""
        with self.kernel_turn:
            use_threads(self.plan.threads)
            return sample_foreground(images, self.cache.reader, self.settings, self.meta.layers)

    def write_kept(self, task: KeptTask) -> ShardKept:
        """Write which patches of a shard's images are kept."""
        with self.kernel_turn:
            use_threads(self.plan.threads)
            return write_shard_kept(self.run_paths, self.cache.reader, task)

    def write_nearest_good(self, images: GroupImages, layer: int, patch_set: PatchSet, number: int) -> None:
        """Write the distances of a shard's scored images to the nearest known good image."""
        with self.kernel_turn:
            use_threads(self.plan.threads)
            self.known_good.write_nearest(images, layer, patch_set, number)

    def write_aside(self, images: GroupImages, layer: int, patch_set: PatchSet, number: int) -> None:
        """Write the patch scores of those of a shard's images that are nobody's reference."""
        with self.kernel_turn:
            use_threads(self.plan.threads)
            self.known_good.write_aside(images, layer, patch_set, number)

    def multiply_block(self, task: BlockTask) -> BlockStats | list[BlockStats | StoredPart]:
        """Multiply the tiles of a block; write its whole bands.

        Returns:
            Stats, then for each shard of `task.returned`, if any, its distances (D, A, L, B) to others of the block, L
            of all places, with the nearest images of its patches if repeated defects are searched.
        """
        shards, read = self.cache.shards_of(task)  # loaded while the block before is in the kernel
        with self.kernel_turn:
            use_threads(self.plan.threads)  # PyTorch keeps the number per calling thread
            distances, stats = self.multiplier.multiply(task, shards)
            parts = {
                number: (part, self.reducer.nearest_images(task, number, part)) for number, part in distances.items()
            }
            del distances
            errors = [
                self.reducer.write(
                    (task.group, task.layer, shard, task.patch_set), task.window, [parts.pop(shard.number)]
                )
                for shard in task.shards
                if shard.number in task.whole
            ]
        stats = replace(stats, shards_read=stats.shards_read + read, error=max(errors, default=0.0))
        returned = [(parts[number][0].numpy(), parts[number][1]) for number in task.returned]
        return [stats, *returned] if returned else stats

    def summarise(self, *parts: StoredPart) -> tuple[None, StoredPart]:
        """Merge parts of a band into one summary; the first return value tells that it is done."""
        with self.kernel_turn:
            return None, self.reducer.summarise(parts)

    def reduce_band(self, band: BandOf, window: ReferenceWindow, *parts: StoredPart) -> float:
        """Reduce and write a band from its parts; returns its largest possible error."""
        with self.kernel_turn:
            return self.reducer.write_stored(band, window, parts)

    def defect_step(self, images: GroupImages, step: DefectStep) -> Any:
        """Do a step of the search for repeated defects; see DefectWorker."""
        worker, window = self._defects(images), images.window
        with self.kernel_turn:
            use_threads(self.plan.threads)
            match step.name:
                case "far_histograms":
                    return worker.far_histograms(step.shard, self.meta.layers)
                case "link":
                    return worker.link(step.shard, self.meta.layers, *step.arguments)
                case "find_communities":
                    return worker.find_communities(*step.arguments)
                case "mark":
                    return worker.mark(step.shard)
                case _:
                    dtype = self.multiplier.distance_dtype(images.group, window.images)
                    return worker.score_again(step.shard, step.arguments[0], self.cache, dtype)

    def write_set_maps(self, images: GroupImages, shard: RingShard) -> None:
        """Average a shard's bands over layers, of every place of its images."""
        crop_maps.write_set_maps(self.run_paths, images, shard, self.meta.layers)

    def write_usual(self, images: GroupImages) -> None:
        """Find what is usual of each patch of a group's crops."""
        crop_maps.write_usual(self.run_paths, images)

    def choose_shown_maps(self, images: GroupImages) -> GroupShownMaps:
        """Choose what the maps of a group with crops show."""
        return crop_maps.choose_shown_maps(self.run_paths, images)

    def write_patch_maps(self, images: GroupImages, shard: RingShard, shown: Shown) -> None:
        """Write patch maps and raw scores of a shard, before them what RsCon compares; of crops as `shown` says."""
        paths, settings, group = self.run_paths, self.settings, images.group
        meta = read_meta(paths.fs, paths.out.shard(self.meta.features_id, group, shard.number))
        if images.layout is None:
            found = image_maps(patch_maps_of(paths, group, shard, meta), meta)
        else:
            found = crop_maps.image_maps(paths, images, shard, meta, shown)
        if settings.rescoring == "rscon":
            with self.kernel_turn:
                use_threads(self.plan.threads)
                vectors = salient_features_of(self.cache.reader, group, shard, meta, found.peaks, self.cache.device)
            write_array(paths.fs, paths.salient(group, shard.number), vectors)
        write_patch_maps(paths, group, shard, meta, found)

    def find_similar(self, images: GroupImages, part: range) -> tuple[None, PartNeighbours]:
        """Find the most similar images of a part of a group; the first return value tells that it is done."""
        return None, self.ranker.find_similar(images, part)

    def rank(self, images: GroupImages, *neighbours: PartNeighbours) -> tuple[GroupFigures | Columns, ...]:
        """Score and rank a group; returns its figures, then the columns of each part."""
        figures, parts = self.ranker.rank(images, neighbours)
        return figures, *parts

    def write_scores(
        self, images: GroupImages, part: range, scored_at: datetime, columns: Columns, neighbours: PartNeighbours
    ) -> None:
        """Write a part of a group's scores and similar images."""
        defects = self._defects(images) if self.settings.repeated_defects else None
        self.ranker.write_part(images, part, scored_at, columns, neighbours.listed, defects)

    def _defects(self, images: GroupImages) -> DefectWorker:
        return DefectWorker(self.run_paths, images, self.defect_arrays)
