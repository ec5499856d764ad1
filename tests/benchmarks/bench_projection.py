"""Which projection keeps the patch maps: why compressed tokens keep their length, and how many images a basis needs.

    python tests/benchmarks/bench_projection.py [SET ...] [--cache FOLDER]

DINOv2 ViT-S/14 at 224 px, layers, degrees and interval of `method: tuned`; a quarter of the 384 directions, tokens
rounded to int8, scored in float32. Printed for each form: correlation of all patch scores with those of all channels,
and the difference of image AUROC of score_raw, in points. A set that is missing is left out.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from machine import describe_machine
from method_study.choices import TUNED
from method_study.features import Variant
from method_study.image_sets import JUDGED, available
from method_study.scored import Scored, Study
from torch import Tensor

from musc_ray.core.compression import round_tokens
from musc_ray.core.interval_average import interval_average
from musc_ray.core.lnamd import layer_norm
from musc_ray.core.operands.prepare import prepare
from musc_ray.core.quantised import rotation
from musc_ray.core.tile_product import multiply_tile

SHARE = 4
"""Channels for each direction that is kept."""

Form = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Projects tokens (N, L, C), given directions (C, C) by energy and random ones, orthogonal to 3/4 of those kept."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", metavar="SET", choices=[[], *JUDGED], help=", ".join(JUDGED))
    parser.add_argument("--cache", type=Path, help="folder of tokens")
    arguments = parser.parse_args()
    print(describe_machine())
    with tempfile.TemporaryDirectory() as folder:
        study = Study(arguments.cache or Path(folder))
        for images in available(arguments.sets or JUDGED):
            compare(study.scored(images, Variant(TUNED.shape)))


def compare(scored: Scored) -> None:
    """Print the figures of all forms and sample sizes on a set."""
    features = scored.features
    features.extract(TUNED.layers)
    full = maps_of(scored, layer_norm)
    labels = features.images.labels
    print(f"\n{features.images.name}, {len(labels)} images")

    def show(name: str, maps: Tensor) -> None:
        correlation = np.corrcoef(maps.flatten(), full.flatten())[0, 1]
        aurocs = [scored.truth.of_scores(scored.raw_scores(found))[0] for found in (maps, full)]
        print(f"{name:44} {correlation:.5f} {aurocs[0] - aurocs[1]:+6.2f}", flush=True)

    order = np.random.default_rng(0).permutation(len(labels))
    for name, form in FORMS.items():
        show(name, maps_of(scored, lambda tokens, form=form: projected(tokens, order, form)))
    for count in (8, 16, 32, 64):
        if count < len(order):
            few = order[:count]
            maps = maps_of(scored, lambda tokens, few=few: projected(tokens, few, lengthened(3 / 8)))
            show(f"lengthened 3/8, basis of {count} images", maps)


def maps_of(scored: Scored, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the maps (N, h, w) of tokens that are changed layer by layer: normalised, and projected."""
    total = torch.zeros(())
    for layer in TUNED.layers:
        tokens = change(scored.features.tokens(layer))
        shard = prepare(tokens, scored.features.grid, TUNED.degrees, torch.float32, normalised=True)
        distances, _ = multiply_tile(shard, shard)
        total = total + interval_average(distances, len(tokens) - 1, TUNED.interval).mean(dim=0) / len(TUNED.layers)
    return total.view(-1, *scored.features.grid)


def projected(tokens: Tensor, sample: np.ndarray, form: Form) -> Tensor:
    """Normalise tokens, project them on what a sample of the images says, round them to int8."""
    z = layer_norm(tokens)
    flat = z[torch.from_numpy(sample)].flatten(0, 1).double()
    directions = torch.linalg.eigh(flat.T @ flat)[1].flip(1)
    kept = z.shape[2] // SHARE
    head = directions[:, : kept * 3 // 4]
    random = torch.from_numpy(np.random.default_rng(5).standard_normal((z.shape[2], kept - head.shape[1])))
    random = torch.linalg.qr(random - head @ (head.T @ random))[0]
    result = form(z, directions.float(), random.float())
    rounded, scales = round_tokens(result @ rotation(result.shape[2]))
    return rounded.float() * scales[..., None]


def plain(z: Tensor, directions: Tensor, _: Tensor) -> Tensor:
    """Take the first directions alone."""
    return z @ directions[:, : z.shape[2] // SHARE]


def lengthened(share: float) -> Form:
    """Lengthen the last components, a share of them, to the length of the token: as `compression.project`."""

    def form(z: Tensor, directions: Tensor, random: Tensor) -> Tensor:
        y = plain(z, directions, random)
        first = y.shape[2] - int(y.shape[2] * share)
        rest = (z.square().sum(dim=2) - y[..., :first].square().sum(dim=2)).clamp(min=0).sqrt()
        tail = y[..., first:] * (rest / y[..., first:].norm(dim=2).clamp(min=1e-9))[..., None]
        return torch.cat([y[..., :first], tail], dim=2)

    return form


def with_random(z: Tensor, directions: Tensor, random: Tensor) -> Tensor:
    """Take three quarters of the directions, and random ones that stand for all the rest (Johnson, Lindenstrauss)."""
    head = directions[:, : z.shape[2] // SHARE - random.shape[1]]
    scale = ((z.shape[2] - head.shape[1]) / random.shape[1]) ** 0.5
    return torch.cat([z @ head, z @ random * scale], dim=2)


FORMS: dict[str, Form] = {
    "the first directions alone": plain,
    "lengthened 1/4": lengthened(1 / 4),
    "lengthened 3/8": lengthened(3 / 8),
    "lengthened 1/2": lengthened(1 / 2),
    "3/4, and random ones for the rest": with_random,
}


if __name__ == "__main__":
    main()
