"""What a run works on: its images by group and shard, the identity of its features and of itself."""

from dataclasses import dataclass

from musc_ray.backbones import BackboneInfo, describe_backbone
from musc_ray.backbones.names import resolve_backbone
from musc_ray.backbones.weights import fetch_weights
from musc_ray.config import Settings
from musc_ray.errors import SettingsError
from musc_ray.identity import features_id, run_id
from musc_ray.stages.catalog import catalog_images
from musc_ray.stages.extract import features_meta
from musc_ray.stages.sharding import GroupShards, assign_shards, existing_shards
from musc_ray.storage.features import FeaturesMeta
from musc_ray.storage.filesystem import absolute, check_writable
from musc_ray.storage.layout import Layout

SCORE_SETTINGS = ("degrees", "interval", "references", "k_list", "precision", "seed")
"""Settings that change scores without changing features."""


@dataclass(frozen=True)
class Archive:
    """Everything that is known before the first image is read."""

    settings: Settings
    layout: Layout
    run_id: str
    meta: FeaturesMeta
    groups: dict[str, GroupShards]

    @property
    def images(self) -> int:
        """Images listed, readable or not."""
        return sum(group.images for group in self.groups.values())


def open_archive(settings: Settings) -> Archive:
    """Resolve backbone and weights, list the source, find what is already extracted.

    Raises:
        SettingsError: source or out is missing, or a setting asks for what this version cannot do.
        MuscRayError: weights, source or OUT cannot be used.
    """
    source, out = settings.source, settings.out
    if source is None or out is None:
        raise SettingsError("A run needs a source and an out: give both, as in `musc-ray run SOURCE OUT`.")
    info = describe_backbone(settings.backbone, image_size_pair(settings), settings.layers)
    weights = fetch_weights(resolve_backbone(settings.backbone), settings.weights)
    if settings.weights is not None:  # workers have another working directory
        settings = settings.model_copy(update={"weights": absolute(settings.weights)})
    layout = Layout.at(out)
    check_writable(layout.fs, layout.root)
    meta = features_meta(info, weights.sha256, _features_id(settings, info, weights.sha256))
    listed = catalog_images(source, settings.group_by)
    identity = settings.run_id or run_id(
        {name: getattr(settings, name) for name in SCORE_SETTINGS} | {"features_id": meta.features_id},
        ((image.image_id, image.version) for images in listed.values() for image in images),
    )
    if settings.overwrite:
        for name, images in listed.items():
            forget_features(layout, meta.features_id, name, {image.image_id for image in images})
    groups = {
        name: assign_shards(images, existing_shards(layout, meta.features_id, name), settings.shard_size)
        for name, images in listed.items()
    }
    return Archive(settings, layout, identity, meta, groups)


def image_size_pair(settings: Settings) -> tuple[int, int] | None:
    """The asked (H, W); a single number means a square, None the backbone's default."""
    size = settings.image_size
    return (size, size) if isinstance(size, int) else size


def _features_id(settings: Settings, info: BackboneInfo, weights_sha256: str) -> str:
    return features_id(
        {
            "backbone": info.name,
            "weights_sha256": weights_sha256,
            "image_size": info.image_size,
            "layers": info.layers,
            "dtype": settings.feature_dtype,
            "model_precision": settings.model_precision,
        }
    )


def forget_features(layout: Layout, features_id: str, group: str, image_ids: set[str]) -> None:
    """Delete a group's shards that hold none but the given images; shared ones stay, and so do other runs' images."""
    for number, meta in existing_shards(layout, features_id, group).items():
        if all(image.image_id in image_ids for image in meta.images):
            layout.fs.rm_file(layout.shard(features_id, group, number))
