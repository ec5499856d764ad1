"""Layout of the score histogram: every image in a bar, bars inside the plot, round axis marks, no zero division."""

import itertools
import math

import numpy as np
import pytest

from musc_ray.report.histogram import Histogram, histogram, nice_ticks


def check_inside(plot: Histogram) -> None:
    area = plot.area
    for bar in plot.bars:
        assert area.left - 1e-6 <= bar.x < bar.x + bar.width <= area.right + 1e-6
        assert bar.y >= area.top - 1e-6
        assert bar.y + bar.height == pytest.approx(area.bottom)
    assert all(area.left - 1e-6 <= tick.position <= area.right + 1e-6 for tick in plot.x_ticks)
    assert all(area.top - 1e-6 <= tick.position <= area.bottom + 1e-6 for tick in plot.y_ticks)


def test_bars_count_the_images_and_their_heights_are_in_proportion() -> None:
    scores = np.random.default_rng(1).beta(2, 8, 500).astype(np.float32)
    plot = histogram(scores)
    check_inside(plot)
    assert not plot.log_scale
    assert sum(bar.count for bar in plot.bars) == 500
    for bar in plot.bars:
        in_bin = (scores >= bar.low) & ((scores < bar.high) | (bar is plot.bars[-1]))
        assert in_bin.sum() == bar.count
    tallest = max(plot.bars, key=lambda bar: bar.count)
    assert tallest.y == pytest.approx(plot.area.top)
    for bar in plot.bars:
        if bar.height > 2.0:
            assert bar.height / tallest.height == pytest.approx(bar.count / tallest.count)


@pytest.mark.parametrize("scores", [[0.5], [0.0], [0.25, 0.25, 0.25], [-3.0, -3.0]])
def test_constant_scores_make_one_bar_in_the_middle(scores: list[float]) -> None:
    plot = histogram(np.array(scores, dtype=np.float32), cut=scores[0])
    check_inside(plot)
    (bar,) = plot.bars
    assert bar.count == len(scores)
    assert bar.low <= scores[0] <= bar.high
    assert plot.cut == pytest.approx((plot.area.left + plot.area.right) / 2)


def test_neighbouring_floats_are_still_told_apart() -> None:
    scores = np.array([0.5, np.nextafter(np.float32(0.5), np.float32(1))], dtype=np.float32)
    assert [bar.count for bar in histogram(scores).bars] == [1, 1]


def test_a_single_image_is_still_seen_beside_a_tall_bar() -> None:
    plot = histogram(np.array([0.1] * 900 + [0.9]))
    check_inside(plot)
    assert not plot.log_scale
    assert [(bar.count, bar.height >= 2.0) for bar in plot.bars] == [(900, True), (1, True)]


def test_many_images_go_to_a_log_scale() -> None:
    scores = np.concatenate([np.random.default_rng(2).random(100_000) * 0.3, [1.0]])
    plot = histogram(scores)
    check_inside(plot)
    assert plot.log_scale
    assert [tick.label for tick in plot.y_ticks] == ["0", "10", "100", "1k"]
    tallest, last = max(plot.bars, key=lambda bar: bar.count), plot.bars[-1]
    assert last.count == 1
    assert last.height / tallest.height == pytest.approx(math.log(2) / math.log1p(tallest.count))


def test_cut_stands_at_its_score() -> None:
    plot = histogram(np.array([0.0, 0.2, 1.0]), cut=0.75)
    assert plot.cut == pytest.approx(plot.area.left + 0.75 * (plot.area.right - plot.area.left))
    assert histogram(np.array([0.0, 1.0])).cut is None


@pytest.mark.parametrize("low", [0.0, 0.013, -4.2, 97.0])
@pytest.mark.parametrize("extent", [1.0, 0.97, 3e-5, 12.3, 8400.0])
def test_ticks_are_round_inside_the_range_and_distinct(low: float, extent: float) -> None:
    ticks = nice_ticks(low, low + extent)
    assert 2 <= len(ticks) <= 7
    assert all(low - 1e-9 <= value <= low + extent + 1e-9 for value, _ in ticks)
    assert len({label for _, label in ticks}) == len(ticks)
    assert all(float(label) == pytest.approx(value, abs=extent * 1e-6) for value, label in ticks)
    step = ticks[1][0] - ticks[0][0]
    assert step / 10 ** math.floor(math.log10(step) + 1e-9) == pytest.approx(
        next(f for f in (1, 2, 5) if math.isclose(step / 10 ** math.floor(math.log10(step) + 1e-9), f, rel_tol=1e-6))
    )
    assert all(b[0] - a[0] == pytest.approx(step) for a, b in itertools.pairwise(ticks))
