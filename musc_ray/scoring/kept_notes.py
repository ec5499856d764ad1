"""Notes on patches that are not scored: masks, and the foreground."""

from collections.abc import Mapping

from musc_ray.features.group_names import images_text, named
from musc_ray.storage.group_foreground import GroupKept

_KEPT = {False: "all patches are scored", True: "all other patches are scored"}
"""Without a background to leave out; with a mask some patches are ignored all the same."""


def kept_notes(kept: Mapping[str, GroupKept]) -> list[str]:
    """Say what of the groups is not scored, and why; groups of one sentence share it.

    Args:
        kept: by group; empty where nothing is left out.
    """
    groups: dict[str, list[str]] = {}
    any_masks = any(group.masked for group in kept.values())
    for name, group in kept.items():
        for sentence in _sentences(group, any_masks):
            groups.setdefault(sentence, []).append(name)
    return [f"{named(names)}: {sentence}" for sentence, names in groups.items()]


def _sentences(group: GroupKept, any_masks: bool) -> list[str]:
    found = []
    if group.masked and not group.foreground:
        found.append(f"{1 - group.share:.0%} of patches are ignored (setting ignore).")
    if group.foreground is not None:
        left_out = f"{1 - group.share:.0%} of patches are not scored" if group.foreground else _KEPT[group.masked]
        found.append(f"{left_out}, since {group.reason} (foreground auto).")
    if any_masks and not group.masked:
        found.append("no mask is for the group, so that nothing of it is ignored (setting ignore).")
    if group.unmasked:
        found.append(f"no mask is for the size of {images_text(group.unmasked)}, in which nothing is ignored.")
    if group.stretched:
        found.append(f"the mask is stretched over {images_text(group.stretched)} of another aspect ratio.")
    if group.lost:
        found.append(f"no part was found in {images_text(group.lost)}, of which all patches are scored.")
    return found
