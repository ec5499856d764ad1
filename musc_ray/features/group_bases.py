"""Which groups are compressed: stored decisions, and groups whose basis a worker is still to find."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from musc_ray.core.compression_limits import MIN_IMAGES
from musc_ray.features.sharding import PENDING
from musc_ray.features.workspace import Workspace
from musc_ray.settings.model import Settings
from musc_ray.sources.images import CatalogImage
from musc_ray.storage.bases import Compression, decide, forget_decision, read_compression

MAX_GROUPS = 16
"""Groups whose decisions are read at the same time."""

FEWEST_IMAGES = 2
"""Fewer images are not scored, and would make a poor basis for those to come."""


def group_compression(
    workspace: Workspace, listed: Mapping[str, Sequence[CatalogImage]], anew: bool
) -> dict[str, Compression]:
    """Read what was decided of each group; decide to leave a group as it is that is too small for `auto`.

    What is decided is stored beside the group's features: later runs on more images keep to it.

    Args:
        workspace: the OUT.
        listed: images by group.
        anew: forget the decisions first, as `overwrite` wants it.

    Returns:
        By group; without the groups of which nothing is decided yet, see `basis_of`.

    Raises:
        MuscRayError: a stored decision is broken.
    """
    settings = workspace.settings
    if settings.compress == "none":
        return {}
    out_paths, features_id = workspace.out_paths, workspace.meta.features_id

    def decision(group: str, images: int) -> Compression | None:
        if anew:
            forget_decision(out_paths, features_id, group)
        found = read_compression(out_paths, features_id, group)
        if found is None and settings.compress == "auto" and FEWEST_IMAGES <= images < MIN_IMAGES:
            return decide(out_paths, features_id, group, Compression(images))
        return found

    with ThreadPoolExecutor(MAX_GROUPS) as pool:
        decisions = zip(listed, pool.map(decision, listed, map(len, listed.values())), strict=True)
        return {group: found for group, found in decisions if found is not None}


def basis_of(settings: Settings, decided: Compression | None, images: int) -> str | None:
    """Return the hash of a group's basis: None without one, PENDING where it is still to be found.

    Args:
        settings: of the run.
        decided: of the group.
        images: listed images of the group.
    """
    if decided is not None:
        return decided.sha256
    return None if settings.compress == "none" or images < FEWEST_IMAGES else PENDING
