"""Notes on large images: how they are cut, or what is too small to be seen because they are not."""

from collections import Counter
from collections.abc import Mapping

from musc_ray.core.crops import MAX_SCALE, CropInput, Size
from musc_ray.features.group_names import named


def scale(size: Size, image_size: Size) -> float:
    """Return how many pixels of an image a pixel of the model covers, in the direction in which they are most."""
    return max(size[0] / image_size[0], size[1] / image_size[1])


def uncut_notes(sizes: Mapping[str, Counter[Size]], image_sizes: Mapping[str, Size]) -> tuple[str, ...]:
    """Say how many images the model sees at less than every second pixel, at most one note.

    Args:
        sizes: number of images by their own size, of each group; upright.
        image_sizes: (H, W) of the model's input of each group.
    """
    large = Counter[tuple[Size, Size]]()
    for name, found in sizes.items():
        for size, count in found.items():
            if scale(size, image_sizes[name]) > MAX_SCALE:
                large[size, image_sizes[name]] += count
    if not large:
        return ()
    total = sum(map(sum, (found.values() for found in sizes.values())))
    (size, image_size), _ = max(large.items(), key=lambda item: (scale(*item[0]), item[1]))
    return (
        f"{large.total():,} of {total:,} images have more than {MAX_SCALE:g} pixels a pixel of the model, up to "
        f"{scale(size, image_size):.1f} (from {_text(size)} to {_text(image_size)}), which may hide small "
        "defects: --crops auto cuts such images into parts that the model sees in full.",
    )


def cut_notes(sizes: Mapping[str, Counter[Size]], crops: Mapping[str, CropInput]) -> tuple[str, ...]:
    """Say how the images of groups are cut; groups of one sentence share it.

    Args:
        sizes: number of images by their own size, of each group; upright.
        crops: of each group whose images are cut.
    """
    groups: dict[str, list[str]] = {}
    for name, cut in crops.items():
        layout, common = cut.layout, sizes.get(name, Counter()).most_common(1)
        about = finer = ""
        if common:
            height, width = layout.crop_size(*common[0][0])
            about = f" of about {height:.0f} x {width:.0f} pixels"
            if height < cut.size[0] and width < cut.size[1]:
                finer = ", more pixels than they have: fewer crops would show as much at less cost"
        sentence = (
            f"images are cut into {layout.rows} x {layout.columns} crops{about}, overlap {100 * layout.overlap:g} %, "
            f"which the model sees as {_text(cut.size)} (height x width){finer}."
        )
        groups.setdefault(sentence, []).append(name)
    return tuple(f"{named(names)}: {sentence}" for sentence, names in groups.items())


def _text(size: Size) -> str:
    return f"{size[0]} x {size[1]}"
