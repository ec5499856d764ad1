"""Calibration of crops by what is usual of each patch, and the choice between whole images and crops."""

import numpy as np
import pytest

from musc_ray.core.crop_calibration import (
    MIN_IMAGES,
    MIN_USUAL,
    calibrated,
    choose_shown,
    outstanding,
    peaks,
    usual_scores,
)
from musc_ray.core.crops import CropLayout

LAYOUT = CropLayout(2, 3, 0.2)
GRID = (6, 5)


def noise(shape, seed=0):
    return (1 + 0.05 * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def test_a_patch_that_is_always_unusual_is_divided_by_it():
    maps = noise((40, 30))
    maps[:, 7] *= 3
    maps[4, 20] = 2.0
    usual = usual_scores(maps)
    assert usual[7] == pytest.approx(np.median(maps[:, 7]))
    found = calibrated(maps, usual)
    assert maps.argmax() % 30 == 7
    assert divmod(int(found.argmax()), 30) == (4, 20)
    assert np.median(found) == pytest.approx(np.median(maps), rel=0.05), "still in distances"


def test_what_never_changes_is_not_made_sensitive_at_will():
    maps = noise((40, 30))
    maps[:, 3] = 1e-6
    usual = usual_scores(maps)
    assert usual[3] == pytest.approx(MIN_USUAL * np.median(np.median(maps, axis=0)), rel=1e-3)


def test_few_images_are_not_calibrated():
    assert (usual_scores(noise((MIN_IMAGES - 1, 30))) == 1).all()
    assert not (usual_scores(noise((MIN_IMAGES, 30))) == 1).all()


def test_patches_that_are_not_scored_have_nothing_usual():
    maps = noise((40, 30))
    maps[:, 5] = np.nan
    maps[::2, 6] = np.nan
    usual = usual_scores(maps)
    assert usual[5] == 1
    assert usual[6] == pytest.approx(np.nanmedian(maps[:, 6]))
    assert np.isnan(calibrated(maps, usual)[:, 5]).all()
    assert (usual_scores(np.full((40, 30), np.nan, np.float32)) == 1).all()
    assert (usual_scores(np.zeros((40, 30), np.float32)) == 1).all()


def test_outstanding_is_in_robust_deviations_of_the_logarithm():
    scores = np.exp(np.linspace(-1, 1, 101))
    deviation = 1.4826 * 0.5
    assert outstanding(scores) == pytest.approx(0.9 / deviation)
    assert outstanding(7 * scores) == pytest.approx(outstanding(scores)), "whatever the unit"
    assert outstanding(np.ones(20)) == 0
    assert np.isfinite(outstanding(np.zeros(20)))


@pytest.mark.parametrize("shown", ["whole", "crops"])
def test_maps_in_which_defects_stand_out_are_shown(shown):
    whole, crops = noise((40, 30)), noise((40, 6, *GRID), seed=1)
    if shown == "whole":
        whole[:4, 11] *= 2
    else:
        crops[:4, 2, 3, 3] *= 2
    found = choose_shown(whole, crops, LAYOUT)
    assert found.shown == shown
    assert found.whole is not None
    assert found.crops is not None
    assert (found.whole > found.crops) == (shown == "whole")
    assert f"{max(found.whole, found.crops):.1f}" in found.reason


def test_a_small_group_shows_its_crops():
    found = choose_shown(noise((5, 30)), noise((5, 6, *GRID)), LAYOUT)
    assert (found.shown, found.whole, found.crops) == ("crops", None, None)


def test_peaks_leave_out_what_is_not_scored():
    maps = np.array([[1, np.nan, 3], [np.nan] * 3], np.float32)
    assert peaks(maps).tolist() == [3, 0]
