"""Manifests: what is written is read, other versions are read or refused by a sentence."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from musc_ray.core.crops import CropLayout
from musc_ray.errors import MuscRayError
from musc_ray.storage.complete_runs import complete_run, complete_runs
from musc_ray.storage.filesystem import write_json
from musc_ray.storage.manifest import SCHEMA_VERSION, RunManifest, StartedManifest
from musc_ray.storage.parquet import read_table, write_table
from musc_ray.storage.paths import OutPaths, RunPaths
from musc_ray.storage.scores import map_scale, read_scores
from tests.helpers.manifests import run_record, started_record


@pytest.fixture
def run_paths(tmp_path) -> RunPaths:
    return OutPaths.at(str(tmp_path)).run("run-a")


def test_a_manifest_is_read_as_written(run_paths):
    given = RunManifest.model_validate(
        run_record("run-a", night={"all": {"new": 3, "window": 9}}, thresholds={"all": 0.5}, source_snapshot=7)
    )
    given.write(run_paths)
    assert RunManifest.read(run_paths) == given
    assert given.schema_version == SCHEMA_VERSION


def test_what_does_not_apply_is_not_in_the_file(run_paths):
    RunManifest.model_validate(run_record("run-a")).write(run_paths)
    content = json.loads(Path(run_paths.run_json).read_text())
    assert not {"thresholds", "night", "waiting", "source_snapshot", "repeated_defects"} & content.keys()
    RunManifest.model_validate(run_record("run-a", thresholds=None)).write(run_paths)
    assert json.loads(Path(run_paths.run_json).read_text())["thresholds"] is None


def test_a_run_of_a_later_version_is_refused(run_paths):
    write_json(run_paths.fs, run_paths.run_json, run_record("run-a", schema_version=SCHEMA_VERSION + 1))
    with pytest.raises(
        MuscRayError, match=r"run-a/run\.json has schema version 2, .* install the version that wrote it"
    ):
        complete_run(run_paths.out, "run-a")


def test_a_broken_manifest_is_named(run_paths):
    write_json(run_paths.fs, run_paths.run_json, run_record("run-a", counts={"scored": "many"}))
    with pytest.raises(MuscRayError, match=r"run\.json is not a manifest \(counts\.scored: .*score it again"):
        complete_runs(run_paths.out)


def test_settings_that_this_version_does_not_know_are_dropped(run_paths):
    write_json(run_paths.fs, run_paths.run_json, run_record("run-a", settings={"gone": 1, "k_list": [1, 8, 9]}))
    assert complete_run(run_paths.out, None).settings.k_list == (1, 8, 9)


@pytest.mark.parametrize(
    ("settings", "dtype"),
    [({"feature_dtype": "float16"}, "auto"), ({"feature_dtype": "float16", "compress": "none"}, "float16")],
)
def test_the_number_format_of_runs_older_than_compress_is_no_choice(run_paths, settings, dtype):
    record = run_record("run-a")
    record["settings"] = {name: value for name, value in record["settings"].items() if name != "compress"} | settings
    write_json(run_paths.fs, run_paths.run_json, record)
    found = RunManifest.read(run_paths)
    assert found is not None
    assert found.settings.feature_dtype == dtype


def test_maps_of_images_that_are_cut_have_the_grid_and_size_of_all_crops_together(run_paths):
    cut = {"rows": 5, "columns": 7, "overlap": 0.1, "image_size": [224, 224], "grid": [80, 112]}
    resolved = {"image_size": [224, 224], "grid": [16, 16]}
    given = RunManifest.model_validate(
        run_record("run-a", resolved=resolved, image_sizes={"cut": [182, 280]}, crops={"cut": cut})
    )
    given.write(run_paths)
    found = RunManifest.read(run_paths)
    assert found == given
    assert (found.grid_of("cut"), found.map_size_of("cut")) == ((80, 112), (1120, 1568))
    assert (found.grid_of("whole"), found.map_size_of("whole")) == ((16, 16), (224, 224))
    assert found.image_size_of("cut") == (182, 280)
    assert found.crops["cut"].layout == CropLayout(5, 7, 0.1)


def test_started_manifest(run_paths):
    assert StartedManifest.read(run_paths) is None
    write_json(run_paths.fs, run_paths.started_json, started_record("run-a", {"a": 4}))
    started = StartedManifest.read(run_paths)
    assert started is not None
    assert started.groups["a"].images == 4


def test_runs_of_before_the_schema_version_are_read(run_paths):
    record = run_record("run-a")
    del record["schema_version"]
    for name in ("device", "precision", "model_precision"):
        record["resolved"].pop(name, None)
    write_json(run_paths.fs, run_paths.run_json, record)
    table = pa.table({"score": np.array([0.5, 1.0], np.float32), "patch_map": [[0.5, 0.25], [1.0, 0.25]]})
    write_table(run_paths.fs, f"{run_paths.scores}/group=a%2Fb/part-00000.parquet", table)
    assert complete_run(run_paths.out, None).schema_version == 0
    files = run_paths.parts(run_paths.scores, "a/b")
    assert read_scores(run_paths.fs, files, ["score"])["score"].to_pylist() == [0.5, 1.0]
    assert map_scale(run_paths.fs, files, 1.0)[1] == 1.0
    assert [len(read_table(run_paths.fs, path)) for path in run_paths.all_parts(run_paths.scores)] == [2]
