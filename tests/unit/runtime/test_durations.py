import pytest

from musc_ray.runtime.durations import format_duration


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "0.00 s"),
        (0.416, "0.42 s"),
        (8.06, "8.1 s"),
        (59.97, "1 min 0 s"),
        (200, "3 min 20 s"),
        (7499, "2 h 5 min"),
        (47 * 3600, "47 h 0 min"),
        (50 * 3600, "2 d 2 h"),
        (1e8, "1,157 d 10 h"),
    ],
)
def test_duration(seconds: float, expected: str) -> None:
    assert format_duration(seconds) == expected
