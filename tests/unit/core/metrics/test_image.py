"""Ranks, percentiles and the image AUROC against definitions written out."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from musc_ray.core.metrics.image import average_precision, f1_max, image_auroc
from musc_ray.core.ranks import percentiles, ranks

SCORES = st.lists(st.integers(0, 6).map(lambda number: number / 6), min_size=2, max_size=30)


@given(scores=SCORES)
def test_ranks_go_by_score_then_by_image_id(scores):
    ids = np.array([f"id{(7 * number) % 31:02d}" for number in range(len(scores))])
    expected = sorted(range(len(scores)), key=lambda i: (-scores[i], ids[i]))
    result = ranks(np.array(scores, np.float32), ids)
    assert result.dtype == np.int32
    assert [int(result[i]) for i in expected] == list(range(1, len(scores) + 1))


@given(scores=SCORES)
def test_percentile_is_the_share_of_others_below(scores):
    result = percentiles(np.array(scores, np.float32))
    for i, score in enumerate(scores):
        others = scores[:i] + scores[i + 1 :]
        below = sum((other < score) + 0.5 * (other == score) for other in others)
        assert result[i] == pytest.approx(100 * below / len(others), abs=1e-4)


@given(pairs=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 8)), min_size=2, max_size=40))
def test_auroc_counts_pairs(pairs):
    good = [score for label, score in pairs if label == 0]
    bad = [score for label, score in pairs if label == 1]
    labels, scores = zip(*pairs, strict=True)
    if not good or not bad:
        with pytest.raises(ValueError, match="at least one of each"):
            image_auroc(labels, scores)
        return
    won = sum((b > g) + 0.5 * (b == g) for b in bad for g in good)
    assert image_auroc(labels, scores) == pytest.approx(won / len(good) / len(bad), abs=1e-12)


@given(pairs=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 8)), min_size=2, max_size=40))
def test_average_precision_and_f1_go_through_every_threshold(pairs):
    labels, scores = zip(*pairs, strict=True)
    if len(set(labels)) < 2:
        for metric in (average_precision, f1_max):
            with pytest.raises(ValueError, match="at least one of each"):
                metric(labels, scores)
        return
    expected, before, f1 = 0.0, 0.0, {}
    for threshold in sorted(set(scores), reverse=True):
        flagged = sum(score >= threshold for score in scores)
        found = sum(label for label, score in pairs if score >= threshold)
        expected += (found / sum(labels) - before) * found / flagged
        before = found / sum(labels)
        f1[threshold] = Fraction(2 * found, flagged + sum(labels))
    assert average_precision(labels, scores) == pytest.approx(expected, abs=1e-12)
    best = max(f1.values())
    assert f1_max(labels, scores) == (float(best), min(t for t, value in f1.items() if value == best))


@pytest.mark.parametrize("metric", [image_auroc, average_precision, f1_max])
def test_nan_is_refused(metric):
    with pytest.raises(ValueError, match="NaN"):
        metric([0, 1], [0.5, float("nan")])
