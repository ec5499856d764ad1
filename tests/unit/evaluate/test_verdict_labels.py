"""Verdicts as labels of an evaluation."""

from datetime import UTC, datetime

import pyarrow.parquet as pq
import pytest

from musc_ray.errors import SettingsError
from musc_ray.evaluate.evaluation import evaluate_run
from musc_ray.evaluate.labels import Label, find_labels
from musc_ray.runtime.progress import Progress
from musc_ray.settings.loading import load_settings
from musc_ray.storage.paths import OutPaths
from musc_ray.storage.verdicts import Verdict
from tests.helpers.judged_runs import id_of, say, uri_of, write_scored

AT = datetime(2026, 3, 5, tzinfo=UTC)
URIS = [uri_of(name) for name in "wxyz"]
GOOD, DEFECTIVE = Label(0, "good", None), Label(1, "defective", None)


def said(**words):
    return [Verdict(id_of(name), uri_of(name), "a", word, "", "", AT) for name, word in words.items()]


@pytest.mark.parametrize("given", ["verdicts", "auto"])
def test_good_is_0_defective_is_1_and_unsure_has_no_label(given):
    labels = find_labels(given, URIS, verdicts=said(w="good", x="defective", y="unsure"))
    assert labels.by_uri == {uri_of("w"): GOOD, uri_of("x"): DEFECTIVE}
    assert labels.origin == "verdicts"
    assert labels.problems == []


def test_paths_go_before_verdicts():
    uris = ["file:///a/good/1.png", "file:///a/bad/2.png"]
    verdicts = [Verdict("1", uris[0], "a", "defective", "", "", AT)]
    assert find_labels("auto", uris, verdicts=verdicts).by_uri[uris[0]].label == 0
    assert find_labels("verdicts", uris, verdicts=verdicts).by_uri[uris[0]].label == 1


def test_judged_images_that_are_not_scored_are_named():
    labels = find_labels("verdicts", URIS, verdicts=said(w="good", known="good"))
    assert [(problem.kind, problem.uri) for problem in labels.problems] == [("NotScored", uri_of("known"))]


@pytest.mark.parametrize("verdicts", [[], said(w="unsure"), said(other="good")])
def test_no_judged_image_is_refused(verdicts):
    with pytest.raises(SettingsError, match="No image of this run is judged good or defective: mark images"):
        find_labels("verdicts", URIS, verdicts=verdicts)


@pytest.mark.parametrize("verdicts", [[], said(w="unsure")])
def test_auto_without_verdicts_is_refused_as_before(verdicts):
    with pytest.raises(SettingsError, match="Cannot tell good from defective images by their paths"):
        find_labels("auto", URIS, verdicts=verdicts)


@pytest.mark.parametrize("given", ["verdicts", "auto"])
def test_a_run_is_evaluated_by_what_was_said(tmp_path, given):
    out_paths = OutPaths.at(str(tmp_path))
    write_scored(out_paths, "run-1", {"a": {"w": 1.0, "x": 1.5, "y": 2.0, "z": 3.0}})
    say(out_paths, "good", ["w", "y"])
    say(out_paths, "defective", ["x", "z"])
    say(out_paths, "unsure", ["w"], minute=1)
    settings = load_settings(None, {"out": str(tmp_path), "labels": given})
    found = evaluate_run(settings, Progress(quiet=True))
    assert found.about["labels"] == "verdicts"
    (row,) = (row for row in found.rows if row.group == "a" and not row.defect and not row.is_mean)
    assert (row.images, row.anomalous, row.image_auroc) == (3, 2, 0.5)
    table = pq.read_table(f"{found.folder}/labels.parquet").to_pylist()
    assert {line["image_id"]: line["label"] for line in table} == {id_of("x"): 1, id_of("y"): 0, id_of("z"): 1}
