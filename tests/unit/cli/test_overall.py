"""The share of a run that is done, and the time left, over all stages."""

import pytest

from musc_ray.cli.overall import _work, overall
from musc_ray.storage.manifest import StartedManifest
from tests.helpers.manifests import started_record

IMAGES = 300
"""Of one group, all references: mutual scoring is then about 1.5 times the work of extraction."""


def started(**settings: object) -> StartedManifest:
    record = started_record("run-a", {"all": IMAGES})
    return StartedManifest.model_validate({**record, "settings": {**record["settings"], **settings}})


def stage(name: str, done: int, total: int, seconds: float, left: float | None = None, earlier: int = 0) -> dict:
    ended = done == total
    return {
        "name": name, "unit": "items", "done": done, "total": total, "earlier": earlier,
        "seconds": seconds, "seconds_left": left, "ended": ended, "summary": "",
    }  # fmt: skip


def test_before_a_stage_says_how_fast_it_is_there_is_a_share_and_no_time():
    assert overall(started(), []) == (pytest.approx(0.0), None)
    share, left = overall(started(), [stage("catalog", IMAGES, IMAGES, 1.0), stage("extract", 150, IMAGES, 20.0)])
    assert 0.15 < share < 0.25
    assert left is None


def test_stages_to_come_take_as_long_for_their_work():
    share, left = overall(started(), [stage("extract", 150, IMAGES, 30.0, 30.0)])
    assert left == pytest.approx(30 + 60 * (1.5 + 0.03), rel=0.05)
    assert share == pytest.approx(30 / (30 + left), rel=0.05)


def test_a_stage_that_has_begun_and_does_not_say_yet_how_fast_it_is_takes_as_long_for_its_work():
    done = stage("extract", IMAGES, IMAGES, 60.0)
    share, left = overall(started(), [done, stage("mutual", 2, 4, 5.0)])
    assert left == pytest.approx(60 * (0.75 + 0.03), rel=0.05)
    assert share == pytest.approx(105 / (105 + left), rel=0.05)


def test_what_a_stage_at_work_estimates_itself_counts():
    done = stage("extract", IMAGES, IMAGES, 60.0)
    _, left = overall(started(), [done, stage("mutual", 2, 4, 100.0, 100.0)])
    assert left == pytest.approx(100 + 260 / 2.5 * 0.03, rel=0.05)


def test_work_of_an_earlier_attempt_is_done_and_took_no_time_of_this_one():
    share, left = overall(started(), [stage("extract", IMAGES, IMAGES, 2.0, earlier=IMAGES)])
    assert left is None
    assert share == pytest.approx(1 / 2.53, rel=0.05)
    _, left = overall(started(), [stage("extract", 225, IMAGES, 15.0, 15.0, earlier=150)])
    assert left == pytest.approx(15 + 60 * 1.53, rel=0.05)


@pytest.mark.parametrize("outcome", ["failed", "stopped"])
def test_a_stage_that_did_not_get_to_its_end_is_not_done(outcome):
    share, left = overall(started(), [{**stage("extract", 150, IMAGES, 30.0), "ended": True, "outcome": outcome}])
    assert share == pytest.approx(0.5 / 2.53, rel=0.05)
    assert left is None
    share, _ = overall(started(), [{**stage("extract", 0, 0, 30.0), "ended": True, "outcome": outcome}])
    assert share == pytest.approx(0)


def test_it_ends_at_the_end():
    stages = [stage(name, 4, 4, 10.0) for name in ("catalog", "extract", "mutual", "reduce", "rank")]
    share, left = overall(started(), [*stages, stage("report", 3, 4, 3.0, 1.0)])
    assert left == pytest.approx(1.0)
    assert 0.9 < share < 1
    assert overall(started(), [*stages, stage("report", 4, 4, 4.0)]) == (pytest.approx(1.0), pytest.approx(0.0))


@pytest.mark.parametrize(("settings", "factor"), [({"references": 30}, 0.15), ({"repeated_defects": True}, 2.25)])
def test_the_settings_say_how_much_work_a_stage_is(settings, factor):
    _, left = overall(started(**settings), [stage("extract", IMAGES, IMAGES, 60.0)])
    assert left == pytest.approx(60 * (factor + 0.032), rel=0.05)


def test_a_stage_that_is_repeated_counts_as_it_is_now():
    """Features that broke are extracted again, and their group is scored again."""
    stages = [stage("extract", IMAGES, IMAGES, 60.0), stage("mutual", 4, 4, 90.0), stage("repair", 1, 1, 1.0)]
    _, before = overall(started(), stages)
    _, again = overall(started(), [*stages, stage("mutual", 1, 2, 20.0)])
    assert again > before + 30


def test_an_empty_record_of_an_older_version_is_read():
    share, left = overall(started(), [{"name": "extract", "done": 3, "total": None, "seconds": 1.0, "ended": False}])
    assert (0 <= share <= 1, left) == (True, None)


@pytest.mark.parametrize(("settings", "pairs"), [({}, 37), ({"crop_references": "same"}, 7), ({"matching": "near"}, 7)])
def test_crops_are_extracted_and_compared_beside_the_whole_images(settings, pairs):
    record = started_record("run-a", {"all": 100})
    plain = _work(StartedManifest.model_validate(record))
    record["groups"]["all"]["crops"] = 6
    record["settings"] |= {"crops": "2x3", **settings}
    cut = _work(StartedManifest.model_validate(record))
    assert cut["extract"] == 7 * plain["extract"]
    assert cut["mutual"] == pytest.approx(pairs * plain["mutual"])
    assert cut["report"] == plain["report"]
