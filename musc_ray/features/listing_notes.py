"""Notes on the images of a run once their sizes are known: how they are grouped, their shapes, how they are cut."""

from musc_ray.features.context import RunContext
from musc_ray.features.crop_notes import cut_notes, uncut_notes
from musc_ray.features.shapes import shape_notes


def listing_notes(context: RunContext) -> tuple[str, ...]:
    """Return the notes on how images are grouped, and on what the model sees of them."""
    sizes = {name: group.sizes for name, group in context.groups.items()}
    meta = context.meta
    shapes = shape_notes(sizes, meta.image_size, meta.grid, context.image_sizes)
    crops = cut_notes(sizes, context.crops)
    if context.settings.crops == "none":
        crops = uncut_notes(sizes, {name: context.shape_of(name).whole for name in sizes})
    return (*context.catalog.notes, *shapes, *crops)
