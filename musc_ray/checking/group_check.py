"""Check the images of one group: embed, score, compare; imports torch."""

from collections.abc import Sequence
from dataclasses import replace

from musc_ray.checking.group_scorer import GroupScorer
from musc_ray.checking.heatmap import HeatmapFolder, scale_of
from musc_ray.checking.query import Embeddings, Query
from musc_ray.checking.results import CheckedImage, Standing, UncheckedImage
from musc_ray.checking.standing import GroupStanding
from musc_ray.checking.stored_group import StoredGroup
from musc_ray.checking.stored_model import arithmetic_of
from musc_ray.core.peaks import peak_pixels
from musc_ray.errors import ImageError
from musc_ray.runtime.progress import Progress
from musc_ray.scoring.patch_maps import ImageMaps
from musc_ray.sources.images import CatalogImage

COPY = 1 - 1e-5
"""Similarity of class tokens from which on two images are called the same."""


def check_group(
    group: StoredGroup,
    images: Sequence[CatalogImage],
    embeddings: Embeddings,
    folder: HeatmapFolder | None,
    progress: Progress,
) -> tuple[list[CheckedImage], list[UncheckedImage]]:
    """Check images of a group; returns those that could be checked, and the others.

    Raises:
        MuscRayError: what the group's run stored is broken or gone.
    """
    scorer = GroupScorer(group, arithmetic_of(group.run), embeddings.threads)
    with progress.phase("embedding the images"):
        query = embeddings.embed(group, images, scorer.reader)
    failed = [UncheckedImage(image.uri, image.message or str(image.error)) for image in query.failed]
    if not query.images:
        return [], failed
    with progress.phase("comparing with the references"):
        uri_of = {image.image_id: image.uri for image in query.images}
        query, maps, unscored = scorer.maps(query)
        failed += [UncheckedImage(uri_of[image_id], message) for image_id, message in unscored.items()]
        if not query.images:
            return [], failed
        standings = GroupStanding(group, scorer.reader, scorer.device).of(query, maps)
    checked = _checked(group, query, maps, standings)
    if folder is None:
        return checked, failed
    with progress.phase("writing heat maps"):
        return _with_heatmaps(group, checked, folder, failed)


def _checked(group: StoredGroup, query: Query, maps: ImageMaps, standings: Sequence[Standing]) -> list[CheckedImage]:
    sizes = [(image.height, image.width) for image in query.images]
    known_good = {image_id for ids in group.known_good.values() for image_id in ids}
    found = []
    for at, (image, peak) in enumerate(zip(query.images, peak_pixels(maps.maps, sizes), strict=True)):
        references = sum(int(flags.sum()) for flags in group.references_of(image.image_id).values())
        found.append(
            CheckedImage(
                **vars(standings[at]),
                uri=image.uri,
                image_id=image.image_id,
                group=group.name,
                run_id=group.run.run_id,
                references=references,
                known_good=len(known_good - {image.image_id}),
                score_raw=float(maps.score_raw[at]),
                height=image.height,
                width=image.width,
                peak_y=peak[0],
                peak_x=peak[1],
                patch_map=maps.maps[at],
                notes=tuple(_notes(group, image.image_id, standings[at], image.remarks)),
            )
        )
    return found


def _notes(group: StoredGroup, image_id: str, standing: Standing, remarks: Sequence[str]) -> list[str]:
    """List what a reader of an image's scores must know."""
    notes = [f"What it shows in part only: {', '.join(remarks)}."] if remarks else []
    if any(image_id in shard.ids for shard in group.scored):
        notes.append(f"Run {group.run.run_id} has scored this image: it is compared with the others.")
    elif any(image_id in ids for ids in group.known_good.values()):
        notes.append("A person vouches for this image: it is compared with the others.")
    elif standing.neighbours and standing.neighbours[0].similarity >= COPY:
        notes.append(f"It looks the same as {standing.neighbours[0].uri}, which is one of its references.")
    if group.run.settings.repeated_defects:
        notes.append("Repeated defects count as references here: a run leaves them out.")
    return notes


def _with_heatmaps(
    group: StoredGroup, checked: Sequence[CheckedImage], folder: HeatmapFolder, failed: list[UncheckedImage]
) -> tuple[list[CheckedImage], list[UncheckedImage]]:
    """Write the heat maps of checked images; one that cannot be read any more stays checked, and is named."""
    scale, found = scale_of(group), []
    for image in checked:
        try:
            written = folder.write(group, (image.uri, image.image_id), image.patch_map, scale)
        except ImageError as error:
            failed.append(UncheckedImage(image.uri, f"It has no heat map, since it cannot be read again: {error}"))
            written = []
        found.append(replace(image, heatmaps=tuple(written)))
    return found, failed
