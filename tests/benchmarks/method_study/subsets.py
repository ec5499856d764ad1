"""What depends on the images of a group: their number, the share of defective ones, and groups of a few images."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from method_study.choices import PAPER, TUNED, Choice
from method_study.features import Variant
from method_study.image_sets import JUDGED, ImageSet, all_mono_cells, available, draw
from method_study.scored import Scored, Study
from musc_ray.core.interval_average import interval_average
from musc_ray.core.metrics.image import average_precision, image_auroc

INTERVALS = ((0.0, 0.05), (0.0, 0.1), (0.0, 0.2), (0.0, 0.3), (0.0, 0.5), (0.05, 0.3))
SHARES = (0.02, 0.10, 0.35)
DRAWS = {20: 12, 50: 8, 100: 4, 400: 2}
"""Groups drawn, by the number of their images."""

POOL = (392, 140)
"""Good and defective mono cells: enough for 400 images at every share."""

FEW = (2, 3, 5, 10, 20)
FEW_DRAWS = 100
Ids = npt.NDArray[np.int64]


def run_interval(study: Study) -> None:
    """Print image AUROC and AP before rescoring by interval, number of images and share of defective ones."""
    cells = all_mono_cells()
    pool = cells.take(draw(cells.labels, *POOL, np.random.default_rng(0)), "mono_cells_pool")
    print("mean image AUROC, image AP (%) over random groups; tuned layers and degrees, before rescoring")
    print(f"{'':14}{'images':>7}{'share':>7}" + "".join(f"{low:g}-{high:g}".rjust(13) for low, high in INTERVALS))
    for images in (pool, *(one for one in available(JUDGED[1:]) if one.has_image_metrics)):
        scored = study.scored(images, Variant("kept"))
        scored.features.extract(TUNED.layers)
        for count, draws in DRAWS.items():
            for share in SHARES:
                _print_intervals(scored, count, share, draws)


def _print_intervals(scored: Scored, count: int, share: float, draws: int) -> None:
    """Print the row of one size and share; nothing if there are not enough images."""
    labels = scored.truth.images.labels
    defective = max(1, round(share * count))
    if count - defective > (labels == 0).sum() or defective > labels.sum():
        return
    groups = [draw(labels, count - defective, defective, np.random.default_rng(seed)) for seed in range(draws)]
    found = []
    for interval in INTERVALS:
        choice = replace(TUNED, interval=interval)
        scores = [scored.raw_scores(maps_of_group(scored, choice, group)) for group in groups]
        pairs = zip(groups, scores, strict=True)
        each = [(image_auroc(labels[g], s), average_precision(labels[g], s)) for g, s in pairs]
        found.append(100 * np.mean(each, axis=0))
    row = "".join(f"{auroc:7.1f}{ap:6.1f}" for auroc, ap in found)
    print(f"{scored.truth.images.name:16.16}{count:5}{share:7.0%}{row}", flush=True)


def maps_of_group(scored: Scored, choice: Choice, group: Ids) -> torch.Tensor:
    """Return the patch maps (n, h, w) of some images of a set, scored among themselves."""
    by_layer = []
    for layer in choice.layers:
        averages = []
        for degree in choice.degrees:
            distances = scored.features.distances(layer, degree)[group][:, :, group]
            averages.append(interval_average(torch.from_numpy(distances), len(group) - 1, choice.interval))
        by_layer.append(torch.stack(averages).mean(dim=0))
    return torch.stack(by_layer).mean(dim=0).view(-1, *scored.features.grid)


def run_few(study: Study) -> None:
    """Print what groups of a few images get.

    One image of a group is defective. AUROC: how often it scores above a good one of its group. Alarm: how often the
    highest score of such a group is above that of a group of good images of the same size.
    """
    sets = [one for one in available(JUDGED) if one.has_image_metrics]
    print("mean of sets (%): AUROC before and after rescoring; alarm by the raw scores")
    print(
        f"{'images':>8}" + "".join(f"{name + ': raw':>14}{'rescored':>10}{'alarm':>8}" for name in ("paper", "tuned"))
    )
    every = {(one.name, choice): _few(study, one, choice) for one in sets for choice in (PAPER, TUNED)}
    for count in FEW:
        row = ""
        for choice in (PAPER, TUNED):
            raw, rescored, alarm = np.mean([every[one.name, choice][count] for one in sets], axis=0)
            row += f"{raw:14.1f}{rescored:10.1f}{alarm:8.1f}"
        print(f"{count:8}{row}")
    for one in sets:
        values = [f"{every[one.name, choice][count][0]:.1f}" for count in FEW for choice in (PAPER, TUNED)]
        pairs = (" / ".join(pair) for pair in zip(values[::2], values[1::2], strict=True))
        print(f"{one.name:16} raw, paper / tuned: {'   '.join(pairs)}", flush=True)


def _few(study: Study, images: ImageSet, choice: Choice) -> dict[int, tuple[float, float, float]]:
    """Return AUROC before and after rescoring, and the alarm rate, in percent, by the number of images."""
    scored = study.scored(images, Variant(choice.shape))
    scored.features.extract()
    return {count: _few_of(scored, choice, count) for count in FEW}


def _few_of(scored: Scored, choice: Choice, count: int) -> tuple[float, float, float]:
    labels = scored.truth.images.labels
    raws, rescoreds, tops, good_tops = [], [], [], []
    for seed in range(FEW_DRAWS):
        chance = np.random.default_rng(seed)
        group, good = draw(labels, count - 1, 1, chance), draw(labels, count, 0, chance)
        maps = maps_of_group(scored, choice, group)
        raw = scored.raw_scores(maps)
        raws.append(image_auroc(labels[group], raw))
        rescoreds.append(image_auroc(labels[group], scored.rescored(raw, maps, choice, group)))
        tops.append(raw.max())
        good_tops.append(scored.raw_scores(maps_of_group(scored, choice, good)).max())
    alarm = image_auroc([1] * len(tops) + [0] * len(good_tops), [*tops, *good_tops])
    return 100 * float(np.mean(raws)), 100 * float(np.mean(rescoreds)), 100 * alarm
