"""What a filesystem says of a file."""

from datetime import UTC, datetime

import pytest

from musc_ray.storage.file_info import file_time


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ({"mtime": 0.0, "created": 1e9}, datetime(1970, 1, 1, tzinfo=UTC)),  # not the time of creation
        ({"LastModified": datetime(2026, 1, 2, tzinfo=UTC)}, datetime(2026, 1, 2, tzinfo=UTC)),
        ({"mtime": None, "created": 0}, datetime(1970, 1, 1, tzinfo=UTC)),
        ({}, None),
    ],
)
def test_the_time_of_a_file(info, expected):
    assert file_time(info) == expected
