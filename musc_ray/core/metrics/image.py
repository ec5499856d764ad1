"""Image-level metrics. Labels are only compared with scores, never used for scoring."""

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


def image_auroc(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Compute the area under the ROC curve of image scores (N,) against labels (N,), 1 = defective; ties count half.

    The Mann-Whitney form: the share of (defective, good) pairs in which the defective image scores higher.

    Raises:
        ValueError: NaN scores, labels other than 0 and 1, or only one class.
    """
    label_array, score_array = _checked(labels, scores)
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(label_array, score_array))


def average_precision(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Compute the average precision: sum over distinct scores, from the highest, of the step in recall times precision.

    Raises:
        ValueError: as `image_auroc`.
    """
    label_array, score_array = _checked(labels, scores)
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(label_array, score_array))


def f1_max(labels: npt.ArrayLike, scores: npt.ArrayLike) -> tuple[float, float]:
    """Compute the largest F1 of any threshold, and the lowest threshold that reaches it.

    An image counts as defective if its score is at or above the threshold.

    Raises:
        ValueError: as `image_auroc`.
    """
    label_array, score_array = _checked(labels, scores)
    from sklearn.metrics import precision_recall_curve

    precision, recall, thresholds = precision_recall_curve(label_array, score_array)
    found = np.rint(recall[:-1] * label_array.sum())  # true positives; the last point has no threshold
    flagged = np.divide(found, precision[:-1], out=np.full(len(found), np.inf), where=found > 0)
    f1 = 2.0 * found / (np.rint(flagged) + label_array.sum())
    best = int(np.argmax(f1))
    return float(f1[best]), float(thresholds[best])


def _checked(labels: npt.ArrayLike, scores: npt.ArrayLike) -> tuple[npt.NDArray[np.int64], FloatArray]:
    label_array = np.asarray(labels)
    score_array = np.asarray(scores, dtype=np.float64)
    if label_array.shape != score_array.shape or label_array.ndim != 1:
        raise ValueError(f"labels and scores must be (N,) alike, got {label_array.shape} and {score_array.shape}.")
    if np.isnan(score_array).any():
        raise ValueError("scores must not hold NaN.")
    if not np.isin(label_array, (0, 1)).all() or len(np.unique(label_array)) != 2:
        raise ValueError("labels must be 0 (good) and 1 (defective), with at least one of each.")
    return label_array.astype(np.int64), score_array
