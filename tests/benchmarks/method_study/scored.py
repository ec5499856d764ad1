"""Maps and scores of a set under a choice of constants, from what the cache holds."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from method_study.choices import Choice
from method_study.features import Features, Variant
from method_study.figures import Figures, Truth
from method_study.image_scores import SCORES
from method_study.image_sets import ImageSet
from musc_ray.core.interval_average import interval_average
from musc_ray.core.rscin import rscin
from musc_ray.core.rscon import rscon, salient_features, salient_layer

Floats = npt.NDArray[np.float32]
Group = slice | npt.NDArray[np.int64]
"""Positions of some images of a set."""


class Scored:
    """A set in one form of input.

    Attributes:
        features: of the set.
        truth: its labels and masks.
    """

    def __init__(self, features: Features, truth: Truth) -> None:
        self.features, self.truth = features, truth
        self._averages: dict[tuple[int, int, tuple[float, float]], torch.Tensor] = {}

    def averages(self, layer: int, degree: int, interval: tuple[float, float]) -> torch.Tensor:
        """Return the interval averages (N, L) float32 of a layer and degree."""
        key = layer, degree, interval
        if key not in self._averages:

            def compute() -> Floats:
                distances = torch.from_numpy(np.array(self.features.distances(layer, degree)))
                return interval_average(distances, distances.shape[-1] - 1, interval).numpy()

            name = f"averages-{layer:02}-{degree}-{interval[0]:g}-{interval[1]:g}"
            self._averages[key] = torch.from_numpy(self.features.kept(name, compute))
        return self._averages[key]

    def maps(self, choice: Choice) -> torch.Tensor:
        """Return the patch maps (N, h, w)."""
        return combine(lambda layer, degree: self.averages(layer, degree, choice.interval), choice, self.features.grid)

    def raw_scores(self, maps: torch.Tensor, score: str = "max") -> Floats:
        """Return the image scores (N,) of maps before rescoring."""
        return SCORES[score](maps, self.features.image_size).numpy()

    def rescored(self, raw: Floats, maps: torch.Tensor, choice: Choice, group: Group = slice(None)) -> Floats:
        """Return the scores (N,) after the choice's rescoring; scores and maps are those of a group of the set."""
        way, _, listed = choice.rescoring.partition(" ")
        if way == "none":
            return raw
        k_list = tuple(int(k) for k in listed.split(","))
        if way == "rscin":
            return rscin(raw, self.features.class_tokens[group], k_list)
        tokens = self.features.tokens(salient_layer(choice.layers))[group]
        found = salient_features(tokens, self.features.grid, maps.flatten(1), choice.degrees, "lnamd")
        return rscon(raw, found, k_list)

    def scores(self, choice: Choice) -> tuple[Floats, torch.Tensor]:
        """Return the final scores (N,) and the maps (N, h, w)."""
        maps = self.maps(choice)
        return self.rescored(self.raw_scores(maps, choice.score), maps, choice), maps


class Study:
    """Figures of sets under choices, each computed once; those of the cache are read, so that a part can continue.

    Attributes:
        cache: folder of the cache.
    """

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self._scored: dict[str, Scored] = {}
        self._truths: dict[str, Truth] = {}
        self._journal = cache / "figures.jsonl"
        lines = self._journal.read_text(encoding="utf-8").splitlines() if self._journal.exists() else []
        self._figures: dict[str, Figures] = {key: np.array(values) for key, values in map(json.loads, lines)}

    def scored(self, images: ImageSet, variant: Variant) -> Scored:
        """Return a set in one form of input; its features have to be extracted before they are used."""
        folder = variant.folder(images)
        if folder not in self._scored:
            truth = self._truths.setdefault(images.name, Truth(images))
            self._scored[folder] = Scored(Features(images, variant, self.cache), truth)
        return self._scored[folder]

    def figures(self, images: ImageSet, choice: Choice) -> Figures:
        """Return the figures of a set at 224 pixels, extracted and compared as needed."""
        variant = Variant(choice.shape)
        key = f"{variant.folder(images)}: {replace(choice, shape='')}"
        if key not in self._figures:
            scored = self.scored(images, variant)
            scored.features.extract()
            self._figures[key] = scored.truth.figures(*scored.scores(choice))
            with self._journal.open("a", encoding="utf-8") as file:
                file.write(json.dumps([key, self._figures[key].tolist()]) + "\n")
        return self._figures[key]


def combine(averages: Callable[[int, int], torch.Tensor], choice: Choice, grid: tuple[int, int]) -> torch.Tensor:
    """Average (N, L) of a layer and degree over degrees and, weighted, over layers: maps (N, h, w)."""
    by_layer = [
        torch.stack([averages(layer, degree) for degree in choice.degrees]).mean(dim=0) for layer in choice.layers
    ]
    maps = sum(weight * of_layer for weight, of_layer in zip(choice.layer_weights, by_layer, strict=True))
    assert isinstance(maps, torch.Tensor)
    return maps.view(-1, *grid)
