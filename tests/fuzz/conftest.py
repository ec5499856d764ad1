"""How much is fuzzed, and what came of it: inputs tried, images lost, scores that differ.

MUSC_RAY_FUZZ=long tries 20 times as many inputs; MUSC_RAY_FUZZ_REPORT=FILE writes the figures there as JSON.
"""

import json
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

LONG = os.environ.get("MUSC_RAY_FUZZ") == "long"
TIMES = 20 if LONG else 1
LONGEST_SECONDS = 60
"""What takes longer than this hangs; no more is asked of a busy machine."""

FIGURES: Counter[str] = Counter({"inputs fuzzed": 0, "images lost": 0, "differing scores": 0})


def examples(count: int) -> settings:
    """Hypothesis's settings for a test that tries so many inputs in the short form."""
    return settings(
        max_examples=count * TIMES,
        deadline=None,
        derandomize=not LONG,  # the short form is the same every time
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


@pytest.fixture(scope="session")
def figures() -> Counter[str]:
    """Counted over all fuzz tests."""
    return FIGURES


@contextmanager
def _no_hang() -> Iterator[None]:
    def hangs(number: int, frame: Any) -> None:
        raise AssertionError(f"It hangs: more than {LONGEST_SECONDS} s.")

    before = signal.signal(signal.SIGALRM, hangs)
    left, _ = signal.setitimer(signal.ITIMER_REAL, LONGEST_SECONDS)  # pytest-timeout's, which continues afterwards
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, left)


@pytest.fixture(scope="session")
def no_hang() -> Callable[[], AbstractContextManager[None]]:
    """Fail a block that goes on for a minute."""
    return _no_hang


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the figures, and write them where they are asked for."""
    line = ", ".join(f"{name} {count:,}" for name, count in FIGURES.items())
    terminalreporter.write_line(f"fuzz ({'long' if LONG else 'short'} form): {line}")
    if report := os.environ.get("MUSC_RAY_FUZZ_REPORT"):
        Path(report).write_text(json.dumps(FIGURES, indent=2) + "\n")
