"""The time left: nothing before it means something, then close to the truth, however units arrive."""

import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from musc_ray.runtime.time_left import MIN_EVENTS, TimeLeft

TOTAL = 20
"""Lumps of a stage."""


def lumps(warm_up: float, seconds: float, workers: int, jitter: random.Random | None = None) -> list[float]:
    """The times at which the lumps of a stage end; workers begin one after the other within a tenth of a lump."""
    free = [warm_up + seconds * worker / (10 * workers) for worker in range(workers)]
    ends = []
    for _ in range(TOTAL * workers):
        worker = free.index(min(free))
        free[worker] += seconds * (jitter.uniform(0.9, 1.1) if jitter else 1.0)
        ends.append(free[worker])
    return sorted(ends)


@given(
    warm_up=st.floats(0, 600),
    seconds=st.floats(0.01, 600),
    lump=st.integers(1, 1000),
    wait=st.floats(0, 0.99),
)
@example(warm_up=26.0, seconds=0.5, lump=4, wait=0.0)  # 3:27 was announced, 0:28 taken
def test_after_the_warm_up_a_constant_rate_gives_a_close_estimate(warm_up, seconds, lump, wait):
    left = TimeLeft(0.0)
    ends = lumps(warm_up, seconds, 1)
    estimates = []
    for number, end in enumerate(ends, start=1):
        left.add(lump, end)
        now = end + wait * seconds
        found = left.seconds_left(lump * (TOTAL - number), now)
        if number < TOTAL:
            estimates.append(None if found is None else (found, ends[-1] - now))
    known = [estimate for estimate in estimates if estimate is not None]
    assert estimates[: MIN_EVENTS - 1] == [None] * (MIN_EVENTS - 1)
    assert known or ends[-1] < 2 * ends[0] + 2 * seconds  # silent only where the warm-up took about half of the time
    for found, true in known:
        assert found == pytest.approx(true, rel=0.25)


@pytest.mark.parametrize("warm_up", [0.0, 30.0])
@pytest.mark.parametrize("workers", [2, 8, 64])
def test_the_first_lumps_of_many_workers_are_not_taken_for_a_rate(workers, warm_up):
    left, seconds = TimeLeft(0.0), 60.0
    ends = lumps(warm_up, seconds, workers, random.Random(workers))
    for number, end in enumerate(ends, start=1):
        left.add(4, end)
        if end < ends[0] + ends[0] or left.rate is None:
            assert left.rate is None
        elif number % workers == 0:  # all workers have ended as many lumps
            found = left.seconds_left(4 * (len(ends) - number), end)
            assert found == pytest.approx(ends[-1] - end, rel=0.25, abs=seconds)
    assert left.rate is not None


def test_units_that_are_counted_one_by_one_at_the_end_of_a_lump_are_one_lump():
    left = TimeLeft(0.0)
    for end in (15.0, 20.0):
        for _ in range(64):
            left.add(1, end)
        assert left.rate is None
    for end in (25.0, 30.0):
        for _ in range(64):
            left.add(1, end)
    assert left.rate == pytest.approx(64 / 5)


def test_it_counts_down_between_lumps_and_up_when_one_is_late():
    left = TimeLeft(0.0)
    for end in (10.0, 20.0, 30.0, 40.0):
        left.add(8, end)
    assert left.seconds_left(16, 40.0) == pytest.approx(20.0)
    assert left.seconds_left(16, 45.0) == pytest.approx(15.0)
    assert left.seconds_left(16, 50.0) == pytest.approx(10.0)
    stalled = [left.seconds_left(16, now) for now in (50.0, 60.0, 100.0, 1000.0)]
    assert stalled == sorted(stalled)
    assert stalled[-1] > 600
    assert left.seconds_left(0, 1000.0) == 0.0


def test_a_start_of_workers_that_is_known_shortens_the_silence():
    left = TimeLeft(0.0)
    left.ready(60.0)
    for end in (62.0, 64.0, 66.0):
        left.add(1, end)
    assert left.seconds_left(10, 66.0) == pytest.approx(20.0)
    left.ready(100.0)
    assert left.rate is not None


@pytest.mark.parametrize("ends", [[], [5.0], [5.0, 6.0], [5.0, 5.0, 5.0]])
def test_nothing_is_said_of_too_little(ends):
    left = TimeLeft(0.0)
    for end in ends:
        left.add(1, end)
    assert left.rate is None
    assert left.seconds_left(10, 100.0) is None
