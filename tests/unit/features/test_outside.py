"""Energy outside a basis: sums over images, by layer, and when it is too much."""

import pytest

from musc_ray.features.outside import MIN_SHARE, Outside, is_outside
from musc_ray.storage.shards import ShardImage


def image(name: str, *outside: float) -> ShardImage:
    return ShardImage(name, name, "1", outside=outside)


def test_means_are_over_images_that_say_it():
    found = Outside.of([image("a", 0.1, 0.3), image("b"), image("c", 0.3, 0.5)])
    assert found.images == 2
    assert found.by_layer == pytest.approx((0.2, 0.4))
    assert found.mean == pytest.approx(0.3)
    both = found + Outside() + Outside.of([image("d", 0.8, 0.4)])
    assert both.images == 3
    assert both.by_layer == pytest.approx((0.4, 0.4))
    assert Outside().mean is None
    assert Outside().by_layer == ()


def test_much_is_more_than_three_times_what_the_sample_left_and_more_than_a_hundredth():
    assert is_outside(0.031, fitted=0.01)
    assert not is_outside(0.031, fitted=0.011)
    assert not is_outside(MIN_SHARE, fitted=0.0)
    assert not is_outside(None, fitted=0.0)
