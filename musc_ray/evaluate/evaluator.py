"""The role that compares maps with masks, file by file, one image at a time."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from musc_ray.core.metrics.aupimo import NO_TAIL, Credits, NormalTail, normal_tail
from musc_ray.core.metrics.counting import EMPTY, BinCounter, BinCounts, PlaceCounter
from musc_ray.core.metrics.pixel_curve import Bins, PixelMetrics, Totals, bins_metrics
from musc_ray.errors import ImageError, MuscRayError, reason_of
from musc_ray.evaluate.labels import Label
from musc_ray.evaluate.layouts import GOOD
from musc_ray.evaluate.maps import MapFile, PixelImage, pixel_images, read_patch_maps
from musc_ray.evaluate.mask_fit import fit_mask, fits_both, image_shape
from musc_ray.evaluate.mask_pixels import (
    BLACK,
    Background,
    MaskPixels,
    background_of,
    colour_name,
    distance,
    read_mask,
    shades_of,
    surrounding_colour,
)
from musc_ray.evaluate.masks import Regions, no_regions, regions_of, resize_mask, write_regions
from musc_ray.evaluate.problems import NO_MASK, Problem
from musc_ray.runtime.worker import WorkerResources
from musc_ray.settings.limits import ImageLimits
from musc_ray.sources.decoding import upright_size
from musc_ray.sources.reading import read_image
from musc_ray.storage.paths import OutPaths


@dataclass(frozen=True)
class LabelledFile:
    """A file of the scores table.

    Attributes:
        images: URI and label of its labelled images by row.
        image_size: (H, W) at which its maps and masks are compared; None for each mask's own.
    """

    file: MapFile
    images: Mapping[int, tuple[str, Label]]
    image_size: tuple[int, int] | None


@dataclass
class FileCounts:
    """A file's pixels by defect, and problems with its masks."""

    counts: dict[str, BinCounts] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


@dataclass(frozen=True)
class MaskReading:
    """How masks are read.

    Attributes:
        mask_level: see `resize_mask`.
        limits: of the files of masks and images.
        background: see `background_of`.
    """

    mask_level: int
    limits: ImageLimits
    background: Background = BLACK


class Evaluator:
    """A role of workers: each method reads files of maps and returns sums that can be added up."""

    def __init__(self, out: str, reading: MaskReading, plan: WorkerResources) -> None:
        self.fs = OutPaths.at(out).fs
        self.reading = reading

    def prepare(self, labelled: LabelledFile) -> FileCounts:
        """Read the masks of a file's images, write them as regions, and count all pixels into bins."""
        result = FileCounts()
        images = []
        for row, (uri, label) in sorted(labelled.images.items()):
            problems: list[Problem] = []
            regions = self._regions(row, uri, label, labelled.image_size, problems)
            images += [] if regions is None else [regions]
            result.problems += [each if each.uri == uri else each.of_image(uri) for each in problems]
        counters: dict[str, BinCounter] = defaultdict(BinCounter)
        patch_maps = read_patch_maps(self.fs, labelled.file.scores)
        for found in images:
            image = PixelImage(patch_maps[found.row], found)
            try:
                counters[found.defect].add_parts(image.parts(), found.shares(), found.defect == GOOD)
            except ValueError as error:
                uri = labelled.images[found.row][0]
                raise MuscRayError(f"The patch map of {uri} cannot be evaluated ({error}): score it again.") from error
        write_regions(self.fs, labelled.file.regions, images)
        result.counts = {defect: counter.counts() for defect, counter in counters.items()}
        return result

    def _regions(
        self, row: int, uri: str, label: Label, image_size: tuple[int, int] | None, problems: list[Problem]
    ) -> Regions | None:
        """Read an image's regions; None, with a problem, where its anomalous pixels are unknown."""
        reading, limits = self.reading, self.reading.limits
        if label.label == 1 and label.mask is None:
            problems.append(Problem("MaskMissing", uri, NO_MASK))
            return None
        try:
            if label.mask is None or label.label == 0:
                return no_regions(row, GOOD, image_size or upright_size(read_image(uri, limits.bytes)))
            mask = read_mask(read_image(label.mask, limits.bytes), limits.pixels)
        except (ImageError, FileNotFoundError) as error:
            source = uri if label.label == 0 else label.mask
            problems.append(Problem("MaskUnreadable", source or uri, f"{reason_of(error)}."))
            return None
        background = background_of(mask, reading.background)
        shades = self._fitted(uri, label.mask, mask, shades_of(mask, background), problems)
        if shades is None:
            return None
        problems += _remarks(label.mask, mask, background, reading.background)
        resized = resize_mask(shades, image_size, reading.mask_level)
        if shades.any() and not resized.any():
            problems.append(Problem("MaskVanished", label.mask, "Its regions are smaller than a pixel."))
        return regions_of(row, label.defect, resized)

    def _fitted(
        self, uri: str, source: str, mask: MaskPixels, shades: npt.NDArray[np.uint8], problems: list[Problem]
    ) -> npt.NDArray[np.uint8] | None:
        """Return a mask's shades as they lie on the image; None, with a problem, where they do not fit."""
        try:
            image = image_shape(read_image(uri, self.reading.limits.bytes))
        except (ImageError, FileNotFoundError) as error:
            problems.append(Problem("ImageSizeUnknown", uri, f"{reason_of(error)}."))
            return shades
        fitted = fit_mask(shades, image)
        if fitted is None:
            sizes = (f"{width} x {height}" for height, width in (shades.shape, image.upright))
            problems.append(Problem("MaskShape", source, "The mask has {} pixels, the image {}.".format(*sizes)))
        elif image.orientation != 1 and not mask.is_turned and fits_both(shades.shape, image):
            problems.append(Problem("MaskOrientation", source, f"The image has orientation {image.orientation}."))
        return fitted

    def window(self, files: Sequence[MapFile], defects: frozenset[str], window: Bins, totals: Totals) -> PixelMetrics:
        """Compute a window's share of the pixel metrics of the images with some defects."""
        counter = PlaceCounter(window.bins, totals.negatives + totals.positives)
        for file in files:
            for image in pixel_images(
                self.fs, file, lambda defect, low, high: defect in defects and counter.may_hold(low, high)
            ):
                shares = image.regions.shares()
                for values, regions in image.parts():
                    counter.add(values, regions, shares)
        return bins_metrics(window, counter, totals)

    def tail(self, file: MapFile, lowest_bin: int) -> NormalTail:
        """Collect the highest pixel scores of a file's good images."""
        images = pixel_images(self.fs, file, lambda defect, low, high: defect == GOOD)
        tails = (normal_tail(values, lowest_bin, image.pixels) for image in images for values, _ in image.parts())
        return sum(tails, NO_TAIL)

    def overlaps(self, file: MapFile, credits_: Credits) -> dict[str, tuple[float, int]]:
        """Sum the AUPIMO of a file's images by defect, and count those that have one."""
        sums: dict[str, tuple[float, int]] = {}
        for image in pixel_images(self.fs, file, lambda defect, low, high: defect != GOOD):
            defect = image.regions.defect
            if len(image.regions.starts):
                so_far, count = sums.get(defect, (0.0, 0))
                inside = np.concatenate([values[regions > 0] for values, regions in image.parts()])
                sums[defect] = (so_far + credits_.of(inside), count + 1)
        return sums


def add_counts(results: Sequence[FileCounts]) -> FileCounts:
    """Add up the counts of several files."""
    total = FileCounts()
    for result in results:
        for defect, counts in result.counts.items():
            total.counts[defect] = total.counts.get(defect, EMPTY) + counts
        total.problems += result.problems
    return total


def _remarks(source: str, mask: MaskPixels, background: Background, common: Background) -> Iterator[Problem]:
    """Yield what is not plain about the background of an anomalous image's mask."""
    around = surrounding_colour(mask)
    differs = distance(mask.values, background) > 0
    if not differs.any():
        yield Problem("MaskEmpty", source, "All its pixels are background.")
    elif differs.all():
        yield Problem("MaskWhole", source, "All its pixels are alike.")
    elif background not in (common, BLACK):
        yield Problem("MaskBackground", source, f"Its background is {colour_name(background)}, most of its border.")
    elif around is not None and around != background:
        yield Problem(
            "MaskBackground",
            source,
            f"Its background is {colour_name(background)} as in other masks, but {colour_name(around)} surrounds it.",
        )
