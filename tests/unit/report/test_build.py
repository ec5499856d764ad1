"""The report of a complete run is written again: whose settings it takes, and what a threshold changes."""

import json
from datetime import UTC, datetime

import pyarrow.dataset as ds
import pytest

from musc_ray.errors import MuscRayError, SettingsError
from musc_ray.report import build
from musc_ray.runtime.progress import Progress
from musc_ray.settings.loading import load_settings
from musc_ray.sources.images import image_id
from musc_ray.storage.paths import OutPaths
from musc_ray.storage.verdicts import Verdict, add_verdicts
from tests.helpers import scored_run


@pytest.fixture
def again(tmp_path, monkeypatch):
    """Write a run, then its report again with some settings; return the settings it got, run.json and the scores."""

    def call(*, changed=None, **given):
        out_paths = OutPaths.at(str(tmp_path / "out"))
        scored_run.write_run(out_paths, {"a": [f"{n}.png" for n in range(4)]}, grid=(4, 4), **(changed or {}))
        seen = []
        monkeypatch.setattr(
            build, "write_report", lambda out_paths, run, executor, settings, progress: seen.append(settings) or ""
        )
        build.report_again(load_settings(None, {"out": str(tmp_path / "out"), **given}), Progress(quiet=True))
        (run,) = (tmp_path / "out" / "runs").iterdir()
        return seen[0], json.loads((run / "run.json").read_text()), ds.dataset(run / "scores").to_table()

    return call


def test_a_report_takes_what_changes_it_and_the_rest_from_the_run(again):
    settings, run, scores = again(report_images=3, workers=2, degrees=[1])
    assert (settings.report_images, settings.workers) == (3, 2)
    assert settings.degrees == (1, 3, 5)
    assert "thresholds" not in run
    assert "is_anomalous" not in scores.column_names


def test_a_report_takes_a_threshold(again):
    settings, run, scores = again(threshold=0.3)
    assert settings.threshold == 0.3
    assert run["thresholds"] == {"a": 0.3}
    assert scores["is_anomalous"].to_pylist() == [score >= 0.3 for score in scores["score"].to_pylist()]


def test_a_report_takes_a_contamination(again):
    settings, run, scores = again(contamination=0.25)
    assert (settings.contamination, settings.threshold) == (0.25, None)
    assert sum(scores["is_anomalous"].to_pylist()) == 1
    assert run["settings"]["contamination"] == 0.25


def test_a_report_is_marked_by_verdicts_unless_the_run_or_the_command_has_a_rule(again, tmp_path):
    out_paths = OutPaths.at(str(tmp_path / "out"))
    at = datetime(2026, 3, 5, tzinfo=UTC)
    for number, word in enumerate(["good", "defective", "good", "defective"]):
        add_verdicts(out_paths, [Verdict(image_id(f"{number}.png"), f"{number}.png", "a", word, "", "", at)])
    _, run, scores = again()
    assert run["labelled_thresholds"]["a"]["good"] == 2
    threshold = run["thresholds"]["a"]
    assert scores["is_anomalous"].to_pylist() == [score >= threshold for score in scores["score"].to_pylist()]
    _, run, _ = again(threshold=0.3)
    assert run["thresholds"] == {"a": 0.3}
    assert "labelled_thresholds" not in run


def test_the_contamination_of_a_night_is_refused(again):
    with pytest.raises(SettingsError, match="nightly run, whose contamination is a share of its window"):
        again(changed={"night": {"a": {"new": 1, "window": 2}}}, contamination=0.25)


def test_a_report_needs_an_out_with_a_run(tmp_path):
    with pytest.raises(SettingsError, match="needs the out of a run"):
        build.report_again(load_settings(), Progress(quiet=True))
    with pytest.raises(MuscRayError, match="no complete run"):
        build.report_again(load_settings(None, {"out": str(tmp_path)}), Progress(quiet=True))
