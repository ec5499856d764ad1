"""What a sample says of crops: whether good patches find their nearest at their own place."""

import pytest
import torch

from musc_ray.core.crop_reference_limits import MIN_FOUND
from musc_ray.core.crop_references import crop_figures

IMAGES, PATCHES = 8, 50


def distances_of(moved: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Distances (1, S, L, S) to the nearest patches everywhere, and at the same place, of which a share are farther."""
    generator = torch.Generator().manual_seed(0)
    everywhere = torch.rand(1, IMAGES, PATCHES, IMAGES, generator=generator)
    everywhere[:, range(IMAGES), :, range(IMAGES)] = torch.inf
    elsewhere = torch.rand(everywhere.shape, generator=generator) < moved
    return everywhere, torch.where(elsewhere, everywhere + 0.1, everywhere)


@pytest.mark.parametrize(("moved", "suffices"), [(0.0, True), (0.1, True), (0.3, False), (0.9, False)])
def test_same_place_suffices_if_most_good_patches_find_their_nearest_there(moved, suffices):
    figures = crop_figures(*distances_of(moved), (0.0, 0.3))
    assert figures.found == pytest.approx(1 - moved, abs=0.05)
    assert figures.same_suffices == suffices == (figures.found >= MIN_FOUND)
    assert f"{figures.found:.1%}" in figures.said


def test_anomalous_patches_do_not_count():
    everywhere, same = distances_of(0.0)
    same[:, :, :10] += 0.5
    everywhere[:, :, :10] += 5
    same[:, :, :10] += 5
    figures = crop_figures(everywhere, same, (0.0, 0.3))
    assert figures.found == 1
    assert figures.same_suffices
