"""The actor that compares maps with masks, file by file, one image at a time."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from musc_ray.core.metrics.aupimo import NO_TAIL, Credits, NormalTail, normal_tail
from musc_ray.core.metrics.counting import EMPTY, BinCounter, BinCounts, PlaceCounter
from musc_ray.core.metrics.pixel_curve import Bins, PixelMetrics, Totals, bins_metrics
from musc_ray.errors import ImageError, MuscRayError
from musc_ray.evaluate.labels import Label
from musc_ray.evaluate.layouts import GOOD
from musc_ray.evaluate.maps import MapFile, pixel_images, read_patch_maps, upsampled
from musc_ray.evaluate.masks import Regions, decode_mask, no_regions, regions_of, write_regions
from musc_ray.runtime.cluster import WorkerResources, take_share
from musc_ray.settings.limits import ImageLimits
from musc_ray.sources.decoding import upright_size
from musc_ray.sources.reading import read_image
from musc_ray.storage.paths import OutPaths


@dataclass(frozen=True)
class LabelledFile:
    """A file of the scores table, and the URI and label of its labelled images by row."""

    file: MapFile
    images: Mapping[int, tuple[str, Label]]


@dataclass
class FileCounts:
    """A file's pixels by defect; the numbers of images without a mask and of empty masks; unreadable masks."""

    counts: dict[str, BinCounts] = field(default_factory=dict)
    without_mask: int = 0
    empty: int = 0
    unreadable: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class MaskReading:
    """How masks are read.

    Attributes:
        image_size: (H, W) to compare at; None for each mask's own.
        mask_level: see `decode_mask`.
        limits: of the files of masks and images.
    """

    image_size: tuple[int, int] | None
    mask_level: int
    limits: ImageLimits


class Evaluator:
    """An actor of the worker pool: each method reads files of maps and returns sums that can be added up."""

    def __init__(self, out: str, reading: MaskReading, plan: WorkerResources) -> None:
        take_share(plan)
        self.fs = OutPaths.at(out).fs
        self.reading = reading

    def prepare(self, labelled: LabelledFile) -> FileCounts:
        """Read the masks of a file's images, write them as regions, and count all pixels into bins."""
        result = FileCounts()
        images = [
            regions
            for row, (uri, label) in sorted(labelled.images.items())
            if (regions := self._regions(row, uri, label, result)) is not None
        ]
        counters: dict[str, BinCounter] = defaultdict(BinCounter)
        for image in upsampled(read_patch_maps(self.fs, labelled.file.scores), images):
            try:
                counters[image.defect].add(image.values, image.regions, image.shares, image.defect == GOOD)
            except ValueError as error:
                uri = labelled.images[image.row][0]
                raise MuscRayError(f"The patch map of {uri} cannot be evaluated ({error}): score it again.") from error
        write_regions(self.fs, labelled.file.regions, images)
        result.counts = {defect: counter.counts() for defect, counter in counters.items()}
        return result

    def _regions(self, row: int, uri: str, label: Label, result: FileCounts) -> Regions | None:
        """Read an image's regions; None, counted in `result`, where its anomalous pixels are unknown."""
        reading, limits = self.reading, self.reading.limits
        source = uri if label.label == 0 else label.mask
        if source is None:
            result.without_mask += 1
            return None
        try:
            if label.label == 0:
                return no_regions(row, GOOD, reading.image_size or upright_size(read_image(uri, limits.bytes)))
            data = read_image(source, limits.bytes)
            mask = decode_mask(data, reading.image_size, reading.mask_level, limits.pixels)
        except (ImageError, FileNotFoundError) as error:
            result.unreadable.append(f"{source}: {error}")
            return None
        result.empty += not mask.any()
        return regions_of(row, label.defect, mask)

    def window(self, files: Sequence[MapFile], defects: frozenset[str], window: Bins, totals: Totals) -> PixelMetrics:
        """Compute a window's share of the pixel metrics of the images with some defects."""
        counter = PlaceCounter(window.bins, totals.negatives + totals.positives)
        for file in files:
            for image in pixel_images(
                self.fs, file, lambda defect, low, high: defect in defects and counter.may_hold(low, high)
            ):
                counter.add(image.values, image.regions, image.shares)
        return bins_metrics(window, counter, totals)

    def tail(self, file: MapFile, lowest_bin: int) -> NormalTail:
        """Collect the highest pixel scores of a file's good images."""
        images = pixel_images(self.fs, file, lambda defect, low, high: defect == GOOD)
        return sum((normal_tail(image.values, lowest_bin) for image in images), NO_TAIL)

    def overlaps(self, file: MapFile, credits_: Credits) -> dict[str, tuple[float, int]]:
        """Sum the AUPIMO of a file's images by defect, and count those that have one."""
        sums: dict[str, tuple[float, int]] = {}
        for image in pixel_images(self.fs, file, lambda defect, low, high: defect != GOOD):
            if len(image.regions):
                so_far, count = sums.get(image.defect, (0.0, 0))
                sums[image.defect] = (so_far + credits_.of(image.values[image.regions > 0]), count + 1)
        return sums


def add_counts(results: Sequence[FileCounts]) -> FileCounts:
    """Add up the counts of several files."""
    total = FileCounts()
    for result in results:
        for defect, counts in result.counts.items():
            total.counts[defect] = total.counts.get(defect, EMPTY) + counts
        total.without_mask += result.without_mask
        total.empty += result.empty
        total.unreadable += result.unreadable
    return total
