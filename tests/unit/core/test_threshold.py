"""Thresholds: the suggestion against its definition, the contamination against counting, and what both must not do."""

import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from musc_ray.core.threshold import contamination_threshold, is_anomalous, suggest_threshold

# whole numbers, scaled by powers of two: exact in floating point, so that equal stays equal
SCORES = st.lists(st.integers(0, 200), min_size=1, max_size=40).map(lambda values: np.array(values, np.float32))
SHARES = st.floats(0.001, 0.999)


def by_definition(scores: list[float]) -> float:
    """The shorth by looking at every half, then the median distance below it."""
    ordered = sorted(scores)
    size = len(ordered) // 2 + 1
    halves = [ordered[start : start + size] for start in range(len(ordered) - size + 1)]
    centre = statistics.fmean(min(halves, key=lambda half: half[-1] - half[0]))
    return centre + 3.5 * 1.4826 * statistics.median([centre - score for score in ordered if score <= centre])


@given(SCORES)
def test_the_suggestion_is_its_definition(scores):
    assert suggest_threshold(scores) == pytest.approx(by_definition(scores.tolist()), rel=1e-12)


@given(SCORES, st.sampled_from([0.25, 1.0, 4.0]), st.integers(-50, 50), st.randoms())
def test_the_suggestion_moves_with_the_scores_and_not_with_their_order(scores, scale, shift, chance):
    shuffled = scores.tolist()
    chance.shuffle(shuffled)
    moved = suggest_threshold(np.array(shuffled, np.float64) * scale + shift)
    assert moved == pytest.approx(suggest_threshold(scores) * scale + shift, abs=1e-9)


@given(SCORES)
def test_the_least_anomalous_image_is_good(scores):
    assert not is_anomalous(scores, suggest_threshold(scores))[scores.argmin()]


@pytest.mark.parametrize("value", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("count", [1, 2, 3, 10])
def test_equal_scores_are_not_anomalous(value, count):
    scores = np.full(count, value, np.float32)
    assert not is_anomalous(scores, suggest_threshold(scores)).any()


@pytest.mark.parametrize("defective", [0, 10, 40, 80])
def test_the_suggestion_hardly_depends_on_how_many_are_defective(defective):
    generator = np.random.default_rng(0)
    good = generator.normal(0.2, 0.02, 200)
    bad = generator.uniform(0.5, 1.0, defective)
    assert 0.23 < suggest_threshold(np.concatenate([good, bad])) < 0.31


@given(SCORES, SHARES)
def test_contamination_counts_the_share_and_ties(scores, share):
    wanted = max(1, round(share * len(scores)))
    threshold = contamination_threshold(scores, share)
    assert threshold in scores
    assert (scores > threshold).sum() < wanted <= is_anomalous(scores, threshold).sum()


@given(SCORES, SHARES, SHARES)
def test_a_larger_share_never_raises_the_threshold(scores, one, other):
    low, high = sorted([one, other])
    assert contamination_threshold(scores, high) <= contamination_threshold(scores, low)


@given(SCORES, SHARES, st.sampled_from([0.25, 1.0, 4.0]), st.integers(-50, 50), st.randoms())
def test_contamination_moves_with_the_scores_and_not_with_their_order(scores, share, scale, shift, chance):
    shuffled = scores.tolist()
    chance.shuffle(shuffled)
    moved = contamination_threshold(np.array(shuffled) * scale + shift, share)
    assert moved == contamination_threshold(scores, share) * scale + shift


def test_the_threshold_itself_is_anomalous_and_compared_as_a_database_does():
    scores = np.array([0.1, 0.3, 0.2], np.float32)  # 0.1 and 0.3 round up in float32, 0.2 too
    assert is_anomalous(scores, float(scores[1])).tolist() == [False, True, False]
    assert is_anomalous(scores, np.nextafter(float(scores[1]), 1)).tolist() == [False, False, False]


@pytest.mark.parametrize(
    "scores", [np.array([]), np.array([0.1, np.nan]), np.array([0.1, np.inf]), np.zeros((2, 2))], ids=str
)
def test_unusable_scores_are_refused(scores):
    for rule in (suggest_threshold, lambda values: contamination_threshold(values, 0.1)):
        with pytest.raises(ValueError, match="scores must"):
            rule(scores)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, float("nan")])
def test_unusable_shares_are_refused(share):
    with pytest.raises(ValueError, match="between 0 and 1"):
        contamination_threshold(np.array([0.1, 0.2]), share)
