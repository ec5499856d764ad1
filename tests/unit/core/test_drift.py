"""Drift against its formula, what it must not change with, and percentiles among other images."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from musc_ray.core.drift import drift, is_drift
from musc_ray.core.ranks import percentiles_among

scores = st.lists(st.floats(0.125, 2, width=32), min_size=3, max_size=40).map(lambda v: np.array(v, np.float32))


def test_drift_counts_robust_standard_deviations():
    window = np.random.default_rng(0).normal(5, 2, 100_001).astype(np.float32)
    assert drift(window + 3, window) == pytest.approx(1.5, abs=0.02)
    with_defects = np.concatenate([window, np.full(5000, 50, np.float32)])
    assert drift(window + 3, with_defects) == pytest.approx(1.5, abs=0.15)


@given(scores, scores, st.floats(0.5, 4), st.floats(-1, 1))
def test_drift_depends_on_neither_scale_nor_place(new, window, scale, shift):
    spread = np.median(np.abs(window - np.median(window)))
    if spread > 1e-2:
        other = drift((new * scale + shift).astype(np.float32), (window * scale + shift).astype(np.float32))
        assert other == pytest.approx(drift(new, window), rel=1e-2, abs=1e-3)


def test_drift_of_equal_scores():
    equal = np.full(4, 0.5, np.float32)
    assert drift(equal, equal) == 0
    assert drift(equal + 1, equal) > 1e4
    assert drift(np.zeros(3, np.float32), np.zeros(3, np.float32)) == 0


def test_few_images_drift_by_chance():
    assert not is_drift(1.5, 4, level=1.0)
    assert is_drift(1.5, 40, level=1.0)
    assert not is_drift(0.9, 4000, level=1.0)
    assert is_drift(-1.5, 40, level=1.0)


@given(scores, scores)
def test_percentiles_among_others_count_what_scores_lower(new, others):
    expected = [100 * ((others < s).mean() + 0.5 * (others == s).mean()) for s in new]
    np.testing.assert_allclose(percentiles_among(new, others), expected, atol=1e-3)
