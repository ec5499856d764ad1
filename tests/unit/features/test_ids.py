"""Ids of runs and features are contracts: they were stored, and one that moves needs a line in the changelog."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from musc_ray.backbones import describe_backbone
from musc_ray.features.arithmetic import resolve_arithmetic
from musc_ray.features.context import context_of
from musc_ray.features.ids import features_id, features_values
from musc_ray.features.workspace import Workspace, features_meta, image_size_pair
from musc_ray.settings.loading import load_settings
from musc_ray.sources.images import CatalogImage, image_id
from musc_ray.storage.paths import OutPaths

STORED = json.loads((Path(__file__).parents[2] / "helpers" / "golden_ids.json").read_text())


@dataclass(frozen=True)
class FakeHardware:
    """Hardware as the tests want it."""

    gpu_count: int = 0
    has_bfloat16: bool = True

    def gpus(self) -> int:
        return self.gpu_count

    def bfloat16(self) -> bool:
        return self.has_bfloat16


def opened(out, hardware=FakeHardware(), **given):
    """What runs with these settings have in common, on this hardware."""
    base = {"source": "made", "out": str(out), "backbone": "timm:vit_tiny_patch16_224", "model_precision": "float32"}
    settings = load_settings(None, base | given)
    info = describe_backbone(settings.backbone, image_size_pair(settings), settings.layers)
    arithmetic = resolve_arithmetic(settings.device, settings.precision, settings.model_precision, hardware)
    identity = features_id(features_values(settings, info, "0" * 64, arithmetic))
    return Workspace(settings, OutPaths.at(str(out)), features_meta(info, "0" * 64, identity), arithmetic)


def made(*numbers, group="all"):
    return [CatalogImage(image_id(f"made://{n}"), f"made://{n}", group, f"v{n}") for n in numbers]


def ids(out, images=5, **given):
    """The ids of features and of a run on N images."""
    workspace = opened(out, **given)
    return workspace.meta.features_id, context_of(workspace, {"all": made(*range(images))}).run_id


@pytest.mark.parametrize("name", STORED)
def test_ids_are_those_stored(name, tmp_path):
    case = STORED[name]
    hardware = FakeHardware(**case.get("hardware", {}))
    given = {"method": "paper"} | case["settings"]  # what ids without a word on the method were made with
    found = ids(tmp_path, case.get("images", 5), hardware=hardware, **given)
    assert found == (case["features_id"], case["run_id"])


def test_the_grouping_of_images_changes_the_run_id_and_their_order_does_not(tmp_path):
    workspace = opened(tmp_path)
    one, two = made(0, 1, 2, 3), made(0, 1, group="a") + made(2, 3, group="b")
    grouped = {"a": two[:2], "b": two[2:]}
    names = {
        context_of(workspace, {"all": one}).run_id,
        context_of(workspace, grouped).run_id,
        context_of(workspace, {"a": two[:2] + two[2:3], "b": two[3:]}).run_id,
        context_of(workspace, {"b": two[:2], "a": two[2:]}).run_id,
    }
    assert len(names) == 4
    backwards = {"b": two[:1:-1], "a": two[1::-1]}
    assert context_of(workspace, backwards).run_id == context_of(workspace, grouped).run_id


PLAIN, BFLOAT16, GPU = FakeHardware(0, False), FakeHardware(0, True), FakeHardware(1, True)


@pytest.mark.parametrize("other", [BFLOAT16, GPU])
def test_auto_resumed_on_other_hardware_is_another_run(tmp_path, other):
    assert ids(tmp_path, 64, hardware=PLAIN) != ids(tmp_path, 64, hardware=other)
    assert ids(tmp_path, 64, hardware=BFLOAT16) != ids(tmp_path, 64, hardware=GPU)


@pytest.mark.parametrize("other", [BFLOAT16, GPU])
def test_exact_runs_are_the_same_on_any_hardware(tmp_path, other):
    assert ids(tmp_path, 63, hardware=PLAIN) == ids(tmp_path, 63, hardware=other)
    for images in (5, 64):
        given = {"precision": "float32"}
        assert ids(tmp_path, images, hardware=PLAIN, **given) == ids(tmp_path, images, hardware=other, **given)
    assert ids(tmp_path, 64, hardware=PLAIN) == ids(tmp_path, 64, hardware=other, precision="float32")


def test_auto_and_its_meaning_differ_where_small_groups_do(tmp_path):
    assert ids(tmp_path, 64, hardware=BFLOAT16) != ids(tmp_path, 64, hardware=BFLOAT16, precision="bfloat16")


def test_features_follow_the_precision_of_the_model_and_not_the_device(tmp_path):
    features = [ids(tmp_path, hardware=hardware, model_precision="auto")[0] for hardware in (PLAIN, BFLOAT16, GPU)]
    assert len(set(features)) == 3
    assert features[1] == ids(tmp_path, hardware=GPU, model_precision="bfloat16")[0]
    assert ids(tmp_path, hardware=PLAIN)[0] == ids(tmp_path, hardware=GPU)[0]


def test_images_that_change_change_the_run(tmp_path):
    workspace = opened(tmp_path)
    images = made(0, 1)
    changed = [images[0], replace(images[1], version="later")]
    assert context_of(workspace, {"all": images}).run_id != context_of(workspace, {"all": changed}).run_id
