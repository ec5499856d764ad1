"""The shape of a backbone at an image size, and checks of what is requested; without model libraries and torch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Protocol

from musc_ray.errors import SettingsError

MAX_DEFAULT_SIDE = 518
"""Pixels of the default image size: the largest multiple of the patch size up to this."""

MIN_SIDE = 2
"""Patches of the shorter side of a grid that follows the shape of images."""

QUARTERS = (3, 6, 9, 12)
"""In twelfths of the depth: MuSc takes the last block of each quarter (section 4.1)."""


class Network(Protocol):
    """What of a network decides its shape at every image size; see `BackboneInfo`."""

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels."""
        ...

    @property
    def depth(self) -> int:
        """Blocks of the transformer."""
        ...

    @property
    def channels(self) -> int:
        """Length of a patch token."""
        ...

    @property
    def class_channels(self) -> int:
        """Length of a class token."""
        ...


@dataclass(frozen=True)
class BackboneInfo:
    """The shape of a backbone at an image size; known without its weights.

    Attributes:
        name: in full, see `BackboneName.canonical`.
        image_size: (H, W) in pixels.
        patch_size: side of a patch in pixels.
        grid: (h, w) in patches.
        depth: blocks of the transformer.
        layers: 0-based blocks whose tokens are returned.
        channels: of a patch token; class_channels: of a class token.
    """

    name: str
    image_size: tuple[int, int]
    patch_size: int
    grid: tuple[int, int]
    depth: int
    layers: tuple[int, ...]
    channels: int
    class_channels: int

    @classmethod
    def of(
        cls,
        name: str,
        network: Network,
        image_size: tuple[int, int] | None,
        layers: Sequence[int] | None,
        twelfths: Sequence[int] = QUARTERS,
    ) -> "BackboneInfo":
        """Return the shape of a network, checked against what is requested.

        Args:
            name: in full.
            network: the model, or what is known of it.
            image_size: (H, W) in pixels; None for 518, or the largest multiple of the patch size below.
            layers: 0-based blocks; None for those at `twelfths` of the depth, see `layers_at`.
            twelfths: used where layers is None.

        Raises:
            SettingsError: no such layer, or an image size that is not whole patches.
        """
        size = check_image_size(image_size, network.patch_size, name)
        return cls(
            name=name,
            image_size=size,
            patch_size=network.patch_size,
            grid=(size[0] // network.patch_size, size[1] // network.patch_size),
            depth=network.depth,
            layers=check_layers(layers, network.depth, name, twelfths),
            channels=network.channels,
            class_channels=network.class_channels,
        )

    def resized(self, image_size: tuple[int, int]) -> "BackboneInfo":
        """Return the shape at another image size.

        Raises:
            SettingsError: an image size that is not whole patches.
        """
        height, width = check_image_size(image_size, self.patch_size, self.name)
        grid = (height // self.patch_size, width // self.patch_size)
        return replace(self, image_size=(height, width), grid=grid)


def shaped_grid(ratio: float, side: int) -> tuple[int, int]:
    """Return the grid (h, w) that has about as many patches as a square, and about the aspect ratio of an image.

    Of the grids next to the exact one, the one whose number of patches and ratio, as logarithms, are off by the least
    in sum: 16 x 16 becomes 25 x 10 at the ratio 2.5, and 18 x 14 at 4/3. A ratio near 1 keeps the square.

    Args:
        ratio: height to width, above 0; limited so that each side has at least 2 patches.
        side: of the square, in patches.
    """
    if ratio < 1:
        w, h = shaped_grid(1 / ratio, side)
        return h, w
    if side < MIN_SIDE:
        return side, side
    ratio = min(ratio, (side / MIN_SIDE) ** 2)
    exact = side * math.sqrt(ratio), side / math.sqrt(ratio)
    heights, widths = ({max(MIN_SIDE, math.floor(length)), math.ceil(length)} for length in exact)

    def misfit(grid: tuple[int, int]) -> float:
        h, w = grid
        return abs(math.log(h * w / side**2)) + abs(math.log(h / w / ratio))

    return min(product(sorted(heights), sorted(widths)), key=misfit)


def layers_at(twelfths: Sequence[int], depth: int) -> tuple[int, ...]:
    """Return the last blocks, 0-based, of parts of a network that are given in twelfths of its depth.

    QUARTERS of 24 blocks are the layers 5, 11, 17, 23; the twelfths 7, 8, 9, 10 of 12 blocks are the layers 6, 7, 8, 9.
    """
    return tuple(sorted({max(1, depth * twelfth // 12) - 1 for twelfth in twelfths}))


def check_layers(
    layers: Sequence[int] | None, depth: int, name: str, twelfths: Sequence[int] = QUARTERS
) -> tuple[int, ...]:
    """Return the requested layers, or those at `twelfths` of the depth.

    Raises:
        SettingsError: a layer that the model does not have.
    """
    if layers is None:
        return layers_at(twelfths, depth)
    for layer in layers:
        if not 0 <= layer < depth:
            raise SettingsError(
                f"Setting 'layers' holds {layer}, but {name} has layers 0 to {depth - 1}: "
                f"try {','.join(map(str, layers_at(twelfths, depth)))}."
            )
    return tuple(layers)


def check_image_size(image_size: tuple[int, int] | None, patch_size: int, name: str) -> tuple[int, int]:
    """Return the requested (H, W), or the largest square of whole patches up to MAX_DEFAULT_SIDE.

    Raises:
        SettingsError: not a multiple of the patch size; names the nearest ones.
    """
    if image_size is None:
        return (MAX_DEFAULT_SIDE // patch_size * patch_size,) * 2
    for side in image_size:
        if side < patch_size or side % patch_size:
            below, above = side // patch_size * patch_size, (side // patch_size + 1) * patch_size
            near = f"{below} or {above}" if below else f"{above}"
            raise SettingsError(
                f"Setting 'image_size' holds {side}, which is not a multiple of the patch size {patch_size} of {name}: "
                f"try {near}."
            )
    return image_size
