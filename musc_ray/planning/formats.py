"""How a job would store the features of each group, and in which arithmetic it would compare them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from musc_ray.backbones.names import resolve_backbone
from musc_ray.backbones.shape import BackboneInfo
from musc_ray.backbones.weights import fetch_weights
from musc_ray.core.compression_limits import MIN_IMAGES, SAMPLE_IMAGES, most_channels
from musc_ray.features.arithmetic import Arithmetic
from musc_ray.features.group_bases import FEWEST_IMAGES
from musc_ray.features.ids import features_id, features_values
from musc_ray.settings.model import Settings
from musc_ray.sources.images import CatalogImage
from musc_ray.storage.bases import Compression, read_compression
from musc_ray.storage.group_crop_references import Meeting
from musc_ray.storage.layer_columns import layer_bytes
from musc_ray.storage.paths import OutPaths


@dataclass(frozen=True)
class GroupFormat:
    """The features of a group.

    Attributes:
        images: of the group.
        channels: of a stored token.
        dtype: of stored tokens: float16 or int8.
        compressed: whether they are projections.
        precision: of products.
        sample: images that pass the model once more, for a basis that is still to be found.
        crops: of an image, P; 0 where images are not cut.
        known_good: images that all others are compared with.
    """

    images: int
    channels: int
    dtype: str
    compressed: bool
    precision: str
    sample: int = 0
    crops: int = 0
    known_good: int = 0

    @property
    def embedded(self) -> int:
        """Return the images that need features."""
        return self.images + self.known_good

    @property
    def places(self) -> int:
        """Return the inputs of the model for an image: itself, and its crops."""
        return self.crops + 1

    def images_per_shard(self, shard_size: int) -> int:
        """Return the images of a shard, whose size counts images and crops."""
        return max(1, shard_size // self.places)

    def sets(self, meeting: Meeting) -> list[int]:
        """Return the places of each set of patches that are compared with each other (scoring/patch_sets.py)."""
        if self.crops == 0:
            return [1]
        return [1, self.crops] if meeting == "all" else [1] * self.places

    def layer_bytes(self, patches: int) -> int:
        """Return the bytes of one layer of an image of this many patches."""
        return layer_bytes(self.dtype, self.compressed, patches, self.channels)


def group_formats(
    settings: Settings,
    info: BackboneInfo,
    arithmetic: Arithmetic,
    groups: Mapping[str, int],
    stored: Mapping[str, Compression],
) -> list[GroupFormat]:
    """Return the formats of all groups.

    Where a basis is still to be found, `auto` is assumed to need as many directions as it may take.

    Args:
        settings: of the run.
        info: shape of the backbone.
        arithmetic: as resolved.
        groups: numbers of images by group.
        stored: what earlier runs decided of groups.
    """
    formats = []
    for name, images in groups.items():
        found = stored.get(name)
        channels = found.channels if found is not None else _wanted(settings, info.channels, images)
        compressed = channels is not None
        formats.append(
            GroupFormat(
                images=images,
                channels=info.channels if channels is None else channels,
                dtype=settings.stored_dtype(compressed),
                compressed=compressed,
                precision=arithmetic.precision_for(images, compressed),
                sample=min(images, SAMPLE_IMAGES) if compressed and found is None else 0,
            )
        )
    return formats


def _wanted(settings: Settings, channels: int, images: int) -> int | None:
    """Return the directions that a group without a basis will be stored with; None for all channels as they are."""
    if settings.compress == "auto":
        return most_channels(channels) if images >= MIN_IMAGES else None
    return settings.compress if isinstance(settings.compress, int) and images >= FEWEST_IMAGES else None


def stored_compression(
    settings: Settings, info: BackboneInfo, arithmetic: Arithmetic, groups: Mapping[str, Sequence[CatalogImage]]
) -> dict[str, Compression]:
    """Read what earlier runs decided of groups, where the plan names their OUT and weights.

    Raises:
        MuscRayError: the weights cannot be read, or a stored decision is broken.
    """
    if settings.compress == "none" or settings.out is None or settings.weights is None:
        return {}
    sha256 = fetch_weights(resolve_backbone(settings.backbone), settings.weights).sha256
    identity, out_paths = features_id(features_values(settings, info, sha256, arithmetic)), OutPaths.at(settings.out)
    found = {name: read_compression(out_paths, identity, name) for name in groups}
    return {name: decided for name, decided in found.items() if decided is not None}
