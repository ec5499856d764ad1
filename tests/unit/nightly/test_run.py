"""The settings of a night."""

import json

import pytest

from musc_ray.nightly.run import night_settings
from musc_ray.settings.loading import load_settings
from tests.helpers.manifests import run_record


@pytest.mark.parametrize(
    ("given", "resolved", "expected"),
    [
        ({}, {"model_precision": "float16"}, "float16"),
        ({}, {"model_precision": None}, "auto"),
        ({"model_precision": "float32"}, {"model_precision": "float16"}, "float32"),
    ],
)
def test_the_backbones_precision_is_inherited_as_resolved(tmp_path, given, resolved, expected):
    """`auto` would mean other features on other hardware, and all images would be new."""
    record = run_record("run-1", settings={"model_precision": "auto", "precision": "auto"}, resolved=resolved)
    (tmp_path / "runs" / "run-1").mkdir(parents=True)
    (tmp_path / "runs" / "run-1" / "run.json").write_text(json.dumps(record))
    settings = night_settings(load_settings(None, {"out": str(tmp_path), **given}))
    assert (settings.model_precision, settings.precision) == (expected, "auto")
