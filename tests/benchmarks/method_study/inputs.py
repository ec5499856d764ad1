"""What goes into the model: input sizes, resampling of the position embedding and of the images."""

from dataclasses import replace
from functools import partial

import torch

from method_study.choices import PAPER, TUNED, Choice
from method_study.features import FILTERS, PATCH, Variant, difference_of_positions
from method_study.figures import Figures
from method_study.image_sets import JUDGED, ImageSet, available
from method_study.scored import Study
from method_study.tables import print_comparison
from musc_ray.core.pixel_map import pixel_map

SIDES = (224, 336, 448, 518)
DEGREES = ((1, 3), (1, 3, 5), (1, 5))
SAMPLE_BY_SIZE, SAMPLE = 48, 80
"""Images of a set, at most."""

LAYERS = sorted({*PAPER.layers, *TUNED.layers})


def run_sizes(study: Study) -> None:
    """Print input sizes against 224 px, for several degrees, and averages of maps; before rescoring, shape kept."""
    sets = [one.sample(SAMPLE_BY_SIZE) for one in available(JUDGED)]
    for degrees in DEGREES:
        choice = replace(TUNED, degrees=degrees, rescoring="none")
        ways = {f"{side} px": partial(_of_sides, study, choice, (side,)) for side in SIDES}
        for sides in ((224, 336), (224, 448), (224, 336, 448)):
            ways[f"mean of {', '.join(map(str, sides))}"] = partial(_of_sides, study, choice, sides)
        print_comparison(f"Input sizes, degrees {','.join(map(str, degrees))}", sets, ways, "224 px")


def _of_sides(study: Study, choice: Choice, sides: tuple[int, ...], images: ImageSet) -> Figures:
    """Compute figures of the mean of the maps at several sizes, at the pixels of the largest."""
    maps, size = [], (0, 0)
    for side in sides:
        scored = study.scored(images, Variant("kept", side))
        scored.features.extract(choice.layers)
        maps.append(scored.maps(choice))
        size = max(size, scored.features.image_size)
    if len(maps) == 1:
        return scored.truth.figures(scored.raw_scores(maps[0]), maps[0])
    mean = torch.stack([pixel_map(each, size) for each in maps]).mean(dim=0)
    return scored.truth.figures(mean.amax(dim=(1, 2)).numpy(), mean)


def run_resampling(study: Study) -> None:
    """Print ways to resample the position embedding and the images, with paper's and tuned constants."""
    sets = [one.sample(SAMPLE) for one in available(JUDGED)]
    side = Variant().side // PATCH
    apart = difference_of_positions(study.cache, (side, side))
    print(f"authors' and timm's positions at {side} x {side} patches differ by {apart:.1%} of the norm")
    variants = {"timm's positions, bicubic": Variant(), "authors' positions": Variant(positions="authors")}
    for name in (*FILTERS, "not antialiased"):
        if name != Variant().resize:
            variants[name] = Variant(resize=name)
    for title, choice in (("paper", PAPER), ("tuned", TUNED)):
        for rescoring in dict.fromkeys(("none", choice.rescoring)):
            chosen = replace(choice, rescoring=rescoring)
            ways = {way: partial(_of_variant, study, chosen, variant) for way, variant in variants.items()}
            title_of_table = f"Resampling, {title}, rescoring {rescoring}"
            print_comparison(title_of_table, sets, ways, "timm's positions, bicubic")


def _of_variant(study: Study, choice: Choice, variant: Variant, images: ImageSet) -> Figures:
    scored = study.scored(images, replace(variant, shape=choice.shape))
    scored.features.extract(LAYERS)
    return scored.truth.figures(*scored.scores(choice))
