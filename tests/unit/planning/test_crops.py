"""Layouts that a plan assumes: from the settings, or from the sizes of some images."""

from pathlib import Path

import pytest
from PIL import Image

from musc_ray.backbones import BackboneInfo
from musc_ray.core.crops import CropLayout
from musc_ray.errors import SettingsError
from musc_ray.planning import crops
from musc_ray.planning.crops import crop_inputs
from musc_ray.planning.plan import list_archive, plan_archive
from musc_ray.settings.loading import load_settings
from musc_ray.sources.images import CatalogImage

INFO = BackboneInfo("timm:test", (224, 224), 14, (16, 16), 12, (11,), 384, 384)


@pytest.fixture
def groups(tmp_path) -> dict[str, list[CatalogImage]]:
    """A group of large images, one of small ones, and one that cannot be read."""
    for name, size in (("large", (1600, 900)), ("small", (200, 200))):
        (tmp_path / name).mkdir()
        for number in range(3):
            Image.new("L", size).save(tmp_path / name / f"{number}.png")
    found = {
        name: [CatalogImage(f"{n}", str(tmp_path / name / f"{n}.png"), name, "") for n in range(3)]
        for name in ("large", "small", "lost")
    }
    return {**found, "large": found["large"] * 2}


def layouts(groups, **given) -> dict[str, CropLayout]:
    found = crop_inputs(load_settings(None, given), INFO, groups)
    return {name: crops.layout for name, crops in found.items()}


def test_fixed_layouts_need_no_images(groups, monkeypatch):
    monkeypatch.setattr(crops, "sample_size", None)
    assert layouts(groups) == {}
    assert layouts(groups, crops="2x3") == dict.fromkeys(groups, CropLayout(2, 3))


def test_other_layouts_follow_from_the_sizes_of_images(groups):
    found = layouts(groups, crops="size=500,overlap=0.1")
    assert found["large"] == CropLayout(2, 4, 0.1)
    assert found.keys() == {"large", "lost"}, "images that cannot be read count as the middle size"
    found = layouts(groups, crops="auto", method="paper", image_size=224)
    height, width = found["large"].crop_size(900, 1600)
    assert max(height, width) <= 2 * 224
    assert "small" not in found


def test_too_many_crops_are_refused(groups):
    with pytest.raises(SettingsError, match="into too many parts"):
        layouts(groups, crops="size=3")


@pytest.mark.parametrize(("given", "meeting"), [({}, "all"), ({"crop_references": "same"}, "same")])
def test_a_plan_prices_crops(tmp_path: Path, monkeypatch, given, meeting):
    for number in range(4):
        Image.new("L", (600, 400)).save(tmp_path / f"{number}.png")
    settings = load_settings(
        None, {"source": str(tmp_path), "backbone": "dinov2-vit-s-14", "image_size": 56, "crops": "2x3", **given}
    )
    plan = plan_archive(settings, list_archive(settings), "h100")
    assert (plan.job.crops, plan.job.meeting) == (6, meeting)
    assert plan.rates.image_pixels == 600 * 400
    assert plan.rates.image_seconds > 0
    whole = plan_archive(settings.model_copy(update={"crops": "none"}), list_archive(settings), "h100")
    assert plan.extract_operations == 7 * whole.extract_operations
    assert plan.mutual_operations == whole.mutual_operations * (7 if meeting == "same" else 37)
