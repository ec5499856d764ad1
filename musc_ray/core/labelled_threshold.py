"""A threshold on the scores of a group from the labels of some of its images, and how well a threshold does on them."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Found:
    """How the labels of images and a threshold agree; images with at least the threshold are held.

    Attributes:
        good, defective: labelled images.
        good_held, defective_held: those of them that are held.
    """

    good: int
    defective: int
    good_held: int
    defective_held: int

    @property
    def precision(self) -> float | None:
        """Share of the held images that are defective; None where none is held."""
        held = self.good_held + self.defective_held
        return self.defective_held / held if held else None

    @property
    def recall(self) -> float | None:
        """Share of the defective images that are held; None where none is defective."""
        return self.defective_held / self.defective if self.defective else None


def found_at(scores: npt.ArrayLike, defective: npt.ArrayLike, threshold: float) -> Found:
    """Count the labelled images that a threshold holds.

    Args:
        scores: (L,) of the labelled images.
        defective: (L,) flags: defective, otherwise good.
        threshold: of the group.

    Raises:
        ValueError: mismatched shapes, NaN or infinite scores.
    """
    values, flags = _checked(scores, defective)
    held = values >= threshold
    return Found(int((~flags).sum()), int(flags.sum()), int((held & ~flags).sum()), int((held & flags).sum()))


def labelled_threshold(scores: npt.ArrayLike, defective: npt.ArrayLike, suggested: float = np.inf) -> float:
    """Choose the threshold with the best F1 on the labelled images of a group, in the middle of a gap between scores.

    Of the L labelled images let TP(t) be the defective ones with a score of at least t, FP(t) the good ones, and D all
    defective ones:

        F1(t) = 2 TP(t) / (TP(t) + FP(t) + D)

    F1 changes at the scores alone. Of the scores s where F1(s) is largest the lowest is taken: of equally good
    thresholds the one that misses fewer defects. Every threshold between it and the next lower labelled score does the
    same on the labels, so that the middle is returned, which is as far from both. Where no labelled image scores lower,
    the labels do not say how low it may be: it is the suggested one, at most that score.

    Args:
        scores: (L,) of the labelled images.
        defective: (L,) flags: defective, otherwise good.
        suggested: threshold from all scores of the group (`threshold.suggest_threshold`); +inf for none.

    Raises:
        ValueError: mismatched shapes, NaN or infinite scores, no good or no defective image.
    """
    values, flags = _checked(scores, defective)
    if flags.all() or not flags.any():
        raise ValueError("A threshold by labels needs at least one good and one defective image.")
    distinct, inverse = np.unique(values, return_inverse=True)
    of_score = np.zeros((2, len(distinct)), np.int64)
    np.add.at(of_score, (flags.astype(np.int64), inverse), 1)
    false, true = of_score[:, ::-1].cumsum(axis=1)[:, ::-1]  # held at each distinct score
    best = int(np.argmax(2.0 * true / (true + false + flags.sum())))  # argmax takes the first, the lowest
    lowest = float(distinct[best])
    if best == 0:
        return min(lowest, suggested)
    below = float(distinct[best - 1])
    middle = below + (lowest - below) / 2
    return middle if middle > below else lowest  # neighbouring numbers have no middle


def _checked(scores: npt.ArrayLike, defective: npt.ArrayLike) -> tuple[Floats, npt.NDArray[np.bool_]]:
    values, flags = np.asarray(scores, np.float64), np.asarray(defective, np.bool_)
    if values.ndim != 1 or values.shape != flags.shape:
        raise ValueError(f"scores and labels must be (L,) alike, got {values.shape} and {flags.shape}.")
    if not np.isfinite(values).all():
        raise ValueError("scores must not hold NaN or infinite values.")
    return values, flags
