"""Score histogram of a group, laid out for an inline SVG: numbers only, the template draws them."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

MIN_BAR = 2.0  # SVG units: a bin with one image among a million must still be seen
LOG_FROM = 1000  # images in the tallest bin from which the counts are drawn on a log scale


@dataclass(frozen=True)
class Area:
    """Size of the drawing and edges of the plot inside it, in SVG units; the margins hold the axis labels."""

    width: float = 640.0
    height: float = 240.0
    left: float = 62.0
    right: float = 628.0
    top: float = 26.0
    bottom: float = 192.0


@dataclass(frozen=True)
class Bar:
    """A bin with at least one image: a rectangle in SVG units, and its scores [low, high] and count."""

    x: float
    y: float
    width: float
    height: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Tick:
    """An axis mark: its place in SVG units and its label."""

    position: float
    label: str


@dataclass(frozen=True)
class Histogram:
    """Bars and axis marks of one histogram. `cut` is the x of the score given to `histogram`, None without one."""

    area: Area
    bars: list[Bar]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    log_scale: bool
    cut: float | None


def histogram(scores: np.ndarray, cut: float | None = None) -> Histogram:
    """Lay out the histogram of `scores` (N,), N >= 1, all finite; `cut` is a score to mark on the x axis.

    About sqrt(N) bins (the square-root rule) within 20 to 60. Scores that are all the same fall into one bin of a
    range of width 1 around them.
    """
    area = Area()
    values = np.asarray(scores, dtype=np.float64)
    low, high = float(values.min()), float(values.max())
    if low == high:
        low, high = low - 0.5, high + 0.5
    counts, edges = np.histogram(values, bins=min(60, max(20, math.isqrt(len(values)))), range=(low, high))
    log_scale = bool(counts.max() >= LOG_FROM)
    level: Callable[[float], float] = math.log1p if log_scale else float

    def x_of(score: float) -> float:
        return area.left + (score - low) / (high - low) * (area.right - area.left)

    def y_of(count: float) -> float:
        return area.bottom - level(count) / level(float(counts.max())) * (area.bottom - area.top)

    bars = []
    for count, left, right in zip(counts.tolist(), edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        if count:
            y = min(y_of(count), area.bottom - MIN_BAR)
            bars.append(Bar(x_of(left), y, x_of(right) - x_of(left), area.bottom - y, left, right, count))
    return Histogram(
        area=area,
        bars=bars,
        x_ticks=[Tick(x_of(value), label) for value, label in nice_ticks(low, high)],
        y_ticks=[Tick(y_of(count), label) for count, label in _count_ticks(int(counts.max()), log_scale)],
        log_scale=log_scale,
        cut=None if cut is None else x_of(min(max(cut, low), high)),
    )


def nice_ticks(low: float, high: float, at_most: int = 7) -> list[tuple[float, str]]:
    """At most `at_most` round values (1, 2 or 5 times a power of ten apart) within [low, high], with their labels."""
    rough = (high - low) / (at_most - 1)
    power = math.floor(math.log10(rough))
    factor = next(f for f in (1, 2, 5, 10) if f * 10.0**power >= rough * (1 - 1e-9))
    step = factor * 10.0**power
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [(i * step, f"{i * step:.{decimals}f}") for i in range(first, last + 1)]


def _count_ticks(largest: int, log_scale: bool) -> list[tuple[int, str]]:
    """Marks of the count axis from 0 to at most `largest`; powers of ten on a log scale, written 10, 1k, 1M."""
    if log_scale:
        powers = [10**power for power in range(1, len(str(largest)))]
        return [(0, "0")] + [
            (n, f"{n // 10**6}M" if n >= 10**6 else f"{n // 1000}k" if n >= 1000 else f"{n}") for n in powers
        ]
    step = next(f * 10**power for power in range(4) for f in (1, 2, 5) if f * 10**power * 5 >= largest)
    return [(n, f"{n}") for n in range(0, largest + 1, step)]
