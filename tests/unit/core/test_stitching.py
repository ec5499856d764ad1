"""Stitched maps of crops: no seams, in place, and nothing made of patches that are not scored."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from musc_ray.core.crops import CropLayout
from musc_ray.core.stitching import blending, crop_patches, resample, stitch

LAYOUTS = [CropLayout(3, 2, 0.2), CropLayout(1, 4, 0.1), CropLayout(5, 5, 0.5), CropLayout(2, 3, 0.0)]


def field(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """A smooth field over an image of sides 1."""
    return 1 + 0.5 * np.sin(2 * y + 0.3) + 0.4 * np.cos(3 * x)


def crop_maps(layout: CropLayout, grid: tuple[int, int]) -> np.ndarray:
    """The field at the centres of the patches of every crop, from their boxes."""
    maps = []
    for top, left, bottom, right in layout.spans:
        y = top + (np.arange(grid[0]) + 0.5) / grid[0] * (bottom - top)
        x = left + (np.arange(grid[1]) + 0.5) / grid[1] * (right - left)
        maps.append(field(y[:, None], x[None]))
    return np.stack(maps)[None].astype(np.float32)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_a_smooth_field_has_no_seams(layout):
    grid = (16, 14)
    found = stitch(crop_maps(layout, grid), layout)[0]
    assert found.shape == layout.map_grid(grid)
    y, x = np.linspace(0, 1, found.shape[0]), np.linspace(0, 1, found.shape[1])
    error = np.abs(found - field(y[:, None], x[None]))
    inner = error[1:-1, 1:-1] if layout.overlap else error[1:-1]
    if layout.overlap:
        assert inner.max() < 2e-3, "the overlap hides the half patch that a crop lacks at its edge"
    assert error.max() < 0.06, "at edges of the image the half patch beyond the last centre is held constant"
    steps = np.abs(np.diff(found, axis=0)).max(), np.abs(np.diff(found, axis=1)).max()
    true = field(y[:, None], x[None])
    limits = np.abs(np.diff(true, axis=0)).max(), np.abs(np.diff(true, axis=1)).max()
    if layout.overlap:
        assert steps[0] < 1.1 * limits[0], "a step that the field does not have"
        assert steps[1] < 1.1 * limits[1], "a step that the field does not have"


@given(st.integers(1, 6), st.integers(1, 20), st.floats(0, 0.5), st.integers(1, 60))
def test_blending_is_an_average(parts, patches, overlap, points):
    matrix = blending(parts, patches, overlap, points)
    assert matrix.shape == (points, parts * patches)
    assert (matrix >= 0).all()
    np.testing.assert_allclose(matrix.sum(axis=1), 1)


def test_a_peak_stays_where_it_is():
    layout, grid = CropLayout(3, 2, 0.2), (16, 14)
    maps = np.zeros((1, 6, *grid), np.float32)
    maps[0, 3, 8, 7] = 1  # second row, second column
    found = stitch(maps, layout)[0]
    row, column = np.unravel_index(found.argmax(), found.shape)
    top, left, bottom, right = layout.spans[3]
    assert row / (found.shape[0] - 1) == pytest.approx(top + 8.5 / 16 * (bottom - top), abs=0.51 / found.shape[0])
    assert column / (found.shape[1] - 1) == pytest.approx(left + 7.5 / 14 * (right - left), abs=0.51 / found.shape[1])
    assert found.max() > 0.5
    assert crop_patches(found[None], layout, grid).tolist() == [[4, 8 * 14 + 7]]


def test_patches_that_are_not_scored_take_no_part():
    layout, grid = CropLayout(2, 2, 0.2), (10, 10)
    maps = np.full((1, 4, *grid), 3.0, np.float32)
    maps[0, 0, :5] = np.nan
    found = stitch(maps, layout)[0]
    assert np.isnan(found[:4, :8]).all()
    assert not np.isnan(found[6:]).any()
    np.testing.assert_allclose(found[~np.isnan(found)], 3.0, rtol=1e-6)


def test_a_whole_map_is_resampled_in_place():
    y, x = (np.arange(8) + 0.5) / 8, (np.arange(6) + 0.5) / 6
    whole = field(y[:, None], x[None])[None].astype(np.float32)
    found = resample(whole, (31, 21))[0]
    expected = field(np.linspace(0, 1, 31)[:, None], np.linspace(0, 1, 21)[None])
    assert np.abs(found - expected)[3:-3, 3:-3].max() < 0.03
