"""The constants of the method, by family of backbone: MuSc's own (`paper`), and those that detect better (`tuned`).

Evidence (`tests/benchmarks/bench_method.py` prints it; figures in `tests/benchmarks/README.md`). Only DINOv2 could be
measured, with ViT-S/14: for the other families `tuned` has the paper's constants and differs by the shape alone.
"""

from dataclasses import dataclass
from typing import Literal

from musc_ray.settings.types import Rescoring

Method = Literal["tuned", "paper"]
Family = Literal["clip", "dino", "dinov2", "dinov3", "plain"]


@dataclass(frozen=True)
class Constants:
    """What a method chooses; each can still be set by the setting of its name.

    Attributes:
        twelfths: the layers, in twelfths of the network's depth; see `backbones.shape.layers_at`.
        degrees: sides of the averaged neighbourhoods, in patches.
        interval: share of the sorted distances whose mean is a patch score.
        rescoring: from raw image scores to scores.
        k_list: neighbours in rescoring, the image itself included.
    """

    twelfths: tuple[int, ...] = (3, 6, 9, 12)
    degrees: tuple[int, ...] = (1, 3, 5)
    interval: tuple[float, float] = (0.0, 0.3)
    rescoring: Rescoring = "rscin"
    k_list: tuple[int, ...] = (1, 2, 3)


PAPER = Constants()
"""MuSc, section 4.1: the last block of each quarter, r = 1, 3, 5, the lowest 30 %, RsCIN with k = 1, 2, 3."""

TUNED: dict[Family, Constants] = {
    # not measured: there are no weights without a model hub
    "clip": PAPER,
    "dino": PAPER,
    "dinov3": PAPER,
    "plain": PAPER,
    # Points over the paper's image AUROC / image AP / pixel AP / AUPRO, mean of the judged sets, each change with those
    # before it: shape +3.8 / +6.2 / -0.2 / +5.1, layers +4.5 / +7.8 / +5.2 / +8.6, degrees +4.9 / +8.2 / +7.1 / +11.6,
    # RsCon +6.6 / +10.4 / +7.1 / +11.6. No other interval, score or weighting won on two thirds of the sets.
    "dinov2": Constants(twelfths=(7, 8, 9, 10), degrees=(1, 3), rescoring="rscon"),
}
"""The constants of `tuned`."""

CHOSEN = ("degrees", "interval", "rescoring", "k_list")
"""Settings that the method chooses where they are not given; layers follow once the depth of the network is known."""


def family_of(backbone: str) -> Family:
    """Return the family of a backbone by its name or alias; a name that no family is known by is a plain ViT."""
    name = backbone.lower()
    if name.startswith("open_clip:") or "clip" in name:
        return "clip"
    families: tuple[Family, ...] = ("dinov3", "dinov2", "dino")
    return next((family for family in families if family in name), "plain")


def constants_of(method: Method, backbone: str) -> Constants:
    """Return the constants that a method has for a backbone."""
    return PAPER if method == "paper" else TUNED[family_of(backbone)]
