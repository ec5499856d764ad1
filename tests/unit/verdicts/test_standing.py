"""Where verdicts stand: counts, the threshold in force with precision and recall, and the one by verdicts."""

import json
from pathlib import Path

import pytest

from musc_ray.core.labelled_threshold import Found
from musc_ray.scoring.thresholds import ThresholdRule, apply_rule
from musc_ray.storage.manifest_records import GroupLabels
from musc_ray.storage.paths import OutPaths
from musc_ray.verdicts.standing import GroupStanding, InForce, standing
from tests.helpers.judged_runs import id_of, say, uri_of, write_scored

RAW = {"w": 1.0, "x": 1.5, "y": 2.0, "z": 3.0}  # scores 0, 0.25, 0.5, 1


@pytest.fixture
def out_paths(tmp_path: Path) -> OutPaths:
    return OutPaths.at(str(tmp_path / "out"))


def test_counts_and_thresholds_by_group(out_paths):
    run = write_scored(out_paths, "run-1", {"a": RAW, "b": {"b1": 1.0, "b2": 2.0}})
    say(out_paths, "good", ["w", "y"])
    say(out_paths, "defective", ["x", "z"])
    say(out_paths, "unsure", ["u"])
    say(out_paths, "unsure", ["b1"], group="b")
    apply_rule(out_paths.run("run-1"), run, ["a", "b"], ThresholdRule(0.4, None))
    first, second = standing(out_paths)
    assert first.counts == {"good": 2, "defective": 2, "unsure": 1}
    assert (first.run_id, first.scored) == ("run-1", 4)
    assert first.in_force == InForce(0.4, "given", Found(good=2, defective=2, good_held=1, defective_held=1))
    # x, y and z held (F1 0.8) beats z alone (2/3)
    assert first.by_verdicts == GroupLabels(threshold=0.125, good=2, defective=2)
    assert second == GroupStanding("b", {"unsure": 1})


def test_without_a_threshold_the_suggested_one_is_in_force_and_by_verdicts_once_applied(out_paths):
    run = write_scored(out_paths, "run-1", {"a": RAW})
    say(out_paths, "good", ["w"])
    say(out_paths, "defective", ["z"])
    (found,) = standing(out_paths)
    assert found.in_force is not None
    assert found.in_force.source == "suggested"
    apply_rule(out_paths.run("run-1"), run, ["a"], ThresholdRule(None, None))
    (found,) = standing(out_paths)
    assert found.in_force == InForce(0.5, "verdicts", Found(1, 1, 0, 1))


def test_the_latest_run_with_scores_of_the_group_counts(out_paths):
    write_scored(out_paths, "run-1", {"a": RAW})
    write_scored(out_paths, "run-2", {"a": {"w": 1.0, "z": 5.0}}, hour=1)
    write_scored(out_paths, "run-3", {"b": {"b1": 1.0, "b2": 5.0}}, hour=2)
    say(out_paths, "good", ["x"])
    (found,) = standing(out_paths)
    assert (found.run_id, found.scored, found.by_verdicts) == ("run-2", 1, None)


def test_a_night_suggests_no_threshold(out_paths):
    write_scored(out_paths, "run-1", {"a": RAW}, night={"a": {"new": 4, "window": 9}})
    say(out_paths, "good", ["x"])
    (found,) = standing(out_paths)
    assert (found.run_id, found.in_force) == ("run-1", None)


def verb(invoke, *arguments, code=0):
    result = invoke("verdicts", *arguments)
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.stderr


def test_the_verb_stores_and_shows(invoke, out_paths, tmp_path):
    write_scored(out_paths, "run-1", {"a": RAW})
    table = tmp_path / "verdicts.csv"
    at = "2026-03-05T12:00:00Z"
    table.write_text(
        f'image_id;uri;verdict;note;when\n{id_of("w")};;good;;{at}\n;{uri_of("z")};defective;"a\nb";{at}\nnone;;good;;{at}'
    )
    out = out_paths.root
    assert "No verdicts in" in verb(invoke, out)
    text = " ".join(verb(invoke, out, table, "--who", " Ada ").split())
    assert "2 verdicts stored, of 3 rows." in text
    assert f"Left out: 1 image that no run of {out} knows: none." in text
    assert "a 1 1 0 run-1" in text
    assert "0.5000 2" in text
    assert "marks the last one by them" in text
    assert "0 verdicts stored, of 3 rows." in verb(invoke, out, table, "--who", "Ada")
    document = json.loads(verb(invoke, out, "--json"))
    (group,) = document["groups"]
    assert document["imported"] is None
    assert group["labelled_threshold"] == {"threshold": 0.5, "good": 1, "defective": 1}
    assert (group["good"], group["defective"], group["unsure"], group["scored"]) == (1, 1, 0, 2)
    assert json.loads(verb(invoke, out, table, "--json"))["imported"]["unknown"] == ["none"]


def test_the_verb_refuses_in_a_sentence(invoke, out_paths, tmp_path):
    assert "There is no complete run in" in verb(invoke, out_paths.root, code=1)
    write_scored(out_paths, "run-1", {"a": RAW})
    table = tmp_path / "verdicts.csv"
    table.write_text("")
    assert "is empty" in verb(invoke, out_paths.root, table, code=1)
