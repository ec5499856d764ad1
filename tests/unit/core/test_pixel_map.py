"""Patches that are not scored (NaN) in pixel maps and in image scores."""

import numpy as np
import torch

from musc_ray.core.pixel_map import fill_unscored, image_scores, pixel_map
from tests.helpers import brute_force

MAPS = np.array([[[1, 2, np.nan], [4, np.nan, 3]], [[5, 6, 7], [8, 9, 1]]], np.float32)


def test_patches_that_are_not_scored_get_the_lowest_score_of_their_image():
    np.testing.assert_array_equal(fill_unscored(MAPS), [[[1, 2, 1], [4, 1, 3]], [[5, 6, 7], [8, 9, 1]]])
    np.testing.assert_array_equal(fill_unscored(MAPS.reshape(2, 6))[0], [1, 2, 1, 4, 1, 3])
    assert np.isnan(MAPS).sum() == 2  # the argument stays as it is


def test_whole_maps_are_returned_as_they_are_and_empty_ones_stay_nan():
    whole = MAPS[1:]
    assert fill_unscored(whole) is whole
    assert np.isnan(fill_unscored(np.full((1, 4), np.nan, np.float32))).all()


def test_pixel_maps_and_image_scores_are_those_of_filled_maps():
    filled = np.array([[1, 2, 1], [4, 1, 3]])
    expected = brute_force.pixel_map(filled, (7, 11))
    np.testing.assert_allclose(pixel_map(torch.from_numpy(MAPS[:1]), (7, 11))[0].numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(image_scores(torch.from_numpy(MAPS), (7, 11)).numpy(), [4, 9], atol=1e-6)
