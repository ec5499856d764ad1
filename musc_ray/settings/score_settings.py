"""Settings of a job from its features to its scores: what is compared with what, and how."""

from typing import Annotated, Any

from pydantic import Field

from musc_ray.core import vectors_per_patch
from musc_ray.settings.affects import affects
from musc_ray.settings.feature_settings import FeatureSettings
from musc_ray.settings.types import (
    Aggregation,
    Counts,
    CropReferences,
    Flag,
    ForegroundRule,
    Interval,
    Matching,
    OptionalCount,
    OptionalText,
    References,
    Rescoring,
)

BY_METHOD: Any = None
"""Default of what the method chooses; `Settings` fills it."""


class ScoreSettings(FeatureSettings):
    """The next fields of `Settings`."""

    degrees: Annotated[Counts, affects("scores")] = Field(
        default=BY_METHOD,
        description="Odd sides, in patches, of the averaged neighbourhoods, such as 1,3,5; default: by method and "
        "backbone.",
    )
    aggregation: Annotated[Aggregation, affects("scores", older="lnamd")] = Field(
        default="lnamd",
        description="Neighbourhoods as plain means, one vector per degree (lnamd), or weighted by similarity, one "
        "vector for all degrees (snamd).",
    )
    interval: Annotated[Interval, affects("scores")] = Field(
        default=BY_METHOD,
        description="Share of the sorted distances whose mean is a patch score: low,high in 0..1; default: by method "
        "and backbone, 0,0.3 in all of them.",
    )
    matching: Annotated[Matching, affects("scores", older="anywhere")] = Field(
        default="anywhere",
        description="Where in other images a patch looks for its nearest: anywhere, near its own place (aligned "
        "products: a small part of the cost), or as a sample of each group's images says (auto).",
    )
    radius: Annotated[OptionalCount, affects("scores", older=None)] = Field(
        default=None,
        description="Farthest that a patch is compared with matching near, in patches, rows and columns; default: 2 "
        "with near, with auto what the sample says.",
    )
    ignore: Annotated[OptionalText, affects("scores", older=None, in_ids=False)] = Field(
        default=None,
        description="Mask of what is ignored in all images (white), or a folder of masks: GROUP.png of a group's, "
        "WIDTHxHEIGHT.png of those of a size; path or URI, any image format.",
    )
    foreground: Annotated[ForegroundRule, affects("scores", older="none")] = Field(
        default="none",
        description="Patches that are scored and compared with: all (none), or those of the part where a sample of a "
        "group shows one before a plain background (auto).",
    )
    known_good: Annotated[OptionalText, affects("scores", older=None, in_ids=False)] = Field(
        default=None,
        description="Source of images known to be good, with the same groups: what looks like them scores low; "
        "they are not scored themselves.",
    )
    score_known_good: Annotated[Flag, affects("scores", older=False)] = Field(
        default=False, description="Give known good images scores, too: each against the others and all images."
    )
    references: Annotated[References, affects("scores")] = Field(
        default="all", description="Other images that each image is scored against: all of its group, or this many."
    )
    crop_references: Annotated[CropReferences, affects("scores", older="auto")] = Field(
        default="auto",
        description="Crops of other images that a crop is compared with: those at its own place (same: aligned "
        "products), all (textures, loose parts), or as a sample of each group says (auto).",
    )
    repeated_defects: Annotated[Flag, affects("scores", older=False)] = Field(
        default=False, description="Find defects that many images share, and score these images without them."
    )
    rescoring: Annotated[Rescoring, affects("scores", older="rscin")] = Field(
        default=BY_METHOD,
        description="What scores are averaged with: images that look most alike as a whole (rscin), or in their most "
        "anomalous patch (rscon), or nothing: the score is score_raw (none); default: by method and backbone.",
    )
    k_list: Annotated[Counts, affects("scores")] = Field(
        default=BY_METHOD,
        description="Images in each mean of the rescoring, the image included, such as 1,2,3: 1,8,9 suits varied "
        "products, RsCon's authors take 1,7; default: by method and backbone.",
    )

    @property
    def reference_count(self) -> int | None:
        """Return M, the number of references of an image; None means all."""
        return None if self.references == "all" else int(self.references)

    @property
    def crop_meeting(self) -> CropReferences:
        """Return which crops meet; matching near stays within a place."""
        return "same" if self.matching == "near" else self.crop_references

    @property
    def vectors(self) -> int:
        """Return the number of vectors that represent a patch in a layer."""
        return vectors_per_patch(self.aggregation, len(self.degrees))
