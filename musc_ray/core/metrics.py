"""Image-level metrics. Labels never reach the scoring: they are only compared with its result."""

import numpy as np
import numpy.typing as npt


def image_auroc(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Area under the ROC curve of image scores (N,) against labels (N,), 1 = defective; ties count half.

    The Mann-Whitney form: the share of (defective, good) pairs in which the defective image scores higher.

    Raises:
        ValueError: NaN scores, labels other than 0 and 1, or only one class.
    """
    label_array = np.asarray(labels)
    score_array = np.asarray(scores, dtype=np.float64)
    if label_array.shape != score_array.shape or label_array.ndim != 1:
        raise ValueError(f"labels and scores must be (N,) alike, got {label_array.shape} and {score_array.shape}.")
    if np.isnan(score_array).any():
        raise ValueError("scores must not hold NaN.")
    if not np.isin(label_array, (0, 1)).all() or len(np.unique(label_array)) != 2:
        raise ValueError("labels must be 0 (good) and 1 (defective), with at least one of each.")
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(label_array, score_array))
