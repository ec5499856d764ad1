"""Which images a night scores, and what is said of a window that leaves none of the earlier ones."""

from datetime import UTC, date, datetime, timedelta

import pytest

from musc_ray.nightly.history import Known
from musc_ray.nightly.selection import select_night
from musc_ray.sources.images import CatalogImage, image_id
from tests.unit.features.test_ids import opened

TODAY = date(2026, 11, 25)
MIDNIGHT = datetime(2026, 11, 25, tzinfo=UTC)


def known(*ages: timedelta) -> dict[str, Known]:
    return {image_id(f"s3://b/{n}.png"): Known("1", MIDNIGHT - age) for n, age in enumerate(ages)}


def new(*names: str) -> list[CatalogImage]:
    return [CatalogImage(image_id(f"s3://b/{name}.png"), f"s3://b/{name}.png", "001", "2") for name in names]


@pytest.mark.parametrize(
    ("window", "ages", "note"),
    [
        ("7d", (timedelta(days=9), timedelta(days=30)), "set window to 9d or more"),
        ("7d", (timedelta(days=8, hours=1),), "all 1 earlier images are older than the window 7d"),
        ("7d", (timedelta(days=9), timedelta(days=6)), None),
        ("7d", (timedelta(days=7),), None),
        ("7d", (), None),
        (None, (timedelta(days=900),), None),
    ],
)
def test_a_window_that_leaves_no_earlier_images_is_said(tmp_path, window, ages, note):
    given = {} if window is None else {"window": window}
    night = select_night(opened(tmp_path, **given), {"001": new("a", "b")}, {"001": known(*ages)}, TODAY)
    assert len(night.images["001"]) == 2
    assert len(night.notes) == (note is not None)
    if note is not None:
        assert note in night.notes[0]
        assert "Group '001'" in night.notes[0]


def test_the_newest_time_is_named_and_the_window_that_would_do_leaves_it_in(tmp_path):
    ages = (timedelta(days=9, hours=1), timedelta(days=30))
    listed = {"001": new("a")}
    night = select_night(opened(tmp_path, window="1d"), listed, {"001": known(*ages)}, TODAY)
    assert "at 2026-11-15 23:00 UTC: set window to 10d or more, or leave it out" in night.notes[0]
    assert night.waiting == {"001": 1}
    again = select_night(opened(tmp_path, window="10d"), listed, {"001": known(*ages)}, TODAY)
    assert again.notes == []


def test_an_earlier_version_of_a_new_image_is_not_an_earlier_image(tmp_path):
    night = select_night(
        opened(tmp_path, window="7d"), {"001": new("0", "b")}, {"001": known(timedelta(days=9))}, TODAY
    )
    assert night.notes == []
