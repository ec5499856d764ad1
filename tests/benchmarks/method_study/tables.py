"""Tables of what is compared on several sets."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from method_study.figures import Figures, mean_of_sets, row_of, wins_and_losses
from method_study.image_sets import ImageSet


def print_comparison(
    title: str, sets: Sequence[ImageSet], ways: Mapping[str, Callable[[ImageSet], Figures]], base: str
) -> None:
    """Print one row per way: mean figures over sets, less those of the base; sets that gain / lose; image AUROC by set.

    Args:
        title: of the table.
        sets: of images.
        ways: by name; each computes the figures of a set.
        base: the way that the others are compared with, whose own figures are printed.
    """
    print(f"\n{title}: mean of {', '.join(one.name for one in sets)}; image AUROC, image AP, pixel AP, AUPRO")
    found = {name: [compute(one) for one in sets] for name, compute in ways.items()}
    print(f"{base:30}{row_of(mean_of_sets(found[base]), '')}")
    for name, figures in found.items():
        if name == base:
            continue
        differences = [mine - others for mine, others in zip(figures, found[base], strict=True)]
        wins, losses = wins_and_losses(differences)
        each = "".join(f"{difference[0]:+7.1f}" for difference in differences if not np.isnan(difference[0]))
        row = row_of(mean_of_sets(differences))
        pixels = [difference[2] for difference in differences if difference[2] and not np.isnan(difference[2])]
        each += "   pixel AP" * bool(pixels) + "".join(f"{pixel:+7.1f}" for pixel in pixels)
        print(f"{name:30}{row}   {wins}/{losses}   AUROC{each}", flush=True)
