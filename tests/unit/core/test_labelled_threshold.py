"""Thresholds by labels: the best F1, the lowest of equals, in the middle of a gap."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from musc_ray.core.labelled_threshold import Found, found_at, labelled_threshold


def f1(scores, defective, threshold):
    held = [score >= threshold for score in scores]
    true = sum(h and d for h, d in zip(held, defective, strict=True))
    return 2 * true / (sum(held) + sum(defective))


@pytest.mark.parametrize(
    ("scores", "defective", "threshold"),
    [
        ([0.1, 0.3], [0, 1], 0.2),
        ([0.3, 0.1], [1, 0], 0.2),
        ([0.1, 0.2, 0.6, 0.8], [0, 0, 1, 1], 0.4),
        # one good image above: holding all three beats losing a defect
        ([0.1, 0.5, 0.6, 0.7], [0, 1, 0, 1], 0.3),
        # many good ones between: the lower defect is given up
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8], [1, 0, 0, 0, 0, 0, 1], 0.7),
        # 2/3 both at 0.1 (1 of 2 held is defective) and at none higher: the lowest score has no gap below
        ([0.1, 0.4], [1, 0], 0.1),
        # equal scores are held together
        ([0.2, 0.5, 0.5, 0.5], [0, 0, 1, 1], 0.35),
        # F1 2/3 at 0.1 (all: TP 2, FP 2) and at 0.4 (TP 1, FP 0): the lower, which misses no defect
        ([0.1, 0.2, 0.3, 0.4], [1, 0, 0, 1], 0.1),
    ],
)
def test_thresholds_by_hand(scores, defective, threshold):
    assert labelled_threshold(scores, defective) == pytest.approx(threshold)


LABELLED = st.lists(
    st.tuples(st.integers(0, 12).map(lambda value: value / 8), st.booleans()), min_size=2, max_size=30
).filter(lambda pairs: len({label for _, label in pairs}) == 2)


@given(LABELLED)
def test_no_threshold_is_better_and_none_as_good_misses_fewer(pairs):
    scores, defective = zip(*pairs, strict=True)
    threshold = labelled_threshold(scores, defective)
    best = f1(scores, defective, threshold)
    for other in {*scores, max(scores) + 1}:
        assert f1(scores, defective, other) <= best
        if f1(scores, defective, other) == best:
            assert sum(score >= threshold for score in scores) >= sum(score >= other for score in scores)
    below = max((score for score in scores if score < threshold), default=None)
    above = min(score for score in scores if score >= threshold)
    assert threshold == (above if below is None else (below + above) / 2)


@given(LABELLED, st.randoms())
def test_the_order_of_the_images_does_not_matter(pairs, random):
    shuffled = random.sample(pairs, len(pairs))
    assert labelled_threshold(*zip(*pairs, strict=True)) == labelled_threshold(*zip(*shuffled, strict=True))


def test_neighbouring_numbers_have_no_middle():
    low = 0.1
    high = float(np.nextafter(low, 1))
    assert labelled_threshold([low, high], [0, 1]) == high


@pytest.mark.parametrize(
    ("scores", "defective", "message"),
    [
        ([0.1, 0.2], [1, 1], "at least one good and one defective"),
        ([0.1, 0.2], [0, 0], "at least one good and one defective"),
        ([], [], "at least one good and one defective"),
        ([0.1, np.nan], [0, 1], "NaN"),
        ([0.1, np.inf], [0, 1], "NaN"),
        ([0.1], [0, 1], "alike"),
    ],
)
def test_what_cannot_give_a_threshold_is_refused(scores, defective, message):
    with pytest.raises(ValueError, match=message):
        labelled_threshold(scores, defective)


def test_precision_and_recall_so_far():
    found = found_at([0.1, 0.5, 0.6, 0.9], [0, 0, 1, 1], 0.5)
    assert found == Found(good=2, defective=2, good_held=1, defective_held=2)
    assert (found.precision, found.recall) == (2 / 3, 1.0)
    assert found_at([0.1, 0.2], [0, 1], 0.5).precision is None
    assert found_at([0.1, 0.2], [0, 1], 0.5).recall == 0.0
    assert found_at([0.6], [0], 0.5).recall is None


def test_how_low_a_threshold_may_be_says_the_suggested_one_where_no_labelled_image_scores_lower():
    assert labelled_threshold([0.9, 0.6, 0.7], [False, True, True], 0.3) == 0.3
    assert labelled_threshold([0.9, 0.6, 0.7], [False, True, True], 0.65) == 0.6
    assert labelled_threshold([0.2, 0.6, 0.7], [False, True, True], 0.3) == pytest.approx(0.4)
