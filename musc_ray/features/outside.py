"""How much of the energy of images lies outside the basis that their features are compressed with."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from musc_ray.storage.shards import FeaturesMeta, ShardImage

MAX_RATIO = 3.0
"""A night warns when its new images leave more than this many times what the sample of the basis left outside it.

Measured with DINOv2 on four sets, 48 and 96 of 384 directions from half of the images: the other half's good images
leave 0.3 to 1.2 times as much, defective ones alone 1.2 to 2.6 times; of commutators 60 % as bright 2.6 to 3 times,
turned by 4 degrees 9 to 12 times, and images of another product 17 to 23 times as much.
"""

MIN_SHARE = 0.01
"""And at least this share of their energy."""


@dataclass(frozen=True)
class Outside:
    """Sums over images of the share of their energy outside the basis, by layer; empty where nothing is compressed."""

    images: int = 0
    sums: tuple[float, ...] = ()

    @classmethod
    def of(cls, images: Iterable[ShardImage]) -> "Outside":
        """Add up images, as far as they say it."""
        shares = [image.outside for image in images if image.outside]
        return cls(len(shares), tuple(map(sum, zip(*shares, strict=True))))

    def __add__(self, other: "Outside") -> "Outside":
        if not self.images or not other.images:
            return self if self.images else other
        return Outside(self.images + other.images, tuple(map(sum, zip(self.sums, other.sums, strict=True))))

    @property
    def by_layer(self) -> tuple[float, ...]:
        """Mean share by layer, in the order of the layers."""
        return tuple(total / self.images for total in self.sums)

    @property
    def mean(self) -> float | None:
        """Mean share over images and layers; None if there are no images."""
        return sum(self.by_layer) / len(self.sums) if self.images else None


def outside_of(shards: Iterable[FeaturesMeta], ids: Collection[str]) -> Outside:
    """Add up those of some shards' images whose ids are given."""
    return Outside.of(image for shard in shards for image in shard.extracted if image.image_id in ids)


def is_outside(share: float | None, fitted: float) -> bool:
    """Tell whether so much of new images' energy lies outside that the basis should be found anew.

    Args:
        share: of the new images.
        fitted: of the sample that the basis was found from.
    """
    return share is not None and share > MIN_SHARE and share > MAX_RATIO * fitted
