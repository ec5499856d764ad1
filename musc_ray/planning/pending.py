"""Check that the pending distances of a run's groups fit."""

from collections.abc import Sequence

from musc_ray.errors import SettingsError
from musc_ray.features.context import RunContext
from musc_ray.planning.cost import SUGGESTED_REFERENCES, pending_bytes
from musc_ray.scoring.ring import GroupImages


def check_pending(context: RunContext, groups: Sequence[GroupImages]) -> None:
    """Refuse a group whose pending distances would not fit: references are never sampled silently.

    Raises:
        SettingsError: names the group and the settings to use.
    """
    settings = context.settings
    for group in groups:
        patches = max(patch_set.patches for patch_set in group.sets)
        pending = pending_bytes(group.window, patches, settings.vectors, settings.distance_bytes)
        if pending > settings.max_pending_gb * 1e9:
            raise SettingsError(
                f"Group '{group.group}' has {group.images:,} images: with references {settings.references} up to "
                f"{pending / 1e9:,.0f} GB of unfinished distances would be pending, more than max_pending_gb "
                f"{settings.max_pending_gb}; use --references {SUGGESTED_REFERENCES}, or raise max_pending_gb."
            )
