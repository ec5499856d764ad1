"""What a run works on: its images by group and shard, the identity of its features and of itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from musc_ray.backbones import describe_backbone
from musc_ray.backbones.names import resolve_backbone
from musc_ray.backbones.weights import fetch_weights
from musc_ray.errors import SettingsError
from musc_ray.features.arithmetic import Arithmetic, resolve_arithmetic
from musc_ray.features.extraction import features_meta
from musc_ray.features.ids import features_id, features_values, run_id, run_values
from musc_ray.features.sharding import GroupShards, assign_shards, existing_shards
from musc_ray.runtime.cluster import ClusterOptions, open_hardware
from musc_ray.settings.model import Settings
from musc_ray.sources.catalog import list_images
from musc_ray.sources.images import CatalogImage
from musc_ray.storage.filesystem import absolute, check_writable
from musc_ray.storage.paths import OutPaths, RunPaths
from musc_ray.storage.requests import limit_requests
from musc_ray.storage.shards import FeaturesMeta


@dataclass(frozen=True)
class RunContext:
    """Everything that is known before the first image is read.

    Attributes:
        run_id: its name, or else its identity.
        identity: made from all that changes its scores; see `run_values`.
        meta: what all shards of its features have in common.
        arithmetic: as resolved for the hardware of the workers.
        groups: the shards of each group.
        earlier: ids of the images that a night's new ones are scored against, by group; None in a run on a whole
            archive, whose images all get scores.
        source_snapshot: of the Iceberg table that the images come from; None for other sources.
        waiting: number of new images by group that a night leaves for a later one.
    """

    settings: Settings
    layout: OutPaths
    run_id: str
    identity: str
    meta: FeaturesMeta
    arithmetic: Arithmetic
    groups: dict[str, GroupShards]
    earlier: Mapping[str, frozenset[str]] | None = None
    source_snapshot: int | None = None
    waiting: Mapping[str, int] = field(default_factory=dict)

    @property
    def run_paths(self) -> RunPaths:
        """Paths of the run."""
        return self.layout.run(self.run_id)

    @property
    def images(self) -> int:
        """Images listed, readable or not; without the earlier ones."""
        return sum(group.images for group in self.groups.values()) - sum(map(len, (self.earlier or {}).values()))


def open_context(settings: Settings) -> RunContext:
    """Resolve backbone and weights, list the source, find what is already extracted.

    Raises:
        SettingsError: source or out is missing, or a setting asks for what this version cannot do.
        MuscRayError: weights, source or OUT cannot be used.
    """
    if settings.source is None or settings.out is None:
        raise SettingsError("A run needs a source and an out: give both, as in `musc-ray run SOURCE OUT`.")
    workspace = open_out(settings, settings.out)
    listed, snapshot = list_images(settings.source, settings.group_by)
    return replace(context_of(workspace, listed), source_snapshot=snapshot)


@dataclass(frozen=True)
class Workspace:
    """An OUT, and what all runs in it with the same settings have in common.

    Attributes:
        settings: as workers need them.
        layout: of the OUT.
        meta: what all shards of the features have in common, their id included.
        arithmetic: as resolved for the hardware of the workers.
    """

    settings: Settings
    layout: OutPaths
    meta: FeaturesMeta
    arithmetic: Arithmetic


def open_out(settings: Settings, out: str) -> Workspace:
    """Resolve backbone, weights and arithmetic, and the id of the features that they make.

    Raises:
        MuscRayError: weights, OUT or the cluster cannot be used.
    """
    limit_requests(settings.max_requests)
    info = describe_backbone(settings.backbone, image_size_pair(settings), settings.layers)
    weights = fetch_weights(resolve_backbone(settings.backbone), settings.weights)
    if settings.weights is not None:  # workers have another working directory
        settings = settings.model_copy(update={"weights": absolute(settings.weights)})
    layout = OutPaths.at(out)
    check_writable(layout.fs, layout.root)
    with open_hardware(ClusterOptions.of(settings)) as hardware:
        arithmetic = resolve_arithmetic(settings.device, settings.precision, settings.model_precision, hardware)
    values = features_values(settings, info, weights.sha256, arithmetic)
    return Workspace(settings, layout, features_meta(info, weights.sha256, features_id(values)), arithmetic)


def context_of(
    workspace: Workspace,
    listed: Mapping[str, Sequence[CatalogImage]],
    earlier: Mapping[str, frozenset[str]] | None = None,
) -> RunContext:
    """Give a run its id, and its images their shards.

    Args:
        workspace: where it runs.
        listed: its images by group.
        earlier: see `RunContext`.
    """
    settings, layout, meta = workspace.settings, workspace.layout, workspace.meta
    identity = run_id(run_values(settings, meta.features_id, workspace.arithmetic, listed, earlier), listed)
    if settings.overwrite:
        for name, images in listed.items():
            kept = (earlier or {}).get(name, frozenset())
            forget_features(layout, meta.features_id, name, {image.image_id for image in images} - kept)
    groups = {
        name: assign_shards(images, existing_shards(layout, meta.features_id, name), settings.shard_size)
        for name, images in listed.items()
    }
    return RunContext(
        settings, layout, settings.run_id or identity, identity, meta, workspace.arithmetic, groups, earlier
    )


def image_size_pair(settings: Settings) -> tuple[int, int] | None:
    """The asked (H, W); a single number means a square, None the backbone's default."""
    size = settings.image_size
    return (size, size) if isinstance(size, int) else size


def forget_features(layout: OutPaths, features_id: str, group: str, image_ids: set[str]) -> None:
    """Delete a group's shards that hold none but the given images; shared ones stay, and so do other runs' images."""
    for number, meta in existing_shards(layout, features_id, group).items():
        if all(image.image_id in image_ids for image in meta.images):
            layout.fs.rm_file(layout.shard(features_id, group, number))
