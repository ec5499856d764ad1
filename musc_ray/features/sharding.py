"""Assign images to shards: written shards stay as they are, new and changed images form new ones."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from musc_ray.core.crops import InputShape
from musc_ray.features.outside import Outside
from musc_ray.sources.images import CatalogImage
from musc_ray.storage.shards import FeaturesMeta, ShardImage

PENDING = ""
"""In place of a basis that is still to be found."""


@dataclass
class GroupShards:
    """A group's images by shard number.

    Attributes:
        done: images that have features.
        missing: images to extract.
        broken: images that an earlier extraction could not read, in the same version.
        failed: the errors of the broken images.
        sizes: number of images that have features by their own (height, width), as far as their shards say.
        remarks: of the images that have features, with their numbers.
        outside: energy of the images to be scored outside the basis of compressed features, as far as it is known.
    """

    done: dict[int, list[CatalogImage]] = field(default_factory=dict)
    missing: dict[int, list[CatalogImage]] = field(default_factory=dict)
    broken: dict[int, list[CatalogImage]] = field(default_factory=dict)
    failed: list[ShardImage] = field(default_factory=list)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    remarks: Counter[str] = field(default_factory=Counter)
    outside: Outside = field(default_factory=Outside)

    @property
    def images(self) -> int:
        """Count the listed images, broken ones included."""
        return sum(map(len, self.done.values())) + sum(map(len, self.missing.values())) + len(self.failed)

    @property
    def all(self) -> dict[int, list[CatalogImage]]:
        """Return all images that are not known to be broken, extracted or not, by shard number."""
        return dict(sorted({**self.done, **self.missing}.items()))

    @property
    def listed(self) -> dict[int, list[CatalogImage]]:
        """Return all images, broken ones included, by shard number."""
        shards = {**self.done, **self.missing}
        return {
            number: shards.get(number, []) + self.broken.get(number, []) for number in sorted({*shards, *self.broken})
        }


def assign_shards(
    images: Sequence[CatalogImage],
    existing: Mapping[int, FeaturesMeta],
    shard_size: int,
    shape: InputShape,
    intensity: tuple[float, float] | None = None,
    basis: str | None = None,
) -> GroupShards:
    """Find each image's shard; images without one fill new shards in the order of their hashed ids.

    Old shards are not changed. An image whose file changed counts as new: its old row is no longer read.

    Args:
        images: a group's images, sorted.
        existing: written shards by number.
        shard_size: rows of a new shard: images, or whole images and their crops; at least one image.
        shape: of what enters the model; shards of another one stay and are not used.
        intensity: range of the group's deep pixels; likewise.
        basis: sha256 of the directions that the group's features are compressed with, None for those that are not,
            PENDING where it is still to be found; likewise, but for shards without a readable image.
    """
    wanted = {(image.image_id, image.version): image for image in images}
    result = GroupShards()
    for number, meta in sorted(existing.items()):
        if meta.intensity != intensity or meta.shape != shape:
            continue
        if meta.basis_sha256 != basis and meta.extracted:
            continue
        extracted = []
        for kept in meta.extracted:
            image = wanted.pop((kept.image_id, kept.version), None)
            if image is None:
                continue
            extracted.append(image)
            result.remarks.update(kept.remarks)
            if kept.height is not None and kept.width is not None:
                result.sizes[kept.height, kept.width] += 1
        if extracted:
            result.done[number] = extracted
        for failed in meta.images:
            broken = wanted.pop((failed.image_id, failed.version), None) if failed.error is not None else None
            if broken is not None:
                result.broken.setdefault(number, []).append(broken)
                result.failed.append(failed)
    new = sorted(wanted.values())
    size = max(1, shard_size // shape.places)
    chunks = [new[start : start + size] for start in range(0, len(new), size)]
    result.missing = dict(zip(_free_numbers(existing), chunks, strict=False))
    return result


def _free_numbers(existing: Iterable[int]) -> Iterable[int]:
    """Yield free shard numbers in ascending order, so that gaps of an interrupted run are filled first."""
    taken = set(existing)
    number = 0
    while True:
        if number not in taken:
            yield number
        number += 1
