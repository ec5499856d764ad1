"""The mergeable summary: its interval average is within the bound that it states, however it was put together."""

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from musc_ray.core.distance_summary import BIN_WIDTH, DistanceSummary
from musc_ray.core.interval_average import interval_average

INTERVALS = [(0.0, 0.3), (0.0, 1.0), (0.2, 0.5), (0.0, 0.001)]


def distances(kind: str, seed: int, references: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(5, references, generator=generator)
    return {
        "uniform": 2 * uniform,
        "narrow": 0.8 + 0.05 * uniform,
        "equal": torch.full_like(uniform, 0.7),
        "few values": (uniform * 4).floor() / 2,
        "ends": uniform.round() * 2,
    }[kind]


@given(
    kind=st.sampled_from(["uniform", "narrow", "equal", "few values", "ends"]),
    seed=st.integers(0, 1000),
    references=st.integers(1, 400),
    interval=st.sampled_from(INTERVALS),
)
@hypothesis_settings(max_examples=200)
def test_the_error_is_within_the_stated_bound(kind, seed, references, interval):
    values = distances(kind, seed, references)
    mean, bound = DistanceSummary.of(values).interval_average(references, interval)
    exact = interval_average(values, references, interval)
    assert ((mean - exact).abs() <= bound + 5e-7).all()
    assert (bound <= BIN_WIDTH).all()


@pytest.mark.parametrize("interval", INTERVALS)
def test_merged_parts_give_the_same_as_the_whole(interval):
    values = distances("narrow", 0, 300)
    merged = DistanceSummary.of(values[:, :7]).merge(DistanceSummary.of(values[:, 7:])).interval_average(300, interval)
    whole = DistanceSummary.of(values).interval_average(300, interval)
    torch.testing.assert_close(merged, whole, atol=1e-6, rtol=0)


def test_what_does_not_count_is_left_out(monkeypatch):
    monkeypatch.setattr("musc_ray.core.distance_summary.VALUES_CHUNK", 600)  # a row at a time
    values = distances("uniform", 1, 50)
    padded = torch.full((5, 80), torch.inf)
    padded[:, 10:60] = values
    assert torch.equal(DistanceSummary.of(padded).counts, DistanceSummary.of(values).counts)
    torch.testing.assert_close(DistanceSummary.of(padded).excesses, DistanceSummary.of(values).excesses)


def test_the_usual_error_is_far_below_the_largest():
    """Distances as archives have them: 5000 references, spread around 0.8."""
    values = 0.8 + 0.1 * torch.randn(50, 5000, generator=torch.Generator().manual_seed(0)).clamp(-5, 5)
    mean, bound = DistanceSummary.of(values.half()).interval_average(5000, (0.0, 0.3))
    exact = interval_average(values, 5000, (0.0, 0.3))
    assert (mean - exact).abs().max() < 1e-4
    assert bound.max() < 2e-4
