"""Ids of runs and features are contracts: they were stored, and one that moves needs a line in the changelog."""

import json
from pathlib import Path

import pytest

from musc_ray.backbones import describe_backbone
from musc_ray.features.context import _features_id, context_of, image_size_pair
from musc_ray.features.extraction import features_meta
from musc_ray.settings.loading import load_settings
from musc_ray.sources.images import CatalogImage, image_id
from musc_ray.storage.paths import OutPaths

STORED = json.loads((Path(__file__).parents[2] / "helpers" / "golden_ids.json").read_text())


@pytest.mark.parametrize("name", STORED)
def test_ids_are_those_stored(name, tmp_path):
    given = {
        "source": "made",
        "out": str(tmp_path),
        "backbone": "timm:vit_tiny_patch16_224",
        **STORED[name]["settings"],
    }
    settings = load_settings(None, given)
    info = describe_backbone(settings.backbone, image_size_pair(settings), settings.layers)
    meta = features_meta(info, "0" * 64, _features_id(settings, info, "0" * 64))
    images = [CatalogImage(image_id(f"made://{n}"), f"made://{n}", "all", f"v{n}") for n in range(5)]
    context = context_of(settings, OutPaths.at(str(tmp_path)), meta, {"all": images})
    assert (meta.features_id, context.run_id) == (STORED[name]["features_id"], STORED[name]["run_id"])
