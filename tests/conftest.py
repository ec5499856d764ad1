"""Settings that every test shares."""

import pytest
from hypothesis import settings

# Timings are benchmarks: a slow example on a busy machine is no failure.
settings.register_profile("musc_ray", deadline=None)
settings.load_profile("musc_ray")


def pytest_addoption(parser: pytest.Parser) -> None:
    """How long the campaign of faults is (make chaos)."""
    parser.addoption("--chaos-rounds", type=int, default=20, help="jobs that are disturbed, by three faults each")
    parser.addoption("--chaos-seed", type=int, default=0, help="which faults strike, and when")
