"""Filters on times: values on both sides of the boundary, in columns of every zone and unit."""

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from musc_ray.errors import SettingsError
from musc_ray.sources.catalog import catalog_images

BERLIN_DAY = datetime(2026, 11, 23, 23, tzinfo=UTC)  # 2026-11-24T00:00:00+01:00
TIMES = (
    BERLIN_DAY - timedelta(seconds=1),
    BERLIN_DAY,
    BERLIN_DAY + timedelta(minutes=59, seconds=59),
    BERLIN_DAY + timedelta(hours=1),
)


def kept(folder, times: pa.Array, condition: str) -> list[int]:
    uris = [f"s3://plant/{number}.png" for number in range(len(times))]
    pq.write_table(pa.table({"uri": uris, "ts": times}), folder / "t.parquet", row_group_size=1)
    groups = catalog_images(f"{folder}?filter={condition}")
    return sorted(int(image.uri[len("s3://plant/") : -len(".png")]) for images in groups.values() for image in images)


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "-05:00"])
@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("ts >= '2026-11-24T00:00:00+01:00'", [1, 2, 3]),
        ("ts < '2026-11-24T00:00:00+01:00'", [0]),
        ("ts >= '2026-11-24T00:00:00'", [3]),
        ("ts >= '2026-11-24'", [3]),
        ("ts >= '2026-11-23 23:00:00Z' and not ts > '2026-11-24T00:59:59+01:00'", [1, 2]),
        ("ts in ('2026-11-24T00:00:00+01:00', '2026-11-23T22:59:59Z')", [0, 1]),
        ("ts = '2026-11-24T00:00:00+01:00' or ts is null", [1]),
    ],
)
def test_times_with_zones(tmp_path, unit, zone, condition, expected):
    times = pa.array(TIMES, pa.timestamp("us", "UTC")).cast(pa.timestamp(unit, zone))
    assert kept(tmp_path, times, condition) == expected


def test_times_without_zones_are_compared_as_they_are(tmp_path):
    times = pa.array([time.replace(tzinfo=None) for time in TIMES], pa.timestamp("us"))
    assert kept(tmp_path, times, "ts >= '2026-11-23T23:00:00'") == [1, 2, 3]
    assert kept(tmp_path, times, "ts >= '2026-11-24'") == [3]
    with pytest.raises(SettingsError, match="Zone offset provided, but not expected"):
        kept(tmp_path, times, "ts >= '2026-11-24T00:00:00+01:00'")


def test_what_is_no_time_is_one_sentence(tmp_path):
    times = pa.array(TIMES, pa.timestamp("us", "UTC"))
    with pytest.raises(SettingsError, match="does not fit"):
        kept(tmp_path, times, "ts >= 'yesterday'")
