"""The settings of a night."""

import json

import pytest

from musc_ray.backbones.names import ALIASES
from musc_ray.nightly.run import night_settings
from musc_ray.settings.loading import load_settings
from musc_ray.settings.method import PAPER, TUNED
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
    settings = night(tmp_path, record, given)
    assert (settings.model_precision, settings.precision) == (expected, "auto")


@pytest.mark.parametrize(
    ("given", "degrees"),
    [
        ({}, (7,)),
        ({"backbone": "dinov2-vit-s-14"}, (7,)),
        ({"backbone": ALIASES["dinov2-vit-s-14"], "method": "tuned"}, (7,)),  # the same one by its full name
        ({"backbone": "dinov2-vit-b-14"}, TUNED["dinov2"].degrees),
        ({"method": "paper"}, PAPER.degrees),
        ({"method": "paper", "degrees": (5,)}, (5,)),
    ],
)
def test_constants_are_inherited_unless_method_or_backbone_change(tmp_path, given, degrees):
    record = run_record("run-1", settings={"backbone": "dinov2-vit-s-14", "method": "tuned", "degrees": [7]})
    assert night(tmp_path, record, given).degrees == degrees


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ("near", 3)),
        ({"matching": "near", "radius": 4}, ("near", 4)),
        ({"matching": "anywhere"}, ("anywhere", None)),
        ({"matching": "auto"}, ("auto", None)),
    ],
)
def test_a_radius_is_inherited_with_its_matching(tmp_path, given, expected):
    settings = night(tmp_path, run_record("run-1", settings={"matching": "near", "radius": 3}), given)
    assert (settings.matching, settings.radius) == expected


def night(tmp_path, record, given):
    """Return the settings of a night after a run."""
    (tmp_path / "runs" / "run-1").mkdir(parents=True)
    (tmp_path / "runs" / "run-1" / "run.json").write_text(json.dumps(record))
    return night_settings(load_settings(None, {"out": str(tmp_path), **given}))
