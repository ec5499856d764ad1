"""Scores of a set some of whose good images are known: splits, rules that combine both kinds of distances, figures."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from method_study.choices import Choice
from method_study.features import Features
from method_study.figures import Truth
from method_study.image_scores import mean_of_top
from method_study.image_sets import ImageSet
from method_study.scored import Scored
from musc_ray.core.interval_average import interval_average
from musc_ray.core.known_good import bounded
from musc_ray.core.metrics.image import average_precision, image_auroc

COUNTS = (0, 1, 4, 16, 64)
"""Known good images, besides all of a pool."""

TOP_SHARE = 0.01
"""Of the patches of an image: AnomalyDINO's image score is their mean."""

Ids = npt.NDArray[np.int64]
Row = npt.NDArray[np.float64]
"""(5,): image AUROC, image AP, AUPRO before rescoring, image AUROC and AP after it, in percent; NaN where unknown."""

Key = tuple[int | str, str]
"""Known good images, or `all`, and a rule."""


@dataclass(frozen=True)
class Split:
    """Images that are evaluated, and good ones that become known in this order; none is both."""

    evaluated: Ids
    pool: Ids

    @property
    def counts(self) -> dict[int, int | str]:
        """Return the numbers of known good images, each with its name in tables."""
        below = {n: n for n in COUNTS if n < len(self.pool)}
        return {**below, len(self.pool): "all"}


@dataclass(frozen=True)
class Evidence:
    """Distances of the patches of the evaluated images, of one layer and degree.

    Attributes:
        distances: (n, L, n) to the evaluated images, +inf to the own one.
        good: (n, L, K) to the known good images.
        interval: of the interval average.
    """

    distances: Tensor
    good: Tensor
    interval: tuple[float, float]

    @property
    def known(self) -> int:
        """Return K."""
        return self.good.shape[2]

    @cached_property
    def mutual(self) -> Tensor:
        """Compute the interval averages (n, L) over the other evaluated images."""
        return interval_average(self.distances, len(self.distances) - 1, self.interval)

    @cached_property
    def union(self) -> Tensor:
        """Compute the interval averages (n, L) over the other evaluated and the known good images."""
        both = torch.cat([self.distances, self.good], dim=2)
        return interval_average(both, len(self.distances) - 1 + self.known, self.interval)

    @cached_property
    def nearest(self) -> Tensor:
        """Return the distances (n, L) to the nearest known good image."""
        return self.good.amin(dim=2)

    @cached_property
    def least(self) -> Tensor:
        """Compute the minimum (n, L) of mutual score and nearest known good distance."""
        return torch.minimum(self.mutual, self.nearest)

    def kth(self, k: int) -> Tensor:
        """Return the distances (n, L) to the k-th nearest known good image, or the farthest one of fewer."""
        return self.good.kthvalue(min(k, self.known), dim=2).values

    def fading(self, weight: float) -> Tensor:
        """Move from the minimum to the nearest known good distance."""
        return (1 - weight) * self.least + weight * self.nearest

    def gated(self, full: int, ratio: float, power: float = 1.0, margin: float = 1.0) -> Tensor:
        """Fade in those images alone that the known good ones explain: whose median ratio of both is at most this.

        One known good image has weight 0, `full` have 1. With a margin below 1 a few count where they are nearer by
        that factor.
        """
        quotients = (self.nearest / self.mutual.clamp(min=1e-6)).median(dim=1, keepdim=True).values
        trust = min(1.0, (self.known - 1) / (full - 1)) ** power
        least = torch.minimum(self.mutual, self.nearest / (margin + (1 - margin) * trust))
        return torch.where(quotients <= ratio, (1 - trust) * least + trust * self.nearest, least)


Rule = Callable[[Evidence], Tensor]

MUTUAL, NEAREST, MINIMUM, PRODUCT = "mutual alone", "nearest alone", "min(mutual, nearest)", "product"

RULES: dict[str, Rule] = {
    MINIMUM: lambda e: e.least,
    "min(union, nearest)": lambda e: torch.minimum(e.union, e.nearest),
    "union": lambda e: e.union,
    "mean(mutual, nearest)": lambda e: (e.mutual + e.nearest) / 2,
    NEAREST: lambda e: e.nearest,
    PRODUCT: lambda e: bounded(e.mutual, e.nearest, e.known),
    "full trust 16, no ratio": lambda e: e.gated(16, torch.inf),
    "full trust 16, ratio 1.05": lambda e: e.gated(16, 1.05),
    "full trust 16, ratio 1.3": lambda e: e.gated(16, 1.3),
    "full trust 16, margin 0.9": lambda e: e.gated(16, 1.15, margin=0.9),
    "full trust 32": lambda e: e.gated(32, 1.15),
    "full trust 64": lambda e: e.gated(64, 1.15),
    "full trust 16, squared": lambda e: e.gated(16, 1.15, 2),
    "full trust 24, squared": lambda e: e.gated(24, 1.15, 2),
    "fading, n/(n+4)": lambda e: e.fading(e.known / (e.known + 4)),
    "fading, n/(n+16)": lambda e: e.fading(e.known / (e.known + 16)),
    "fading, n/(n+mutual)": lambda e: e.fading(e.known / (e.known + len(e.distances) - 1)),
}
"""What each layer and degree gives; the product's rule is MuSc without known good images."""

VARIANTS: dict[str, Rule] = {
    "geometric mean": lambda e: (e.mutual * e.nearest).sqrt(),
    "min(mutual, 2nd nearest)": lambda e: torch.minimum(e.mutual, e.kth(2)),
    "min(mutual, 3rd nearest)": lambda e: torch.minimum(e.mutual, e.kth(3)),
    "min(mutual, 0.9 nearest)": lambda e: torch.minimum(e.mutual, 0.9 * e.nearest),
    "min(mutual, 1.2 nearest)": lambda e: torch.minimum(e.mutual, 1.2 * e.nearest),
    "blend, n/(n+16)": lambda e: torch.lerp(e.mutual, e.nearest, e.known / (e.known + 16)),
    "at least n/(n+2) nearest": lambda e: torch.maximum(e.least, e.known / (e.known + 2) * e.nearest),
    "interval average of known good": lambda e: interval_average(e.good, e.known, e.interval),
    "min(mutual 0-0.5, nearest)": lambda e: _of_interval(e, 0.0, 0.5),
    "min(mutual 0.3-0.7, nearest)": lambda e: _of_interval(e, 0.3, 0.7),
}
"""What the study tried beside them."""


def _of_interval(e: Evidence, low: float, high: float) -> Tensor:
    return torch.minimum(interval_average(e.distances, len(e.distances) - 1, (low, high)), e.nearest)


def distinct(images: ImageSet) -> ImageSet:
    """Return a set without files that are there twice: a copy would be a perfect reference."""
    first = {hashlib.sha256(path.read_bytes()).digest(): i for i, path in reversed(list(enumerate(images.paths)))}
    return (
        images
        if len(first) == len(images.paths)
        else images.take(np.array(sorted(first.values())), f"{images.name}-distinct")
    )


def splits_of(labels: Ids, seeds: int, share: float | None, candidates: Ids | None = None) -> list[Split]:
    """Draw splits: half of the good images become known, the others and defective ones are evaluated.

    Args:
        labels: (N,), 1 = defective.
        seeds: splits to draw.
        share: of defective images among the evaluated ones, at least three; None takes all of them.
        candidates: good images of which half become known; all by default.
    """
    found = []
    for seed in range(seeds):
        chance = np.random.default_rng(seed)
        order = chance.permutation(np.flatnonzero(labels == 0) if candidates is None else candidates)
        pool = order[: len(order) // 2]
        rest = np.setdiff1d(np.flatnonzero(labels == 0), pool)
        defective = np.flatnonzero(labels)
        if share is not None:
            count = min(len(defective), max(3, round(share / (1 - share) * len(rest))))
            defective = chance.permutation(defective)[:count]
        found.append(Split(np.sort(np.concatenate([rest, defective])), pool))
    return found


def maps_of(
    features: Features, choice: Choice, split: Split, known: int, rules: Mapping[str, Rule]
) -> dict[str, Tensor]:
    """Compute the patch maps (n, h, w) of the evaluated images by rule; without known good images of MuSc alone."""
    if not known:
        rules = {MUTUAL: lambda e: e.mutual}
    totals: dict[str, Tensor] = defaultdict(lambda: torch.zeros(()))
    for layer in choice.layers:
        for degree in choice.degrees:
            rows = torch.from_numpy(features.distances(layer, degree)[split.evaluated])
            good = rows[:, :, split.pool[:known]].float()
            evidence = Evidence(rows[:, :, split.evaluated].float().contiguous(), good, choice.interval)
            for name, rule in rules.items():
                totals[name] = totals[name] + rule(evidence)
    scale = len(choice.layers) * len(choice.degrees)
    return {name: (total / scale).view(-1, *features.grid) for name, total in totals.items()}


def rows_of(
    features: Features, choice: Choice, splits: Sequence[Split], rules: Mapping[str, Rule]
) -> dict[Key, list[Row]]:
    """Compute the figures of all numbers of known good images and rules, a row per split."""
    found: dict[Key, list[Row]] = defaultdict(list)
    for split in splits:
        scored = Scored(features, Truth(features.images.take(split.evaluated, features.images.name)))
        for known, name in split.counts.items():
            for rule, maps in maps_of(features, choice, split, known, rules).items():
                raw = scored.raw_scores(maps)
                after = scored.rescored(raw, maps, choice, split.evaluated)
                aupro = scored.truth.of_maps(maps)[1]
                found[name, rule].append(np.array([*_of_scores(scored, raw), aupro, *_of_scores(scored, after)]))
                if rule == NEAREST:
                    top = mean_of_top(max(1, int(TOP_SHARE * maps[0].numel())), maps, features.image_size).numpy()
                    found[name, f"{NEAREST}, top 1 %"].append(
                        np.array([*_of_scores(scored, top), aupro, np.nan, np.nan])
                    )
    return found


def _of_scores(scored: Scored, scores: npt.NDArray[np.float32]) -> tuple[float, float]:
    labels = scored.truth.images.labels
    return 100 * image_auroc(labels, scores), 100 * average_precision(labels, scores)
