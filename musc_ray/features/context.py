"""What a run works on: its images by group and shard, and its identity."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from musc_ray.features.group_shapes import group_image_sizes
from musc_ray.features.ids import run_id, run_values
from musc_ray.features.intensity import FoundRange, group_ranges, stated
from musc_ray.features.sharding import GroupShards, assign_shards
from musc_ray.features.workspace import Workspace, source_and_out
from musc_ray.sources.catalog import Catalog, list_images
from musc_ray.sources.deep import Range
from musc_ray.sources.images import CatalogImage
from musc_ray.storage.feature_shards import existing_shards, forget_features
from musc_ray.storage.garbage import check_unread
from musc_ray.storage.paths import RunPaths
from musc_ray.storage.shards import FeaturesMeta


@dataclass(frozen=True)
class RunContext(Workspace):
    """A run before the first image is read.

    Attributes:
        run_id: its name, or else its identity.
        identity: made from all that changes its scores; see `ids.run_values`.
        groups: the shards of each group.
        earlier: ids of the images that a night's new ones are scored against, by group; None in a run on a whole
            archive, whose images all get scores.
        catalog: all that the source lists, the images of `groups` among them.
        waiting: number of new images by group that a night leaves for a later one.
        intensity: range of the deep pixels of each group that has any.
        image_sizes: (H, W) of each group whose shape is kept; empty where all groups have that of `meta`.
    """

    run_id: str
    identity: str
    groups: dict[str, GroupShards]
    earlier: Mapping[str, frozenset[str]] | None = None
    catalog: Catalog = field(default_factory=Catalog)
    waiting: Mapping[str, int] = field(default_factory=dict)
    intensity: Mapping[str, FoundRange] = field(default_factory=dict)
    image_sizes: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def meta_of(self, group: str) -> FeaturesMeta:
        """Return what all shards of a group have in common: `meta` at the group's image size."""
        height, width = self.image_sizes.get(group, self.meta.image_size)
        patch = self.meta.image_size[0] // self.meta.grid[0]
        return replace(self.meta, image_size=(height, width), grid=(height // patch, width // patch))

    def range_of(self, group: str) -> Range | None:
        """Return the range of a group's deep pixels; None for a group that has none."""
        found = self.intensity.get(group)
        return None if found is None else found.range

    @property
    def run_paths(self) -> RunPaths:
        """Return the paths of the run."""
        return self.out_paths.run(self.run_id)

    @property
    def images(self) -> int:
        """Count the listed images, readable or not, without the earlier ones."""
        return sum(group.images for group in self.groups.values()) - sum(map(len, (self.earlier or {}).values()))


def open_context(workspace: Workspace) -> RunContext:
    """List the source, find what is already extracted.

    Raises:
        SettingsError: the source is missing.
        MuscRayError: the source cannot be listed.
    """
    settings = workspace.settings
    source, _ = source_and_out(settings)
    catalog = list_images(source, settings.group_by, column=settings.column)
    return replace(context_of(workspace, catalog.groups), catalog=catalog)


def context_of(
    workspace: Workspace,
    listed: Mapping[str, Sequence[CatalogImage]],
    earlier: Mapping[str, frozenset[str]] | None = None,
) -> RunContext:
    """Give a run its id, and its images their shards; with `overwrite`, delete their features first.

    Args:
        workspace: the OUT.
        listed: images of the run by group.
        earlier: see `RunContext`.

    Raises:
        MuscRayError: with `overwrite`, a run that reads these features is at work.
    """
    settings, out_paths, meta = workspace.settings, workspace.out_paths, workspace.meta
    if settings.overwrite:
        check_unread(out_paths, meta.features_id)
        _forget_listed(workspace, listed, earlier or {})
    existing = {name: existing_shards(out_paths, meta.features_id, name) for name in listed}
    plain = {name for name, shards in existing.items() if any(shard.intensity is None for shard in shards.values())}
    intensity = group_ranges(workspace, listed, plain)
    ranges = stated(intensity)
    sizes = group_image_sizes(workspace, listed, existing)
    found: dict[str, Mapping[str, tuple[float, float]]] = {"intensity": ranges, "image_sizes": sizes}
    values = run_values(settings, meta.features_id, workspace.arithmetic, listed, earlier, found)
    identity = run_id(values, listed)
    groups = {
        name: assign_shards(
            images, existing[name], settings.shard_size, sizes.get(name, meta.image_size), ranges.get(name)
        )
        for name, images in listed.items()
    }
    return RunContext(
        settings=settings,
        out_paths=out_paths,
        meta=meta,
        arithmetic=workspace.arithmetic,
        run_id=settings.run_id or identity,
        identity=identity,
        groups=groups,
        earlier=earlier,
        intensity=intensity,
        image_sizes=sizes,
    )


def _forget_listed(
    workspace: Workspace, listed: Mapping[str, Sequence[CatalogImage]], earlier: Mapping[str, frozenset[str]]
) -> None:
    """Delete the features of the listed images, which `overwrite` computes again; keep those of the earlier ones."""
    for name, images in listed.items():
        ids = {image.image_id for image in images} - earlier.get(name, frozenset())
        forget_features(workspace.out_paths, workspace.meta.features_id, name, ids)
