"""Known good images as neighbours in rescoring, with score 0 or their own against the other known good images."""

from collections.abc import Sequence

import numpy as np
import torch

from method_study.choices import Choice
from method_study.features import Features
from method_study.figures import Truth
from method_study.known_good import PRODUCT, RULES, Split, maps_of
from method_study.scored import Scored
from musc_ray.core.metrics.image import average_precision, image_auroc

WAYS = ("none", "evaluated", "known good as 0", "known good as own")


def print_neighbours(features: Features, choice: Choice, splits: Sequence[Split]) -> None:
    """Print image AUROC and AP without rescoring, among evaluated images, and with known good ones as neighbours."""
    print(f"\n{features.images.name}: image AUROC, image AP: {', '.join(WAYS)}")
    for name in dict.fromkeys(name for split in splits for name in split.counts.values()):
        rows = [_of_split(features, choice, split, known) for split in splits for known in _numbers(split, name)]
        print(f"{name!s:>4} " + "   ".join(f"{a:6.2f} {p:6.2f}" for a, p in np.mean(rows, axis=0)), flush=True)


def _numbers(split: Split, name: int | str) -> list[int]:
    return [known for known, its in split.counts.items() if its == name]


def _of_split(features: Features, choice: Choice, split: Split, known: int) -> list[tuple[float, float]]:
    """Return the figures of each of WAYS."""
    scored = Scored(features, Truth(features.images.take(split.evaluated, features.images.name)))
    maps = next(iter(maps_of(features, choice, split, known, {PRODUCT: RULES[PRODUCT]}).values()))
    raw, labels = scored.raw_scores(maps), scored.truth.images.labels
    found = [raw, scored.rescored(raw, maps, choice, split.evaluated)]
    own = split.pool[:known]
    good = _among_known(features, choice, split, known)
    scores = scored.raw_scores(good) if known > 1 else np.zeros(known, np.float32)
    together = np.concatenate([split.evaluated, own])
    for of_good in (np.zeros(known, np.float32), scores):
        every = scored.rescored(np.concatenate([raw, of_good]), torch.cat([maps, good]), choice, together)
        found.append(every[: len(raw)])
    return [(100 * image_auroc(labels, s), 100 * average_precision(labels, s)) for s in found]


def _among_known(features: Features, choice: Choice, split: Split, known: int) -> torch.Tensor:
    """Return the patch maps (K, h, w) of the known good images against the others of them; of one alone 0."""
    own = split.pool[:known]
    total = torch.zeros(known, features.grid[0] * features.grid[1])
    if known > 1:
        for layer in choice.layers:
            for degree in choice.degrees:
                distances = torch.from_numpy(features.distances(layer, degree)[own])[:, :, own]
                total += distances.float().amin(dim=2)
    return (total / (len(choice.layers) * len(choice.degrees))).view(-1, *features.grid)
