"""How known good images enter scores: against the formula written with loops, and what it promises."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from musc_ray.core.known_good import FULL_TRUST, MAX_RATIO, bounded
from tests.helpers import brute_force


def tensors(*values):
    return [torch.tensor(value, dtype=torch.float32) for value in values]


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 4), st.integers(1, 9), st.integers(0, 40), st.floats(0.2, 3.0), st.integers(0, 2**32 - 1))
def test_it_is_the_formula(images, patches, known, scale, seed):
    generator = np.random.default_rng(seed)
    averages = generator.uniform(0, 1, (images, patches)).astype(np.float32)
    nearest = (scale * generator.uniform(0, 1, (images, patches))).astype(np.float32)
    found = bounded(torch.from_numpy(averages), torch.from_numpy(nearest), known).numpy()
    np.testing.assert_allclose(found, brute_force.with_known_good(averages, nearest, known), atol=1e-6)
    assert (found <= np.maximum(averages, nearest) + 1e-6).all()
    assert (found >= np.minimum(averages, nearest) - 1e-6).all()


def test_an_image_of_a_variant_that_no_known_good_one_shows_keeps_its_scores():
    averages, nearest = tensors([0.3, 0.5, 0.4], [0.9, 1.0, 0.1])
    assert bounded(averages, nearest, 100).tolist() == pytest.approx([0.3, 0.5, 0.1])


def test_many_that_explain_an_image_raise_a_defect_that_others_share():
    averages, nearest = tensors([0.3, 0.3, 0.2], [0.3, 0.25, 0.9])
    assert bounded(averages, nearest, FULL_TRUST).tolist() == pytest.approx([0.3, 0.25, 0.9])
    assert bounded(averages, nearest, 1)[2] == pytest.approx(0.2), "one alone never raises a score"
    assert bounded(averages, nearest, 4)[2] == pytest.approx(0.2 * 12 / 15 + 0.9 * 3 / 15)


def test_the_ratio_of_the_middle_patch_decides():
    averages = torch.ones(5)
    for share, trusted in ((MAX_RATIO - 0.01, True), (MAX_RATIO + 0.01, False)):
        nearest = torch.tensor([0.1, 0.1, share, 2.0, 2.0])
        assert bool(bounded(averages, nearest, FULL_TRUST)[4] == 2.0) == trusted


def test_without_mutual_or_known_good_images_the_others_count():
    infinite, some = torch.full((3,), torch.inf), torch.tensor([0.1, 0.2, 0.3])
    assert torch.equal(bounded(infinite, some, 1), some)
    assert torch.equal(bounded(some, infinite, 0), some)
    assert torch.equal(bounded(torch.zeros(3), some, 20), torch.zeros(3)), "copies of another image"
