"""A run is what was scored how: other groups or other arithmetic on the same OUT are other runs."""

import json
from collections import Counter

import pyarrow.dataset as ds
import pytest

from musc_ray import pipeline
from musc_ray.errors import MuscRayError
from musc_ray.features import arithmetic
from musc_ray.features.context import open_context
from musc_ray.features.workspace import open_out
from musc_ray.pipeline import run_archive
from musc_ray.runtime import hardware
from musc_ray.runtime.executor import open_executor
from musc_ray.runtime.options import ExecutorOptions
from musc_ray.runtime.progress import Progress
from musc_ray.settings.loading import load_settings
from tests.helpers.pictures import write_pictures
from tests.helpers.weights import write_tiny_weights


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """Settings of a run on 12 pictures in two folders."""
    folder = tmp_path_factory.mktemp("pictures")
    weights = write_tiny_weights(tmp_path_factory.mktemp("weights"))
    write_pictures(folder / "left", 6)
    write_pictures(folder / "right", 6)
    return {
        "source": str(folder),
        "backbone": "timm:vit_tiny_patch16_224",
        "weights": str(weights),
        "image_size": "64",
        "layers": "5",
        "workers": "1",
        "model_precision": "float32",
    }


def scored_groups(out, result):
    table = ds.dataset(out / "runs" / result.run.run_id / "scores").to_table(columns=["group"])
    return Counter(table["group"].to_pylist())


@pytest.mark.slow
def test_the_same_images_with_and_without_groups_are_two_runs(given, shared_ray, tmp_path):
    runs = [
        run_archive(load_settings(None, {**given, "out": str(tmp_path), "group_by": group_by}), Progress(quiet=True))
        for group_by in (None, "{group}/**", None)
    ]
    names = [result.run.run_id for result in runs]
    assert names[0] == names[2] != names[1]
    assert [result.computed for result in runs] == [True, True, False]
    assert scored_groups(tmp_path, runs[0]) == {"all": 12}
    assert scored_groups(tmp_path, runs[1]) == {"left": 6, "right": 6}


@pytest.mark.slow
def test_arithmetic_is_resolved_once_and_written_down(given, shared_ray, tmp_path):
    given = {name: value for name, value in given.items() if name != "model_precision"}
    result = run_archive(load_settings(None, {**given, "out": str(tmp_path)}), Progress(quiet=True))
    run = json.loads((tmp_path / "runs" / result.run.run_id / "run.json").read_text())
    resolved = {name: run["resolved"][name] for name in ("device", "precision", "model_precision")}
    best = "bfloat16" if hardware.has_bfloat16() else "float32"
    assert resolved == {"device": "cpu", "precision": "float32", "model_precision": best}


def test_a_cluster_is_asked_for_its_hardware(given, shared_ray, tmp_path):
    assert hardware.ClusterHardware().bfloat16() == hardware.has_bfloat16()
    assert hardware.ClusterHardware().gpus() == 0
    settings = load_settings(None, {**given, "out": str(tmp_path), "model_precision": "auto"})
    with open_executor(ExecutorOptions.of(settings), Progress(quiet=True)) as executor:
        context = open_context(open_out(settings, executor))
    assert context.arithmetic.device == "cpu"
    assert context.arithmetic.model_precision == ("bfloat16" if hardware.has_bfloat16() else "float32")


class InterruptedRunError(Exception):
    """Stands for the death of the driver."""


@pytest.mark.slow
def test_a_named_run_is_not_resumed_on_other_hardware(given, shared_ray, tmp_path, monkeypatch):
    """With `auto` the arithmetic would change between two bands."""
    monkeypatch.setattr(arithmetic, "MIN_IMAGES_LOW_PRECISION", 2)
    settings = load_settings(None, {**given, "out": str(tmp_path), "run_id": "mine"})

    def interrupt(*_):
        raise InterruptedRunError

    with monkeypatch.context() as patched:
        patched.setattr(hardware.ClusterHardware, "bfloat16", lambda _: True)
        patched.setattr(pipeline, "score_all", interrupt)
        with pytest.raises(InterruptedRunError):
            run_archive(settings, Progress(quiet=True))
    monkeypatch.setattr(hardware.ClusterHardware, "bfloat16", lambda _: False)
    with pytest.raises(MuscRayError, match="other images, settings or hardware"):
        run_archive(settings, Progress(quiet=True))
    again = run_archive(settings.model_copy(update={"overwrite": True}), Progress(quiet=True))
    assert again.run.resolved.precision == "float32"


@pytest.mark.slow
def test_a_complete_named_run_is_not_taken_for_one_of_other_settings(given, tmp_path):
    """Its scores would be shown as those of the settings that are given now."""
    options = {**given, "out": str(tmp_path), "run_id": "mine", "executor": "process"}
    first = run_archive(load_settings(None, options), Progress(quiet=True))
    again = run_archive(load_settings(None, {**options, "contamination": 0.25}), Progress(quiet=True))
    assert (first.computed, again.computed) == (True, False)
    with pytest.raises(MuscRayError, match="Run mine was started with other images, settings or hardware"):
        run_archive(load_settings(None, {**options, "degrees": (5,)}), Progress(quiet=True))
    other = run_archive(load_settings(None, {**options, "degrees": (5,), "overwrite": True}), Progress(quiet=True))
    assert other.run.settings.degrees == (5,)


@pytest.mark.slow
def test_workers_use_the_arithmetic_that_was_resolved(given, shared_ray, tmp_path, monkeypatch):
    """Not what they would choose by themselves."""
    monkeypatch.setattr(arithmetic, "MIN_IMAGES_LOW_PRECISION", 2)
    scores = {}
    for bfloat16 in (True, False):
        monkeypatch.setattr(hardware.ClusterHardware, "bfloat16", lambda _, found=bfloat16: found)
        result = run_archive(load_settings(None, {**given, "out": str(tmp_path)}), Progress(quiet=True))
        assert result.run.resolved.precision == ("bfloat16" if bfloat16 else "float32")
        folder = tmp_path / "runs" / result.run.run_id / "scores"
        scores[bfloat16] = ds.dataset(folder).to_table(columns=["uri", "score_raw"]).sort_by("uri")
    exact = load_settings(None, {**given, "out": str(tmp_path), "precision": "float32"})
    assert run_archive(exact, Progress(quiet=True)).computed is False
    assert scores[True]["score_raw"] != scores[False]["score_raw"]
