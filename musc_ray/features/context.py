"""What a run works on: its images by group and shard, and its identity."""

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace

from musc_ray.core.crops import CropInput, InputShape
from musc_ray.features.extraction import FitTask, ShardTask
from musc_ray.features.group_bases import basis_of, group_compression
from musc_ray.features.group_shapes import group_shapes
from musc_ray.features.ids import run_id, run_values
from musc_ray.features.ignored import GroupMasks, digests, group_masks
from musc_ray.features.intensity import FoundRange, group_ranges, stated
from musc_ray.features.known_good import NOTHING_JUDGED, Judged, Roles, judged_images
from musc_ray.features.outside import outside_of
from musc_ray.features.sharding import PENDING, GroupShards, assign_shards
from musc_ray.features.workspace import Workspace, source_and_out
from musc_ray.settings.model import Settings
from musc_ray.sources.catalog import Catalog, list_images
from musc_ray.sources.deep import Range
from musc_ray.sources.images import CatalogImage
from musc_ray.storage.bases import Compression, compressed_meta
from musc_ray.storage.feature_shards import existing_shards, forget_features
from musc_ray.storage.garbage import check_unread
from musc_ray.storage.paths import RunPaths
from musc_ray.storage.shards import FeaturesMeta

Identities = dict[str, tuple[float, ...]]
"""Numbers by group that are part of a run id."""


Found = dict[str, Mapping[str, object]]
"""What was found of groups that is part of a run id, by kind."""


@dataclass(frozen=True)
class RunContext(Workspace):
    """A run before the first image is read.

    Attributes:
        run_id: its name, or else its identity.
        identity: made from all that changes its scores; see `ids.run_values`.
        groups: the shards of each group.
        earlier: ids of the images that a night's new ones are scored against, by group; None in a run on a whole
            archive, whose images all get scores.
        roles: the known good and the defective ones of these images.
        catalog: all that the source lists, the images of `groups` among them, and the source of known good images.
        waiting: number of new images by group that a night leaves for a later one.
        intensity: range of the deep pixels of each group that has any.
        shapes: what of each group's images enters the model, where it is not the same for all groups (`meta`).
        compression: what was decided of groups; extraction adds those whose basis it finds.
        masks: what is ignored in the images of each group that has a mask.
    """

    run_id: str
    identity: str
    groups: dict[str, GroupShards]
    earlier: Mapping[str, frozenset[str]] | None = None
    catalog: Catalog = field(default_factory=Catalog)
    waiting: Mapping[str, int] = field(default_factory=dict)
    intensity: Mapping[str, FoundRange] = field(default_factory=dict)
    shapes: Mapping[str, InputShape] = field(default_factory=dict)
    compression: dict[str, Compression] = field(default_factory=dict)
    masks: Mapping[str, GroupMasks] = field(default_factory=dict)
    roles: Roles = field(default_factory=Roles)

    @property
    def image_sizes(self) -> dict[str, tuple[int, int]]:
        """Return (H, W) of the model's input for whole images of each group whose shape is kept."""
        return {name: shape.whole for name, shape in self.shapes.items()} if self.settings.keeps_shape else {}

    @property
    def crops(self) -> dict[str, CropInput]:
        """Return the crops of each group whose images are cut."""
        return {name: shape.crops for name, shape in self.shapes.items() if shape.crops is not None}

    @property
    def known_good_images(self) -> list[CatalogImage]:
        """Return the known good images, broken ones included."""
        return [
            image
            for name, ids in self.roles.known_good.items()
            for images in self.groups[name].listed.values()
            for image in images
            if image.image_id in ids
        ]

    def shape_of(self, group: str) -> InputShape:
        """Return what of a group's images enters the model."""
        return self.shapes.get(group, self.meta.shape)

    def meta_of(self, group: str) -> FeaturesMeta:
        """Return what all shards of a group have in common: `meta` at the group's shape and with its basis."""
        meta = self.meta.shaped(self.shape_of(group))
        return compressed_meta(meta, self.compression.get(group), self.settings.stored_dtype(compressed=True))

    def shard_task(self, group: str, shard: int, images: Sequence[CatalogImage]) -> ShardTask:
        """Return the extraction of a shard."""
        shape = self.shape_of(group)
        return ShardTask(group, shard, images, self.range_of(group), shape, self.compression.get(group))

    def fit_task(self, group: str) -> FitTask:
        """Return the search for a group's basis."""
        images = sorted(image for images in self.groups[group].all.values() for image in images)
        compress = self.settings.compress
        channels = compress if isinstance(compress, int) else None
        return FitTask(group, images, channels, self.range_of(group), self.shape_of(group))

    def is_pending(self, group: str) -> bool:
        """Whether the basis of a group is still to be found."""
        listed = self.groups[group].images
        return basis_of(self.settings, self.compression.get(group), listed) == PENDING

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
        """Count the images that are to be scored, readable or not, without the earlier ones."""
        others = (*(self.earlier or {}).values(), *self.roles.known_good.values())
        return sum(group.images for group in self.groups.values()) - sum(map(len, others))


def open_context(workspace: Workspace) -> RunContext:
    """List the source, find what is already extracted.

    Raises:
        SettingsError: the source is missing.
        MuscRayError: the source cannot be listed.
    """
    settings = workspace.settings
    source, _ = source_and_out(settings)
    catalog = list_images(source, settings.group_by, column=settings.column)
    judged = judged_images(settings, workspace.out_paths, catalog.groups)
    context = context_of(workspace, judged.without_known_good(catalog.groups), judged)
    return replace(context, catalog=with_judged(catalog, judged))


def with_judged(catalog: Catalog, judged: Judged) -> Catalog:
    """Return what a source listed, together with what the source of known good images listed."""
    other, good = judged.catalog, judged.known_good_ids.values()
    vouched = {image.image_id for images in other.groups.values() for image in images}
    ids = {image.image_id for images in catalog.groups.values() for image in images}
    further = {name: [image for image in images if image.image_id not in ids] for name, images in other.groups.items()}
    return replace(
        catalog,
        groups={
            name: [*catalog.groups.get(name, ()), *further.get(name, ())] for name in {**catalog.groups, **further}
        },
        skipped=[*catalog.skipped, *other.skipped],
        unreadable=[*catalog.unreadable, *other.unreadable],
        notes=(*catalog.notes, *judged.notes),
        known_good=frozenset(vouched.union(*good)),
    )


def context_of(
    workspace: Workspace,
    to_score: Mapping[str, Sequence[CatalogImage]],
    judged: Judged = NOTHING_JUDGED,
    earlier: Mapping[str, frozenset[str]] | None = None,
) -> RunContext:
    """Give a run its id, and its images their shards; with `overwrite`, delete their features first.

    Args:
        workspace: the OUT.
        to_score: images of the run by group, the earlier ones of a night among them, without known good ones.
        judged: the known good images, which are added, and the defective ones.
        earlier: see `RunContext`.

    Raises:
        MuscRayError: with `overwrite`, a run that reads these features is at work.
    """
    settings, out_paths, meta = workspace.settings, workspace.out_paths, workspace.meta
    listed = judged.with_known_good(to_score)
    roles = judged.roles(to_score)
    _forget_listed(workspace, listed, earlier or {})
    existing = {name: existing_shards(out_paths, meta.features_id, name) for name in listed}
    intensity = group_ranges(workspace, listed, _plain(existing))
    ranges = stated(intensity)
    shapes = group_shapes(workspace, listed, existing)
    masks = group_masks(settings, listed)
    found: Found = {"intensity": ranges, **_identities(settings, shapes), **digests(masks), **roles.identity}
    identity = run_id(run_values(settings, meta.features_id, workspace.arithmetic, listed, earlier, found), listed)
    compression = group_compression(workspace, listed, anew=settings.overwrite and earlier is None)

    def assigned(name: str) -> GroupShards:
        images, shape = listed[name], shapes.get(name, meta.shape)
        basis = basis_of(settings, compression.get(name), len(images))
        return assign_shards(images, existing[name], settings.shard_size, shape, ranges.get(name), basis)

    groups = {name: assigned(name) for name in listed}
    if settings.compress != "none":
        _add_outside(groups, existing, earlier or {})
    return RunContext(
        **vars(workspace),
        run_id=settings.run_id or identity,
        identity=identity,
        groups=groups,
        earlier=earlier,
        intensity=intensity,
        shapes=shapes,
        compression=compression,
        masks=masks,
        roles=roles,
    )


def _identities(settings: Settings, shapes: Mapping[str, InputShape]) -> dict[str, Identities]:
    """Return what of the groups' shapes is part of the run id."""
    sizes: Identities = {name: shape.whole for name, shape in shapes.items()} if settings.keeps_shape else {}
    crops: Identities = {
        name: (*astuple(shape.crops.layout), *shape.crops.size)
        for name, shape in shapes.items()
        if shape.crops is not None
    }
    return {"image_sizes": sizes, "crops": crops}


def _plain(existing: Mapping[str, Mapping[int, FeaturesMeta]]) -> set[str]:
    """Return the groups with features that were extracted without a range."""
    return {name for name, shards in existing.items() if any(shard.intensity is None for shard in shards.values())}


def _add_outside(
    groups: Mapping[str, GroupShards],
    existing: Mapping[str, Mapping[int, FeaturesMeta]],
    earlier: Mapping[str, frozenset[str]],
) -> None:
    """Add up how much of the extracted images' energy lies outside their basis; without the earlier ones of a night."""
    for name, group in groups.items():
        kept = {image.image_id for images in group.done.values() for image in images}
        group.outside = outside_of(existing[name].values(), kept - earlier.get(name, frozenset()))


def _forget_listed(
    workspace: Workspace, listed: Mapping[str, Sequence[CatalogImage]], earlier: Mapping[str, frozenset[str]]
) -> None:
    """With `overwrite` delete the features of the listed images, but for those of the earlier ones."""
    if not workspace.settings.overwrite:
        return
    check_unread(workspace.out_paths, workspace.meta.features_id)
    for name, images in listed.items():
        ids = {image.image_id for image in images} - earlier.get(name, frozenset())
        forget_features(workspace.out_paths, workspace.meta.features_id, name, ids)
