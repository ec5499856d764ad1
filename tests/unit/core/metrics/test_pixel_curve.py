"""Pixel metrics from streamed counts against scikit-learn and formulas written out, all pixels in memory."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from musc_ray.core.metrics.aupimo import NO_TAIL, Credits, lowest_tail_bin, normal_tail
from musc_ray.core.metrics.counting import EMPTY, BinCounter, PlaceCounter, keys_of, values_of
from musc_ray.core.metrics.pixel_curve import PixelMetrics, bins_metrics, plan_bins, totals_of
from musc_ray.evaluate.masks import regions_of
from tests.helpers import evaluated


def streamed(maps, masks, window_bins=2, files=2):
    """The metrics in passes over files of images, a few bins at a time; None where one class is missing."""
    images = [
        (values.ravel(), regions.pixels(), regions.shares())
        for values, regions in ((v, regions_of(0, "", m)) for v, m in zip(maps, masks, strict=True))
    ]
    counts = EMPTY
    for file in range(files):
        counter = BinCounter()
        for values, regions, shares in images[file::files]:
            counter.add(values, regions, shares, good=len(regions) == 0)
        counts += counter.counts()
    totals = totals_of(counts)
    if not (totals.negatives and totals.positives):
        return None
    result, windows = plan_bins(counts, window_bins * PlaceCounter.BYTES_PER_BIN)
    for window in reversed(windows):  # in any order
        counter = PlaceCounter(window.bins, totals.negatives + totals.positives)
        for values, regions, shares in images:
            if counter.may_hold(float(values.min()), float(values.max())):
                counter.add(values, regions, shares)
        result += bins_metrics(window, counter, totals)
    return result


def as_dict(result: PixelMetrics) -> dict[str, float]:
    return {
        "pixel_auroc": result.auroc,
        "pixel_ap": result.ap,
        "pixel_f1_max": result.f1_max,
        "aupro": result.aupro,
    }


def scene(kind: str, seed: int = 0) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Maps and masks of six images, two of them good, in several cruel ways."""
    generator = np.random.default_rng(seed)
    masks = [np.kron(generator.random((8, 9)) > 0.9, np.ones((5, 5))) > 0 for _ in range(6)]
    for mask in masks[:2]:
        mask[:] = False
    maps = [generator.random(mask.shape) + 0.3 * mask for mask in masks]
    change = {
        "smooth": lambda v: v,
        "ties": lambda v: np.round(4 * v) / 4,
        "two values": lambda v: (v > 0.9) * 1.0,
        "constant": lambda v: np.full_like(v, 0.25),
        "signs": lambda v: np.round(8 * v - 6) * 0.0 + np.round(8 * v - 6),
        "all powers": lambda v: (v - 0.6) * 10.0 ** generator.integers(-30, 30, v.shape),
        "neighbouring floats": lambda v: 0.5 + np.round(300 * v) * 2.0**-24,
        "infinite": lambda v: np.where(v > 1.2, np.inf, np.where(v < 0.05, -np.inf, v)),
        "perfect": lambda v: v,
    }[kind]
    maps = [change(values).astype(np.float32) for values in maps]
    if kind == "perfect":
        maps = [mask + values / 10 for values, mask in zip(maps, masks, strict=True)]
        maps = [values.astype(np.float32) for values in maps]
    return maps, masks


@pytest.mark.parametrize(
    "kind",
    [
        "smooth", "ties", "two values", "constant", "signs", "all powers", "neighbouring floats", "infinite", "perfect",
    ],
)  # fmt: skip
def test_streamed_metrics_equal_those_of_all_pixels_at_once(kind):
    maps, masks = scene(kind)
    finite = maps if kind != "infinite" else [np.clip(values, -9, 9) for values in maps]
    result = streamed(maps, masks)
    for name, value in evaluated.pixel_metrics(finite, masks).items():
        assert as_dict(result)[name] == pytest.approx(value, abs=1e-9), name
    if kind == "perfect":
        assert as_dict(result) == pytest.approx(dict.fromkeys(as_dict(result), 1.0))


@settings(max_examples=60)
@given(
    values=npst.arrays(np.float32, (3, 4, 5), elements=st.sampled_from([-1.5, -0.0, 0.0, 1e-40, 0.1, 0.5, 0.75, 3.0])),
    masks=npst.arrays(np.bool_, (3, 4, 5)),
)
def test_any_small_images_with_ties(values, masks):
    result = streamed(list(values), list(masks), window_bins=1, files=3)
    if masks.all() or not masks.any():
        assert result is None
        return
    for name, value in evaluated.pixel_metrics(list(values), list(masks)).items():
        assert as_dict(result)[name] == pytest.approx(value, abs=1e-9), name


def test_the_threshold_is_the_lowest_that_reaches_the_largest_f1():
    maps, masks = scene("ties", seed=3)
    result = streamed(maps, masks)
    labels, scores = np.concatenate([m.ravel() for m in masks]), np.concatenate([v.ravel() for v in maps])
    f1 = {}
    for threshold in np.unique(scores):
        found = scores >= threshold
        f1[float(threshold)] = 2 * (found & labels).sum() / (found.sum() + labels.sum())
    assert result.threshold == min(t for t, value in f1.items() if value == pytest.approx(max(f1.values()), abs=1e-12))


def test_nan_is_refused():
    counter = BinCounter()
    with pytest.raises(ValueError, match="NaN"):
        counter.add(np.array([0.5, np.nan], np.float32), np.empty(0, np.int32), np.zeros(1), good=True)


def test_images_skipped_by_their_range_hold_nothing_of_the_window():
    """Upsampled values may exceed the patches' range by rounding only."""
    counter = PlaceCounter(keys_of(np.array([0.5], np.float32)).astype(np.int64) >> 16, 10)
    assert counter.may_hold(0.5, 0.5)
    assert counter.may_hold(float(np.nextafter(np.float32(0.5), np.float32(0))), 0.4999999)
    assert not counter.may_hold(0.1, 0.49)
    assert not counter.may_hold(0.51, 9.0)
    assert counter.may_hold(-9.0, 9.0)


@given(values=st.lists(st.floats(width=32, allow_nan=False), min_size=2, max_size=40))
def test_keys_order_as_values_do_and_lead_back(values):
    array = np.array(values, np.float32)
    keys = keys_of(array)
    for i, j in itertools.pairwise(range(len(array))):
        assert (array[i] < array[j]) == (keys[i] < keys[j])
        assert (array[i] == array[j]) == (keys[i] == keys[j])
    np.testing.assert_array_equal(values_of(keys), array)


def image_overlaps(maps, masks, good, files=2):
    """AUPIMO of each anomalous image, from tails of files."""
    counter = BinCounter()
    for values, is_good in zip(maps, good, strict=True):
        if is_good:
            counter.add(values.ravel(), np.empty(0, np.int32), np.zeros(1), good=True)
    counts = counter.counts()
    lowest, tail = lowest_tail_bin(counts), NO_TAIL
    for file in range(files):
        for values in [v for v, is_good in zip(maps, good, strict=True) if is_good][file::files]:
            tail += normal_tail(values.ravel(), lowest, values.size)
    credits_ = Credits(tail, counts.good)
    assert tail.weights.sum() < 0.5 * counts.good  # a tail, not all
    return np.array([credits_.of(v[m]) for v, m, g in zip(maps, masks, good, strict=True) if not g and m.any()])


@pytest.mark.parametrize("sizes", ["equal", "different"])
def test_aupimo_equals_its_definition(sizes):
    generator = np.random.default_rng(1)
    shapes = [(300, 400)] * 8 if sizes == "equal" else [(300 + 40 * n, 400 - 10 * n) for n in range(8)]
    good = [True] * 5 + [False] * 3
    masks = [np.zeros(shape, bool) for shape in shapes]
    maps = [generator.normal(size=shape).astype(np.float32) for shape in shapes]
    for n in range(5, 8):
        masks[n][20:60, 30:70] = True
        maps[n][masks[n]] += n - 2.5
    result = image_overlaps(maps, masks, good)
    np.testing.assert_allclose(result, evaluated.aupimo(maps, masks, good), atol=1e-9)
    assert 0.05 < result[0] < result[1] < result[2]


def test_aupimo_needs_two_rates():
    values = np.full(1000, 0.5, np.float32)
    assert not Credits(normal_tail(values, 0, values.size), 1).usable


def test_aupimo_of_masks_above_and_below_all_good_pixels():
    generator = np.random.default_rng(0)
    maps = [generator.random((400, 500)).astype(np.float32) for _ in range(4)]
    mask = np.zeros((400, 500), bool)
    mask[:10, :10] = True
    maps[2][mask], maps[3][mask] = 2.0, -1.0
    result = image_overlaps(maps, [~mask & mask, ~mask & mask, mask, mask], [True, True, False, False])
    np.testing.assert_allclose(result, [1.0, 0.0], atol=1e-12)
