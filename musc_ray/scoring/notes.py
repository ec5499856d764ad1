"""Notes of a run: what a reader of its result must not miss."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from musc_ray.core.compression_limits import MIN_IMAGES as MIN_IMAGES_COMPRESSED
from musc_ray.features.group_names import images_text, named
from musc_ray.features.intensity import FoundRange
from musc_ray.features.outside import is_outside
from musc_ray.storage.group_crop_references import GroupCropReferences
from musc_ray.storage.group_matching import GroupMatching
from musc_ray.storage.group_shown_maps import GroupShownMaps
from musc_ray.storage.manifest_records import Decision, GroupCompression, GroupJudged, GroupNight

CROPS = {"same": "those at the same place of other images", "all": "all crops of other images"}
"""What crops are compared with."""

SHOWN = {"whole": "those of the whole images, not of their crops", "crops": "those of the crops"}
"""What patch maps are from."""

MIN_IMAGES = 10
"""Images of a group below which a note says how little its scores rest on: by the interval 0-0.3 of MuSc, a patch score
is the mean of one or two distances. `bench_method.py few` measures what such scores are worth."""


def run_notes(
    failed_groups: Mapping[str, str],
    stages: Mapping[str, Mapping[str, Any]],
    night: Mapping[str, GroupNight],
    intensity: Mapping[str, FoundRange],
    images: Mapping[str, int],
    matching: Mapping[str, GroupMatching],
) -> tuple[str, ...]:
    """List the notes of a run.

    Args:
        failed_groups: why groups have no scores, by name.
        stages: figures of the stages.
        night: by group, empty in a run on a whole archive.
        intensity: ranges of deep pixels, by group.
        images: numbers of images of the scored groups, by group.
        matching: what `matching: auto` chose, by group.
    """
    extract, mutual = stages["extract"], stages["mutual"]
    error, shrunk, halved = mutual["largest_summary_error"], mutual["shrunk_blocks"], extract["halved_batches"]
    lost = extract["lost_workers"] + mutual["lost_workers"]
    repaired = extract.get("repaired_shards", 0)
    notes = [*failed_groups.values(), *intensity_notes(intensity, extract.get("remarks", {}))]
    if halved:
        notes.append(f"{halved} batches ran out of memory and were halved: lower batch_size.")
    if "without_basis" in extract:
        notes.append(
            f"{named(extract['without_basis'])}: features are not compressed, since no image of the sample "
            f"that a basis is found from could be read."
        )
    if shrunk:
        notes.append(f"{shrunk} blocks of tiles ran out of memory and were repeated with fewer shards: lower cache_mb.")
    if error:
        notes.append(f"Interval averages of many references came from summaries: each is off by {error:.1e} at most.")
    if lost:
        notes.append(f"{lost} worker{'' if lost == 1 else 's'} died; their tasks were repeated.")
    if repaired:
        of_features = "1 shard of features was" if repaired == 1 else f"{repaired} shards of features were"
        notes.append(f"{of_features} broken and extracted again.")
    return (*notes, *_drift_notes(night), *few_images_notes(images), *matching_notes(matching))


def few_images_notes(images: Mapping[str, int]) -> list[str]:
    """Say of which groups the images are too few for scores to mean much.

    Args:
        images: numbers of images by group.
    """
    few = {name: count for name, count in images.items() if count < MIN_IMAGES}
    if not few:
        return []
    least, most = min(few.values()), max(few.values())
    counts = f"{least}" if least == most else f"{least} to {most}"
    has = "has" if len(few) == 1 else "have"
    return [
        f"{named(list(few))} {has} {counts} images: below {MIN_IMAGES} a score rests on the one or two nearest "
        "images, so take the order as a hint, or add good images of the same product."
    ]


def matching_notes(matching: Mapping[str, GroupMatching]) -> list[str]:
    """Say where patches look for their nearest, and why; groups of one sentence share it."""
    groups: dict[str, list[str]] = {}
    for name, chosen in matching.items():
        groups.setdefault(f"{matching_text(chosen.radius)}, since {chosen.reason} (matching auto).", []).append(name)
    return [f"{named(names)}: patches are matched {sentence}" for sentence, names in groups.items()]


def crop_notes(crop_references: Mapping[str, GroupCropReferences]) -> list[str]:
    """Say which crops were compared, and why; groups of one sentence share it."""
    groups: dict[str, list[str]] = {}
    for name, chosen in crop_references.items():
        groups.setdefault(f"{CROPS[chosen.meeting]}, since {chosen.reason} (crop_references auto).", []).append(name)
    return [f"{named(names)}: crops are compared with {sentence}" for sentence, names in groups.items()]


def shown_notes(shown_maps: Mapping[str, GroupShownMaps]) -> list[str]:
    """Say what the maps of groups with crops show, and why; groups of one sentence share it."""
    groups: dict[str, list[str]] = {}
    for name, found in shown_maps.items():
        groups.setdefault(f"{SHOWN[found.shown]}, since {found.reason}.", []).append(name)
    return [f"{named(names)}: scores and maps are {sentence}" for sentence, names in groups.items()]


def settled_anew_notes(decisions: Mapping[str, Mapping[str, Decision]]) -> list[str]:
    """Say of which groups something is settled otherwise than in earlier runs, since they have grown.

    Args:
        decisions: by what is settled, in words, and by group.
    """
    notes = []
    for about, by_group in decisions.items():
        grown = [name for name, decision in by_group.items() if decision.grown]
        if grown:
            have = "has" if len(grown) == 1 else "have"
            notes.append(
                f"{named(grown)} {have} grown: a sample of the images now says how {about}, where before there were "
                "too few for one, so that raw scores do not compare with those of earlier runs."
            )
    return notes


def judged_notes(judged: Mapping[str, GroupJudged], known_good: Mapping[str, Collection[str]]) -> list[str]:
    """Say which groups were compared with known good images; groups of as many share a sentence.

    Args:
        judged: what was known of groups.
        known_good: ids of their known good images, readable or not.
    """
    groups: dict[str, list[str]] = {}
    for name, found in judged.items():
        parts = []
        if found.known_good:
            parts.append(f"compared with {images_text(found.known_good)} known to be good")
        elif listed := len(known_good.get(name, ())):
            parts.append(f"of {images_text(listed)} known to be good none can be read, so it was compared with none")
        if found.defective:
            parts.append(f"no image was compared with {images_text(found.defective)} found defective")
        if parts:
            groups.setdefault("; ".join(parts), []).append(name)
    return [f"{named(names)}: {sentence}." for sentence, names in groups.items()]


def matching_text(radius: int | None) -> str:
    """Name a matching: `anywhere`, or `near, radius 2`."""
    return "anywhere" if radius is None else f"near, radius {radius}"


def intensity_notes(intensity: Mapping[str, FoundRange], remarks: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Say how deep pixels became 8 bits, and what of the images is not shown; groups of one sentence share it.

    Args:
        intensity: ranges, by group.
        remarks: numbers of images by group and remark.
    """
    groups: dict[str, list[str]] = {}
    for name, (used, found) in intensity.items():
        if found:
            sentence = f"{found}; intensity {used.low:g}..{used.high:g} (setting intensity)."
            groups.setdefault(sentence, []).append(name)
    notes = [f"{named(names)}: {sentence}" for sentence, names in groups.items()]
    for name, counts in remarks.items():
        for remark, images in counts.items():
            notes.append(f"Group '{name}', {images:,} image{'' if images == 1 else 's'}: {remark}.")
    return notes


def _drift_notes(night: Mapping[str, GroupNight]) -> list[str]:
    """List the groups whose new images look unlike those they were scored against."""
    return [
        f"Group '{name}' drifts: the raw scores of its {group.new} new images lie {group.drift:+.1f} robust "
        f"standard deviations from those of its window; look at light, lens, material and camera."
        for name, group in night.items()
        if group.drift_warning
    ]


def outside_notes(night: Mapping[str, GroupNight] | None, compression: Mapping[str, GroupCompression]) -> list[str]:
    """List the groups whose images show much that the basis of their compressed features does not hold.

    Args:
        night: by group; None in a run on a whole archive, whose basis may be from the few images that there were once.
        compression: by group.
    """
    if night is None:
        found = {
            name: (group.left_outside or 0.0, "images")
            for name, group in compression.items()
            if is_outside(group.left_outside, group.left_out)
        }
    else:
        found = {
            name: (group.outside or 0.0, f"{group.new:,} new images")
            for name, group in night.items()
            if group.outside_warning and name in compression
        }
    return [
        f"Group '{name}': {100 * share:.1f} % of the energy of its {images} lies outside the basis of its compressed "
        f"features, which left out {100 * compression[name].left_out:.1f} % of the {compression[name].sample:,} images "
        f"it was found from, so that scores may miss what is new: a run with a higher --refit finds another basis, and "
        f"extracts all images again."
        for name, (share, images) in found.items()
    ]


def grown_notes(grown: Sequence[str]) -> list[str]:
    """Say which groups `compress: auto` has left as they are and would compress by now."""
    if not grown:
        return []
    its = "its features are" if len(grown) == 1 else "their features are"
    return [
        f"{named(grown)}: {its} not compressed, as compress auto decided when there were fewer than "
        f"{MIN_IMAGES_COMPRESSED} images: a run with a higher --refit compresses them, and extracts all images again."
    ]
