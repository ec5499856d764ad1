"""Passing faults are waited out, permanent ones are not, and patience ends."""

import random

import pytest

from musc_ray.storage.retry import FIRST_PAUSE_SECONDS, MAX_ATTEMPTS, StorageError, with_retries


class Flaky:
    """Fails N times, then answers."""

    def __init__(self, failures: int, error: Exception) -> None:
        self.failures, self.error, self.calls = failures, error, 0

    def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self.failures:
            raise self.error
        return "answer"


@pytest.mark.parametrize("failures", range(MAX_ATTEMPTS))
def test_passing_faults_are_waited_out_with_growing_pauses(failures):
    pauses: list[float] = []
    work = Flaky(failures, OSError(5, "Please reduce your request rate"))
    assert with_retries(work, "read x", pauses.append, random.Random(0)) == "answer"
    assert work.calls == failures + 1
    for number, pause in enumerate(pauses):
        assert FIRST_PAUSE_SECONDS * 2**number / 2 <= pause <= FIRST_PAUSE_SECONDS * 2**number
    assert sum(pauses) < 16


def test_patience_ends_with_one_sentence():
    work = Flaky(99, ConnectionResetError("reset by peer"))
    with pytest.raises(StorageError, match=r"Cannot read s3://b/x after 6 attempts .*reset by peer"):
        with_retries(work, "read s3://b/x", lambda _: None)
    assert work.calls == MAX_ATTEMPTS


@pytest.mark.parametrize("error", [FileNotFoundError("x"), PermissionError("x"), IsADirectoryError("x")])
def test_permanent_faults_are_raised_at_once(error):
    work = Flaky(99, error)
    with pytest.raises(type(error)):
        with_retries(work, "read x", lambda _: None)
    assert work.calls == 1


def test_other_errors_are_not_touched():
    work = Flaky(99, ValueError("a bug"))
    with pytest.raises(ValueError, match="a bug"):
        with_retries(work, "read x", lambda _: None)
    assert work.calls == 1
