"""AUPRO and AUPIMO against anomalib's, on maps that are bumpy as real ones."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from tests.unit.core.metrics.test_pixel_curve import image_overlaps, streamed

anomalib = pytest.importorskip("anomalib.metrics", reason="anomalib comes with the test extra")


def bumpy(seed: int, images: int = 12, side: int = 256) -> tuple[list[np.ndarray], list[np.ndarray], list[bool]]:
    """Smooth maps, the last third of the images with raised round masks of different sizes."""
    generator = np.random.default_rng(seed)
    maps, masks, good = [], [], []
    y, x = np.mgrid[:side, :side]
    for n in range(images):
        values = ndimage.gaussian_filter(generator.normal(size=(side, side)), 6) * 6 + generator.normal(
            scale=0.02, size=(side, side)
        )
        mask = np.zeros((side, side), bool)
        if n >= 2 * images // 3:
            for _ in range(3):
                centre, radius = generator.integers(20, side - 20, 2), generator.integers(4, 20)
                mask |= (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2
            values += generator.uniform(0.2, 2.5) * ndimage.gaussian_filter(mask.astype(float), 3)
        maps.append(values.astype(np.float32))
        masks.append(mask)
        good.append(not mask.any())
    return maps, masks, good


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_aupro_and_aupimo_are_anomalibs(seed):
    maps, masks, good = bumpy(seed)
    values, truth = torch.from_numpy(np.stack(maps)), torch.from_numpy(np.stack(masks))
    aupro = anomalib.aupro._AUPRO()
    aupro.update(values, truth.int())
    assert streamed(maps, masks).aupro == pytest.approx(float(aupro.compute()), abs=1e-3)
    aupimo = anomalib.pimo.pimo._AUPIMO(num_thresholds=30_000, return_average=False)
    aupimo.update(values, truth)
    _, theirs = aupimo.compute()
    ours = image_overlaps(maps, masks, good)
    np.testing.assert_allclose(ours, theirs.aupimos[~torch.tensor(good)].numpy(), atol=1e-3)
    assert np.ptp(ours) > 0.1


@pytest.mark.slow
def test_aupro_with_ties_is_anomalibs():
    maps, masks, _ = bumpy(2)
    maps = [np.round(4 * values) / 4 for values in maps]
    metric = anomalib.aupro._AUPRO()
    metric.update(torch.from_numpy(np.stack(maps)), torch.from_numpy(np.stack(masks)).int())
    assert streamed(maps, masks).aupro == pytest.approx(float(metric.compute()), abs=1e-3)
