"""Places and turned images: matches near the same place, foreground weights, centring, turned references.

All with the tuned layers, degrees and interval, before rescoring.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch

from method_study.choices import DEPTH, TUNED
from method_study.features import PRECISION, TURNS, Features, Variant
from method_study.figures import Figures
from method_study.image_sets import CONFIRMING, JUDGED, ImageSet, available
from method_study.scored import Scored, Study, combine
from method_study.tables import print_comparison
from musc_ray.core.interval_average import interval_average
from musc_ray.core.lnamd import aggregate, layer_norm
from musc_ray.core.operands.prepare import prepare
from musc_ray.core.tile_product import multiply_tile

CHOICE = replace(TUNED, rescoring="none")
SAMPLE = 48
"""Images of a set, at most: here each degree has its own products in float32."""

WINDOWS = (1, 2, 4)
"""Patches between a patch and its match, at most, in either direction."""

Averages = dict[tuple[int, int], torch.Tensor]
"""Interval averages (N, L) by layer and degree."""

TURNED = {
    "mirrored": ("mirrored",),
    "mirrored both ways": ("mirrored", "upside-down", "half-turn"),
    "also quarter turns": ("mirrored", "upside-down", "half-turn", "quarter-turn", "three-quarter-turn"),
}
"""References beside the images themselves."""


def run_position(study: Study) -> None:
    """Print windows and centring against none of them."""
    sets = [one.sample(SAMPLE) for one in available(JUDGED)]
    tables: dict[str, Callable[[Scored], Mapping[str, torch.Tensor]]] = {
        "Matches within a window": _windowed_maps,
        "Centring": _centred_maps,
    }
    for title, compute in tables.items():
        _print_maps(study, title, sets, Variant("kept"), compute)
    patches = study.scored(sets[0], Variant("kept")).features.grid
    length = patches[0] * patches[1]
    costs = (f"{window}: {(2 * window + 1) ** 2 / length:.0%}" for window in WINDOWS)
    print(f"share of the products that a window needs, of {length} patches: {', '.join(costs)}")


def run_foreground(study: Study) -> None:
    """Print weights of the foreground and of places against none; of all images."""
    for names in (JUDGED, CONFIRMING):
        _print_maps(study, "Foreground and place", available(names), Variant("kept"), _weighted_maps)


def run_turned(study: Study) -> None:
    """Print turned images as further references; squeezed into squares, which quarter turns need."""
    sets = [one.sample(SAMPLE) for one in available(JUDGED)]
    _print_maps(study, "Turned references", sets, Variant("square"), partial(_turned_maps, study))


def _print_maps(
    study: Study,
    title: str,
    sets: list[ImageSet],
    variant: Variant,
    compute: Callable[[Scored], Mapping[str, torch.Tensor]],
) -> None:
    found: dict[str, dict[str, Figures]] = {}
    for images in sets:
        scored = study.scored(images, variant)
        scored.features.extract(sorted({*CHOICE.layers, DEPTH - 1}))
        for way, maps in compute(scored).items():
            found.setdefault(way, {})[images.name] = scored.truth.figures(scored.raw_scores(maps), maps)
    ways = {way: (lambda one, by_set=by_set: by_set[one.name]) for way, by_set in found.items()}
    print_comparison(title, sets, ways, "as it is")


def _windowed_maps(scored: Scored) -> dict[str, torch.Tensor]:
    """Return maps with matches anywhere, and only near the same place."""
    places, counts = _rings(scored.features.grid)
    averages: dict[str, Averages] = {"as it is": {}, **{f"within {window} patches": {} for window in WINDOWS}}
    for layer in CHOICE.layers:
        plain = layer_norm(scored.features.tokens(layer))
        for degree in CHOICE.degrees:
            vectors = aggregate(plain, scored.features.grid, degree)
            for into, distances in zip(averages.values(), _distances(vectors, places, counts), strict=True):
                into[layer, degree] = interval_average(distances, len(vectors) - 1, CHOICE.interval)
    return {way: _maps(scored.features, values) for way, values in averages.items()}


def _distances(vectors: torch.Tensor, places: torch.Tensor, counts: Sequence[int]) -> list[torch.Tensor]:
    """Compute distances (N, L, N) of unit vectors (N, L, C) to the nearest one of every image.

    Args:
        vectors: of a layer and degree.
        places: (L, K), places near each place, the nearest first.
        counts: how many of them each window has.

    Returns:
        Distances to the nearest vector anywhere, then within each window.
    """
    n, length, channels = vectors.shape
    found = torch.full((1 + len(counts), n, length, n), torch.inf)
    flat = vectors.reshape(n * length, channels)
    index = places[:, None].expand(length, n, -1)
    for i in range(n):
        cosines = (vectors[i] @ flat.T).view(length, n, length)
        near = cosines.gather(2, index)
        largest = [cosines.amax(dim=2), *(near[..., :count].amax(dim=2) for count in counts)]
        found[:, i] = (2 - 2 * torch.stack(largest)).clamp_min(0).sqrt()
        found[:, i, :, i] = torch.inf
    return list(found)


def _rings(grid: tuple[int, int]) -> tuple[torch.Tensor, list[int]]:
    """Return the places (L, K) within the largest window of each place, nearest first, and the K of each window.

    At the border the place itself stands for those outside.
    """
    reach = range(-WINDOWS[-1], WINDOWS[-1] + 1)
    steps = sorted(((y, x) for y in reach for x in reach), key=lambda step: max(abs(step[0]), abs(step[1])))
    h, w = grid
    own = torch.arange(h * w)
    columns = []
    for y, x in steps:
        row, column = own // w + y, own % w + x
        inside = (row >= 0) & (row < h) & (column >= 0) & (column < w)
        columns.append(torch.where(inside, row * w + column, own))
    return torch.stack(columns, dim=1), [(2 * window + 1) ** 2 for window in WINDOWS]


def _weighted_maps(scored: Scored) -> dict[str, torch.Tensor]:
    """Return maps times weights of the foreground, and less what is usual at a place."""
    maps = scored.maps(CHOICE)
    last = scored.features.tokens(DEPTH - 1).float()
    norms = last.norm(dim=2).view_as(maps)
    usual = maps.median(dim=0).values
    return {
        "as it is": maps,
        "first component, 0.5 to 1": maps * (0.5 + 0.5 * _foreground(last, scored.features.grid)),
        "token norm, 0.5 to 1": maps * (0.5 + 0.5 * (norms - norms.amin()) / (norms.amax() - norms.amin())),
        "less the place's median": maps - usual,
        "less half the place's median": maps - 0.5 * usual,
        "over the place's median": maps / usual,
    }


def _foreground(tokens: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Return 1 in the foreground and 0 elsewhere (N, h, w): the sign of the first component of the tokens (N, L, C).

    The sign is that of the middle of the images, as in DINOv2's visualisations.
    """
    centred = tokens.flatten(0, 1) - tokens.mean(dim=(0, 1))
    _, directions = torch.linalg.eigh(centred.T @ centred)
    values = (centred @ directions[:, -1]).view(-1, *grid)
    h, w = grid
    middle = values[:, h // 4 : h - h // 4, w // 4 : w - w // 4].mean()
    return (values * middle.sign() > 0).float()


def _centred_maps(scored: Scored) -> dict[str, torch.Tensor]:
    """Return maps of tokens less a mean of the group."""
    ways: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "as it is": lambda tokens: tokens,
        "less the group's mean": lambda tokens: tokens - tokens.mean(dim=(0, 1)),
        "less the place's mean": lambda tokens: tokens - tokens.mean(dim=0),
        "less the image's mean": lambda tokens: tokens - tokens.mean(dim=1, keepdim=True),
    }
    return {way: _maps(scored.features, _of_tokens(scored.features, change)) for way, change in ways.items()}


def _of_tokens(features: Features, change: Callable[[torch.Tensor], torch.Tensor]) -> Averages:
    averages: Averages = {}
    for layer in CHOICE.layers:
        shard = prepare(change(features.tokens(layer).float()), features.grid, CHOICE.degrees, PRECISION)
        distances = multiply_tile(shard, shard, torch.float16)[0]
        for degree, values in zip(CHOICE.degrees, distances, strict=True):
            averages[layer, degree] = interval_average(values, shard.images - 1, CHOICE.interval)
    return averages


def _turned_maps(study: Study, scored: Scored) -> dict[str, torch.Tensor]:
    """Return maps with turned references: an image in its best position, or each position as an image of its own."""
    ways: dict[str, Averages] = {"as it is": {}}
    for layer in CHOICE.layers:
        by_turn = dict(_distances_by_turn(study, scored, layer))
        for d, degree in enumerate(CHOICE.degrees):
            references = len(scored.truth.images.paths) - 1
            ways["as it is"][layer, degree] = interval_average(by_turn[""][d], references, CHOICE.interval)
            for way, turns in TURNED.items():
                found = [by_turn[turn][d] for turn in ("", *turns)]
                nearest, each = torch.stack(found).amin(dim=0), torch.cat(found, dim=-1)
                averages = interval_average(nearest, references, CHOICE.interval)
                ways.setdefault(f"{way}, nearest", {})[layer, degree] = averages
                averages = interval_average(each, references * len(found), CHOICE.interval)
                ways.setdefault(f"{way}, each by itself", {})[layer, degree] = averages
    return {way: _maps(scored.features, values) for way, values in ways.items()}


def _distances_by_turn(study: Study, scored: Scored, layer: int) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield, for each turn, distances (D, N, L, N) to the turned images; +inf to an image's own."""
    grid, images = scored.features.grid, scored.truth.images
    own = prepare(scored.features.tokens(layer), grid, CHOICE.degrees, PRECISION)
    itself = torch.eye(own.images, dtype=torch.bool)
    for turn in TURNS:
        turned = study.scored(images, Variant("square", turn=turn)).features
        turned.extract(CHOICE.layers)
        others = prepare(turned.tokens(layer), grid, CHOICE.degrees, PRECISION)
        yield turn, multiply_tile(own, others, torch.float16, pairs=~itself)[0]


def _maps(features: Features, averages: Averages) -> torch.Tensor:
    return combine(lambda layer, degree: averages[layer, degree], CHOICE, features.grid)
