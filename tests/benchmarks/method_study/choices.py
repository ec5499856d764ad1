"""A choice of all constants of the method, and the values of each that the study tries."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain

from musc_ray.backbones.shape import layers_at
from musc_ray.settings.method import Constants, constants_of

BACKBONE, DEPTH = "dinov2-vit-s-14", 12


@dataclass(frozen=True)
class Choice:
    """Constants of the method, and what belongs to them.

    Attributes:
        layers, degrees, interval: see `musc_ray.settings.method.Constants`.
        rescoring: `none`, or `rscin` or `rscon` followed by its k_list, such as `rscin 1,2,3`.
        shape: `square`, or `kept`: as many patches in the shape of the images.
        weights: of the layers: `equal`, `rising`, `falling` or `middle`.
        score: image score of a map: `max`, or a name of `image_scores.SCORES`.
    """

    layers: tuple[int, ...]
    degrees: tuple[int, ...]
    interval: tuple[float, float]
    rescoring: str
    shape: str
    weights: str = "equal"
    score: str = "max"

    @classmethod
    def of(cls, constants: Constants, shape: str) -> "Choice":
        """Return the choice that the product has."""
        rescoring = constants.rescoring
        named = "none" if rescoring == "none" else f"{rescoring} {','.join(map(str, constants.k_list))}"
        return cls(layers_at(constants.twelfths, DEPTH), constants.degrees, constants.interval, named, shape)

    @property
    def layer_weights(self) -> tuple[float, ...]:
        """Return a weight per layer; their sum is 1."""
        n = len(self.layers)
        raw = {
            "equal": [1] * n,
            "rising": range(1, n + 1),
            "falling": range(n, 0, -1),
            "middle": [min(i, n - 1 - i) + 1 for i in range(n)],
        }[self.weights]
        return tuple(weight / sum(raw) for weight in raw)

    def __str__(self) -> str:
        parts = [named(part, getattr(self, part)) for part in ("layers", "degrees", "interval", "rescoring", "shape")]
        parts += [value for value in (self.weights, self.score) if value not in ("equal", "max")]
        return "; ".join(parts)


PAPER = Choice.of(constants_of("paper", BACKBONE), "square")
TUNED = Choice.of(constants_of("tuned", BACKBONE), "kept")


def named(constant: str, value: object) -> str:
    """Return a value of a constant for a table: `layers 6-9`, `interval 0-0.3`."""
    if not isinstance(value, tuple):
        return str(value) if constant == "rescoring" else f"{constant} {value}"
    first, last = value[0], value[-1]
    if constant == "interval" or (constant == "layers" and len(value) > 1 and last - first == len(value) - 1):
        return f"{constant} {first:g}-{last:g}"
    return f"{constant} {','.join(map(str, value))}"


def runs_of_layers() -> Iterator[tuple[int, ...]]:
    """Yield single layers, runs of 3 to 5, the last blocks of the quarters, and some with gaps."""
    for length in (1, 3, 4, 5):
        yield from (tuple(range(first, first + length)) for first in range(DEPTH - length + 1))
    yield from ((2, 5, 8, 11), (5, 8), (5, 7, 9), (3, 5, 7, 9), (4, 6, 8, 10))


VALUES: dict[str, tuple[object, ...]] = {
    "shape": ("square", "kept"),
    "layers": tuple(runs_of_layers()),
    "degrees": ((1,), (3,), (1, 3), (1, 5), (3, 5), (1, 3, 5)),
    "interval": tuple((0.0, high) for high in (0.05, 0.1, 0.2, 0.3, 0.5)),
    "weights": ("equal", "rising", "falling", "middle"),
    "rescoring": ("none", "rscin 1,2,3", "rscon 1,2,3", "rscon 1,7"),
}
"""In the order in which a coordinate search tries them."""


def neighbours(choice: Choice, constant: str) -> list[Choice]:
    """Return the choices that differ in one constant, the choice itself excluded."""
    every = (replace(choice, **{constant: value}) for value in VALUES[constant])
    return [other for other in dict.fromkeys(chain(every)) if other != choice]
