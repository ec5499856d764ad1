"""Thresholds by verdicts: from the scores of judged images, wherever they have some that mean the same."""

import json
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pytest

from musc_ray.scoring.labelled import labelled_scores, labels_of, thresholds_by_labels
from musc_ray.scoring.thresholds import ThresholdRule, apply_rule, apply_verdicts
from musc_ray.storage.manifest import RunManifest
from musc_ray.storage.manifest_records import GroupLabels
from musc_ray.storage.paths import OutPaths
from musc_ray.storage.verdicts import latest_verdicts
from tests.helpers.judged_runs import id_of, say, write_scored

NO_RULE = ThresholdRule(None, None)
RAW = {"w": 1.0, "x": 1.5, "y": 2.0, "z": 3.0}  # scores 0, 0.25, 0.5, 1


@pytest.fixture
def out_paths(tmp_path: Path) -> OutPaths:
    return OutPaths.at(str(tmp_path))


def scores_of(out_paths, run, group="a"):
    """Scores by name, of what was said so far."""
    labels = {name: of for name, of in labels_of(latest_verdicts(out_paths)).items() if name == group}
    found = labelled_scores(out_paths, run, labels).get(group)
    return [] if found is None else sorted(zip(found.scores.tolist(), found.defective.tolist(), strict=True))


def anomalous(out_paths, run_id, group="a"):
    table = ds.dataset(out_paths.run(run_id).scores, format="parquet").to_table()
    rows = table.filter(ds.field("group") == group).to_pylist() if "is_anomalous" in table.column_names else []
    return {row["image_id"]: row["is_anomalous"] for row in rows}


def test_a_threshold_lies_between_the_good_and_the_defective(out_paths):
    run = write_scored(out_paths, "run-1", {"a": RAW})
    say(out_paths, "good", ["w", "x"])
    say(out_paths, "defective", ["z"])
    assert thresholds_by_labels(out_paths, run, ["a"]) == {"a": GroupLabels(threshold=0.625, good=2, defective=1)}


@pytest.mark.parametrize("word", ["good", "defective"])
def test_one_kind_gives_no_threshold(out_paths, word):
    run = write_scored(out_paths, "run-1", {"a": RAW})
    say(out_paths, word, ["w", "z"])
    say(out_paths, "unsure", ["x"])
    assert thresholds_by_labels(out_paths, run, ["a"]) == {}
    assert scores_of(out_paths, run) == [(0.0, word == "defective"), (1.0, word == "defective")]


def test_what_was_taken_back_does_not_count(out_paths):
    run = write_scored(out_paths, "run-1", {"a": RAW})
    say(out_paths, "good", ["w"])
    say(out_paths, "defective", ["z"])
    say(out_paths, "unsure", ["z"], minute=1)
    assert thresholds_by_labels(out_paths, run, ["a"]) == {}


def test_verdicts_of_another_group_do_not_count(out_paths):
    run = write_scored(out_paths, "run-1", {"a": RAW, "b": RAW})
    say(out_paths, "good", ["w"], group="b")
    say(out_paths, "defective", ["z"], group="b")
    assert set(thresholds_by_labels(out_paths, run, ["a", "b"])) == {"b"}
    assert thresholds_by_labels(out_paths, run, ["a"]) == {}


def test_an_image_that_is_no_longer_scored_keeps_its_score_in_the_new_runs_terms(out_paths):
    write_scored(out_paths, "run-1", {"a": RAW})
    say(out_paths, "good", ["x"])
    say(out_paths, "defective", ["z"])
    # without x, and another image sets the scale: raw 1 is 0, raw 5 is 1
    run = write_scored(out_paths, "run-2", {"a": {"w": 1.0, "z": 3.5, "new": 5.0}}, hour=1)
    assert scores_of(out_paths, run) == [((1.5 - 1) / 4, False), ((3.5 - 1) / 4, True)]


def test_the_latest_of_several_earlier_runs_counts(out_paths):
    write_scored(out_paths, "run-z", {"a": RAW})
    write_scored(out_paths, "run-a", {"a": {**RAW, "x": 2.5}}, hour=1)
    say(out_paths, "good", ["x"])
    run = write_scored(out_paths, "run-m", {"a": {"w": 1.0, "z": 3.0}}, hour=2)
    assert scores_of(out_paths, run) == [(0.75, False)]


@pytest.mark.parametrize(
    "changed",
    [
        {"features_id": "others"},
        {"settings": {"interval": [0.0, 0.5]}},
        {"failed_groups": {"a": "broken"}},
        {"matching": {"a": {"radius": 2, "reason": "so", "images": 9}}},
    ],
)
def test_scores_that_mean_something_else_do_not_count(out_paths, changed):
    write_scored(out_paths, "run-1", {"a": RAW}, **changed)
    say(out_paths, "good", ["x"])
    run = write_scored(out_paths, "run-2", {"a": {"w": 1.0, "z": 3.0}}, hour=1)
    assert scores_of(out_paths, run) == []


def test_settings_that_change_no_score_do_not_matter(out_paths):
    write_scored(out_paths, "run-1", {"a": RAW}, settings={"report_images": 3, "threshold": 0.5})
    say(out_paths, "good", ["x"])
    run = write_scored(out_paths, "run-2", {"a": {"w": 1.0, "z": 3.0}}, hour=1)
    assert scores_of(out_paths, run) == [(0.25, False)]


def test_without_rescoring_scores_are_raw_ones(out_paths):
    write_scored(out_paths, "run-1", {"a": RAW}, settings={"rescoring": "none"})
    say(out_paths, "good", ["x"])
    run = write_scored(out_paths, "run-2", {"a": {"z": 3.0}}, hour=1, settings={"rescoring": "none"})
    assert scores_of(out_paths, run) == [(1.5, False)]


def test_a_nights_range_is_that_of_its_window(out_paths):
    night = {"night": {"a": {"new": 2, "window": 8}}}
    write_scored(out_paths, "run-1", {"a": {"x": 1.5, "z": 3.0}}, raw_ranges={"a": [0.0, 3.0]}, **night)
    say(out_paths, "good", ["x"])
    say(out_paths, "defective", ["z"])
    run = write_scored(out_paths, "run-2", {"a": {"w": 1.0, "new": 5.0}}, hour=1)
    # scores 0 and 1 in its own terms are raw 0 and 3 by the range that it states
    assert scores_of(out_paths, run) == [(-0.25, False), (0.5, True)]


def test_an_old_night_that_does_not_state_its_range_is_left_out(out_paths):
    night = {"night": {"a": {"new": 2, "window": 8}}}
    write_scored(out_paths, "run-1", {"a": {"x": 1.5, "z": 3.0}}, **night)
    say(out_paths, "good", ["x"])
    say(out_paths, "defective", ["z"])
    run = write_scored(out_paths, "run-2", {"a": {"w": 1.0, "new": 5.0}}, hour=1)
    assert scores_of(out_paths, run) == []
    # but its own report has its own scores
    assert len(scores_of(out_paths, RunManifest.read(out_paths.run("run-1")))) == 2


def test_equal_scores_have_no_scale(out_paths):
    write_scored(out_paths, "run-1", {"a": RAW})
    say(out_paths, "good", ["x"])
    run = write_scored(out_paths, "run-2", {"a": {"w": 1.0, "new": 1.0}}, hour=1)
    assert scores_of(out_paths, run) == []


def test_a_complete_run_is_marked_by_verdicts_and_again_by_none(out_paths):
    run = write_scored(out_paths, "run-1", {"a": RAW, "b": RAW}, notes=["other"])
    paths = out_paths.run("run-1")
    files = lambda: {path: path.stat().st_mtime_ns for path in Path(paths.folder).rglob("*.*")}  # noqa: E731
    before = files()
    assert apply_rule(paths, run, ["a", "b"], NO_RULE) == run
    assert files() == before

    say(out_paths, "good", ["w", "x"])
    say(out_paths, "defective", ["y"])
    marked = apply_rule(paths, run, ["a", "b"], NO_RULE)
    assert marked == RunManifest.read(paths)
    assert marked.thresholds == {"a": 0.375}
    assert marked.labelled_thresholds == {"a": GroupLabels(threshold=0.375, good=2, defective=1)}
    assert marked.notes[0] == "other"
    assert "group 'a' 0.3750 (2 good, 1 defective)" in marked.notes[1]
    assert anomalous(out_paths, "run-1") == {id_of(name): name in "yz" for name in RAW}
    assert set(anomalous(out_paths, "run-1", "b").values()) == {None}
    schemas = {str(ds.dataset(path, format="parquet").schema) for path in Path(paths.scores).iterdir()}
    assert len(schemas) == 1

    before = files()
    assert apply_rule(paths, marked, ["a", "b"], NO_RULE) == marked
    assert files() == before

    say(out_paths, "good", ["y"], minute=1)
    say(out_paths, "defective", ["z"], minute=1)
    again = apply_rule(paths, marked, ["a", "b"], NO_RULE)
    assert again.thresholds == {"a": 0.75}
    assert len(again.notes) == 2

    # a rule goes before verdicts
    ruled = apply_rule(paths, again, ["a", "b"], ThresholdRule(0.1, None))
    assert ruled.thresholds == {"a": 0.1, "b": 0.1}
    assert ruled.labelled_thresholds == {}
    assert ruled.notes == ("other",)
    assert "labelled_thresholds" not in json.loads(Path(paths.run_json).read_text())

    say(out_paths, "unsure", ["z"], minute=2)
    plain = apply_rule(paths, ruled, ["a", "b"], NO_RULE)
    assert plain.thresholds == {}
    assert anomalous(out_paths, "run-1") == {}


def test_a_run_that_is_being_scored_is_marked_before_it_is_complete(out_paths):
    run = write_scored(out_paths, "run-1", {"a": RAW})
    paths = out_paths.run("run-1")
    assert apply_verdicts(paths, run, ["a"]) is run
    say(out_paths, "good", ["w", "x"])
    say(out_paths, "defective", ["z"])
    Path(paths.run_json).unlink()
    marked = apply_verdicts(paths, run, ["a"])
    assert marked.thresholds == {"a": 0.625}
    assert sum(anomalous(out_paths, "run-1").values()) == 1
    assert not Path(paths.run_json).exists()
    ruled = run.model_copy(update={"settings": run.settings.model_copy(update={"contamination": 0.2})})
    assert apply_verdicts(paths, ruled, ["a"]) is ruled


def test_labels_are_those_that_are_good_or_defective(out_paths):
    say(out_paths, "good", ["w"], group="a")
    say(out_paths, "defective", ["x"], group="b")
    say(out_paths, "unsure", ["y"], group="c")
    assert labels_of(latest_verdicts(out_paths)) == {"a": {id_of("w"): False}, "b": {id_of("x"): True}}


def test_many_images_in_many_files(out_paths):
    chance = np.random.default_rng(0)
    names = [f"{number}" for number in range(40)]
    raw = dict(zip(names, chance.random(40).astype(np.float32).tolist(), strict=True))
    run = write_scored(out_paths, "run-1", {"a": raw})
    say(out_paths, "good", names[:20])
    say(out_paths, "defective", names[20:])
    assert len(scores_of(out_paths, run)) == 40
