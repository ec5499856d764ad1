"""Unit vectors as int8: exact integers, even squared lengths, distances near those of the vectors."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from musc_ray.core.quantised import MAX_INT8, int8_scale, quantise, rotation


@pytest.mark.parametrize("channels", [1, 7, 96])
def test_a_rotation_keeps_distances_and_is_the_same_every_time(channels: int) -> None:
    turn = rotation(channels)
    torch.testing.assert_close(turn @ turn.T, torch.eye(channels), atol=1e-5, rtol=0)
    rotation.cache_clear()
    assert torch.equal(rotation(channels), turn)


def test_distances_are_those_of_the_vectors() -> None:
    x = F.normalize(torch.randn(300, 96, generator=torch.Generator().manual_seed(1)) + 0.5, dim=1)
    q = quantise(x).double()
    found = torch.cdist(q, q, compute_mode="donot_use_mm_for_euclid_dist") / int8_scale(96)
    exact = torch.cdist(x.double(), x.double(), compute_mode="donot_use_mm_for_euclid_dist")
    assert float((found - exact).abs().max()) < 0.01


def test_half_a_squared_length_is_an_integer_and_zero_stays_zero() -> None:
    x = F.normalize(torch.randn(500, 33, generator=torch.Generator().manual_seed(2)), dim=1)
    q = quantise(x)
    assert q.dtype == torch.int8
    assert int((q.int().square().sum(dim=1) % 2).sum()) == 0
    assert not quantise(torch.zeros(3, 33)).any()


def test_what_lies_beyond_the_range_is_clipped_and_still_even() -> None:
    x = torch.eye(64)  # before the rotation as far from even as a vector can be
    q = quantise(x, turned=True).int()
    assert int(q.abs().max()) <= MAX_INT8
    assert not (q.square().sum(dim=1) % 2).any()


def test_equal_vectors_become_equal_numbers() -> None:
    x = F.normalize(torch.randn(4, 16, 24, generator=torch.Generator().manual_seed(3)), dim=2)
    both = quantise(torch.stack([x, x]))
    np.testing.assert_array_equal(both[0].numpy(), both[1].numpy())
