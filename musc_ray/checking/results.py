"""What a check says of images."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Neighbour:
    """An image of the group, and the cosine of its class token with that of a checked image."""

    uri: str
    similarity: float


@dataclass(frozen=True)
class Standing:
    """Where a checked image stands in its group.

    Attributes:
        score: rescored as the run does it.
        score_is_approximate: whether `score` is made with the raw scores that the others have without the image.
        p_value: share of the group, the image included, with at least its `score_raw`.
        rank, among: the rank that it would have by `score`, and of how many images.
        threshold: that of the run, of `score`, or else the suggested one.
        threshold_is_suggested: whether the run has none.
        is_anomalous: whether `score` is at least the threshold.
        neighbours: the most similar images of the group, nearest first.
    """

    score: float
    score_is_approximate: bool
    p_value: float
    rank: int
    among: int
    threshold: float
    threshold_is_suggested: bool
    is_anomalous: bool
    neighbours: tuple[Neighbour, ...]


@dataclass(frozen=True)
class CheckedImage(Standing):
    """An image that was checked, and where it stands.

    Attributes:
        uri, image_id: as a run would name it.
        group, run_id: what it was compared with.
        references: images of the group that it was compared with.
        known_good: images beside them that a person vouches for.
        score_raw: as a run that holds the image gives it.
        height, width: upright, in pixels.
        peak_y, peak_x: pixel of the original where the patch map is largest; None where nothing is scored.
        patch_map: (h, w) float32; NaN where a patch is not scored.
        notes: what a reader must know, a sentence each.
        heatmaps: files, where they were asked for: the map, and the same laid over the image.
    """

    uri: str
    image_id: str
    group: str
    run_id: str
    references: int
    known_good: int
    score_raw: float
    height: int | None
    width: int | None
    peak_y: int | None
    peak_x: int | None
    patch_map: npt.NDArray[np.float32]
    notes: tuple[str, ...] = ()
    heatmaps: tuple[str, ...] = ()


@dataclass(frozen=True)
class UncheckedImage:
    """An image, or what was given for some, that could not be checked; `message` is one sentence."""

    uri: str
    message: str


@dataclass(frozen=True)
class CheckResult:
    """What became of the images.

    Attributes:
        images: those that were checked, group by group.
        failed: those that could not be.
        skipped: other files that lie among them.
    """

    images: tuple[CheckedImage, ...]
    failed: tuple[UncheckedImage, ...]
    skipped: int = 0
