"""Notes on the shapes of images: squeezed into the model's input, or mixed within a group."""

from collections import Counter
from collections.abc import Mapping

from musc_ray.backbones.shape import MIN_SIDE, shaped_grid

Size = tuple[int, int]
"""Height and width in pixels."""

MAX_SQUEEZE = 1.2
"""Ratio of shapes, and of sizes, up to which nothing is said."""


def shape_notes(
    sizes: Mapping[str, Counter[Size]], image_size: Size, grid: Size, kept: Mapping[str, Size]
) -> tuple[str, ...]:
    """Return at most one note on squeezed images, one on kept shapes that are not the images', one on mixed groups.

    Args:
        sizes: number of images by their own size, of each group; upright.
        image_size: of the model's input.
        grid: its patches, (h, w).
        kept: image sizes of the groups whose shape is kept.
    """
    squeezed = sum((found for name, found in sizes.items() if name not in kept), Counter())
    patch = image_size[0] // grid[0]
    unlike = {name: size for name, size in kept.items() if not _is_mixed(sizes.get(name, Counter()))}
    notes = (
        _squeezed(squeezed, image_size, patch),
        _unlike(sizes, unlike, image_size, patch),
        _mixed(sizes, image_size, kept),
    )
    return tuple(note for note in notes if note is not None)


def squeeze(size: Size, image_size: Size) -> float:
    """Return by which factor an image is squeezed in one direction against the other, at least 1."""
    ratio = (size[0] / size[1]) / (image_size[0] / image_size[1])
    return max(ratio, 1 / ratio)


def _squeezed(sizes: Counter[Size], image_size: Size, patch: int) -> str | None:
    """Say how many images are squeezed, and which image size keeps the shape of most of them."""
    squeezed = Counter({size: count for size, count in sizes.items() if squeeze(size, image_size) > MAX_SQUEEZE})
    if not squeezed:
        return None
    (size, _), worst = squeezed.most_common(1)[0], max(squeeze(size, image_size) for size in squeezed)
    side = round((image_size[0] * image_size[1]) ** 0.5 / patch)
    whole = [patch * length for length in shaped_grid(size[0] / size[1], side)]
    return (
        f"{squeezed.total():,} of {sizes.total():,} images are squeezed in one direction, by up to {worst:.1f} times, "
        f"most of them from {_text(size)} to {_text(image_size)} pixels (height x width): to keep their shape, use "
        f"--image-size {whole[0]},{whole[1]}."
    )


def _unlike(sizes: Mapping[str, Counter[Size]], kept: Mapping[str, Size], square: Size, patch: int) -> str | None:
    """Say of the first group that its images do not have its kept shape, and why, and of how many others it is so.

    The shape is that of earlier images, or theirs is too long for a grid of at least MIN_SIDE patches a side.
    """
    squeezed = {}
    for name, image_size in kept.items():
        common = sizes[name].most_common(1) if name in sizes else []
        if common and squeeze(common[0][0], image_size) > MAX_SQUEEZE:
            ((size, _),) = common
            h, w = shaped_grid(size[0] / size[1], square[0] // patch)
            earlier = (h * patch, w * patch) != image_size
            if earlier or min(h, w) <= MIN_SIDE:
                squeezed[name] = size, image_size, earlier
    if not squeezed:
        return None
    name, (size, image_size, earlier) = next(iter(squeezed.items()))
    more = len(squeezed) - 1
    others = f", as those of {more:,} other group{'s' if more > 1 else ''}" if more else ""
    reason = (
        "the shape of the group's earlier images: to use theirs, extract all again with --overwrite"
        if earlier
        else f"whose shorter side would otherwise have less than {MIN_SIDE} patches: a larger --image-size keeps more "
        "of their shape"
    )
    return (
        f"Images of group '{name}' are squeezed {squeeze(size, image_size):.1f} times in one direction{others}, from "
        f"{_text(size)} to {_text(image_size)} pixels (height x width), {reason}."
    )


def _mixed(sizes: Mapping[str, Counter[Size]], image_size: Size, kept: Mapping[str, Size]) -> str | None:
    """Say of the first group that mixes sizes or shapes, and how many others do."""
    mixed = {name: found for name, found in sizes.items() if _is_mixed(found)}
    if not mixed:
        return None
    name, found = next(iter(mixed.items()))
    more = len(mixed) - 1
    others = f", as {more:,} other group{'s do' if more > 1 else ' does'}" if more else ""
    smallest, largest = (pick(found, key=lambda size: (size[0] * size[1], size)) for pick in (min, max))
    return (
        f"Group '{name}' mixes images of {len(found):,} sizes{others}, from {_text(smallest)} to {_text(largest)} "
        f"pixels (height x width), all resized to {_text(kept.get(name, image_size))}: if they show different products "
        f"or views, use --group-by."
    )


def _is_mixed(sizes: Counter[Size]) -> bool:
    sides = list(zip(*sizes, strict=True))
    return any(max(side) > MAX_SQUEEZE * min(side) for side in sides)


def _text(size: Size) -> str:
    return f"{size[0]} x {size[1]}"
