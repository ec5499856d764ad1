"""Into how many crops a job would cut the images of each group: from the settings, and the sizes of some images."""

from collections.abc import Mapping, Sequence

from musc_ray.backbones.shape import BackboneInfo
from musc_ray.core.crops import CropInput, InputShape
from musc_ray.features.group_shapes import input_shape, sample_size
from musc_ray.settings.model import Settings
from musc_ray.sources.images import CatalogImage

SAMPLE_GROUPS, SAMPLE_IMAGES = 16, 3
"""Groups whose images are looked at, the largest; and images of each. Other groups count as the middle one of these."""


def crop_inputs(
    settings: Settings, info: BackboneInfo, groups: Mapping[str, Sequence[CatalogImage]]
) -> dict[str, CropInput]:
    """Return where the images of each group would be cut; groups that would not be are left out.

    A run looks at more images of each group, so that its layouts may differ.

    Args:
        settings: of the run.
        info: shape of the backbone.
        groups: images by group.

    Raises:
        SettingsError: there would be too many crops.
        StorageError: the storage did not answer.
    """
    rule = settings.crop_rule
    if rule is None:
        return {}
    if rule.layout is not None:
        return dict.fromkeys(groups, CropInput(rule.layout, info.image_size))
    largest = sorted(groups, key=lambda name: len(groups[name]), reverse=True)[:SAMPLE_GROUPS]
    found = {name: sample_size(groups[name][:SAMPLE_IMAGES], settings.image_limits) for name in largest}
    sizes = sorted((size for size in found.values() if size is not None), key=lambda size: size[1])
    if not sizes:
        return {}
    other = sizes[len(sizes) // 2]
    shapes = {name: _shape(settings, info, name, found.get(name) or other) for name in groups}
    return {name: shape.crops for name, shape in shapes.items() if shape.crops is not None}


def _shape(settings: Settings, info: BackboneInfo, group: str, size: tuple[float, float]) -> InputShape:
    return input_shape(settings, group, info.image_size, info.patch_size, *size)
