"""What `matching: auto` chose for a group, as it is stored beside its features and in run.json."""

from typing import TYPE_CHECKING, Self

from pydantic import PositiveInt

from musc_ray.storage.manifest_records import Decision, Record

if TYPE_CHECKING:
    from musc_ray.core.matching import MatchingChoice


class MatchedRadius(Record):
    """What a sample says of a radius in patches: see `core/matching.py`."""

    radius: int
    found: float
    agrees: float


class GroupMatching(Decision):
    """Where patches of a group look for their nearest.

    Attributes:
        radius: at most this many patches from their own place; None means anywhere.
        figures: what the sample says of the radii that were tried.
    """

    radius: PositiveInt | None = None
    figures: tuple[MatchedRadius, ...] = ()

    @property
    def decided(self) -> object:
        """The radius."""
        return self.radius

    @classmethod
    def of(cls, choice: "MatchingChoice", images: int) -> Self:
        """Return a choice that was made by a sample of some images."""
        figures = tuple(MatchedRadius(**vars(figure)) for figure in choice.figures)
        return cls(radius=choice.radius, reason=choice.reason, images=images, figures=figures)
