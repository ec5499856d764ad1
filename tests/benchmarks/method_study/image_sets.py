"""Image sets of the study: solar cells (ELPV) and folders of the shared data in MVTec AD's layout."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from musc_ray.demo.elpv import mono_cells

DATA = Path(__file__).parents[4] / "shared" / "data"
FOLDERS = ("magnetic_tile", "kolektor_sdd", "cookies", "glass")
JUDGED = ("cells", *FOLDERS)
"""One set per product: constants are chosen on all but one of them, and their figures are those of the other."""

CONFIRMING = ("more_cells", "poly_cells")
"""Nothing is chosen on them."""

PIXELS_ONLY = ("glass",)
"""Every good image is there twice: each has a perfect reference, and image metrics mean nothing."""

GOOD_CELLS, DEFECTIVE_CELLS = 120, 40
"""Images of each confirming set."""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images of one product.

    Attributes:
        name: of the set, with the number of images if it is a sample.
        paths: N image files.
        labels: (N,) int64, 1 = defective.
        masks: N mask files; None where an image has none.
    """

    name: str
    paths: tuple[Path, ...]
    labels: npt.NDArray[np.int64]
    masks: tuple[Path | None, ...]

    @property
    def has_image_metrics(self) -> bool:
        """Return whether image AUROC and AP mean something."""
        return self.name.partition("-")[0] not in PIXELS_ONLY

    @property
    def has_masks(self) -> bool:
        """Return whether pixel metrics can be computed."""
        return any(self.masks)

    @cached_property
    def ratio(self) -> float:
        """Compute the median of height to width over the images."""
        sizes = [Image.open(path).size for path in self.paths]
        return float(np.median([height / width for width, height in sizes]))

    def take(self, images: Sequence[int] | npt.NDArray[np.int64], name: str) -> "ImageSet":
        """Return a set of some of the images, by position."""
        return ImageSet(
            name, tuple(self.paths[i] for i in images), self.labels[images], tuple(self.masks[i] for i in images)
        )

    def sample(self, count: int, seed: int = 0) -> "ImageSet":
        """Return a random sample with the same share of defective images; the set itself if it is not larger."""
        if count >= len(self.paths):
            return self
        defective = round(count * float(self.labels.mean()))
        chosen = draw(self.labels, count - defective, defective, np.random.default_rng(seed))
        return self.take(chosen, f"{self.name}-{count}")


def draw(
    labels: npt.NDArray[np.int64], good: int, defective: int, chance: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Draw positions of some good and some defective images, in ascending order.

    Raises:
        ValueError: there are fewer.
    """
    parts = [
        chance.choice(np.flatnonzero(labels == label), n, replace=False) for label, n in ((0, good), (1, defective))
    ]
    return np.sort(np.concatenate(parts))


def image_set(name: str) -> ImageSet:
    """Return a set of JUDGED or CONFIRMING by its name.

    Raises:
        FileNotFoundError: the folder is missing or empty.
    """
    if name == "cells":
        return _cells("cells", ((cell.path, cell.label) for cell in mono_cells(240)))
    if name == "more_cells":
        used = {cell.path for cell in mono_cells(240)}
        rest = [(cell.path, cell.label) for cell in mono_cells(None) if cell.path not in used]
        return _sample_of_cells(name, rest)
    if name == "poly_cells":
        return _sample_of_cells(name, _poly_cells())
    return _folder(name)


def all_mono_cells() -> ImageSet:
    """Return all mono cells with a certain label."""
    return _cells("all_mono_cells", ((cell.path, cell.label) for cell in mono_cells(None)))


def available(names: Iterable[str]) -> list[ImageSet]:
    """Return the sets of these names whose images are on this machine; prints which are missing."""
    sets = []
    for name in names:
        try:
            sets.append(image_set(name))
        except FileNotFoundError as error:
            print(f"Without {name}: {error}")
    return sets


def _folder(name: str) -> ImageSet:
    paths = sorted((DATA / name / "test").glob("*/*"))
    if not paths:
        raise FileNotFoundError(f"there are no images in {DATA / name / 'test'}.")
    labels = np.array([int(path.parent.name != "good") for path in paths])
    masks = [DATA / name / "ground_truth" / path.parent.name / f"{path.stem}_mask.png" for path in paths]
    return ImageSet(name, tuple(paths), labels, tuple(mask if mask.exists() else None for mask in masks))


def _poly_cells() -> list[tuple[Path, int]]:
    folder = mono_cells(2)[0].path.parent.parent
    with (folder / "labels.csv").open(encoding="utf-8") as file:
        rows = list(csv.reader(file, delimiter=" ", skipinitialspace=True))
    return [
        (folder / name, int(float(probability)))
        for name, probability, kind in rows
        if kind == "poly" and float(probability) in (0.0, 1.0)
    ]


def _sample_of_cells(name: str, cells: Iterable[tuple[Path, int]]) -> ImageSet:
    every = _cells(name, cells)
    return every.take(draw(every.labels, GOOD_CELLS, DEFECTIVE_CELLS, np.random.default_rng(1)), name)


def _cells(name: str, cells: Iterable[tuple[Path, int]]) -> ImageSet:
    paths, labels = zip(*cells, strict=True)
    return ImageSet(name, paths, np.array(labels), (None,) * len(paths))
