"""What a method chooses: by family of backbone, in place of what is not given, and never instead of it."""

import pytest

from musc_ray.backbones.names import ALIASES
from musc_ray.settings.loading import load_settings
from musc_ray.settings.method import CHOSEN, PAPER, TUNED, constants_of, family_of
from musc_ray.settings.values import identity_values, settings_dict


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("clip-vit-l-14-336", "clip"),
        ("open_clip:ViT-B-16-SigLIP/webli", "clip"),
        ("timm:vit_base_patch16_clip_224.openai", "clip"),
        ("dino-vit-s-8", "dino"),
        ("timm:vit_small_patch16_224.dino", "dino"),
        ("dinov2-vit-s-14-reg", "dinov2"),
        ("timm:vit_base_patch14_reg4_dinov2.lvd142m", "dinov2"),
        ("timm:vit_small_patch16_dinov3.lvd1689m", "dinov3"),
        ("timm:vit_base_patch16_224", "plain"),
    ],
)
def test_the_family_follows_from_the_name(name, family):
    assert family_of(name) == family


def test_an_alias_and_its_full_name_are_of_one_family():
    assert [family_of(alias) for alias in ALIASES] == [family_of(name) for name in ALIASES.values()]


def test_the_paper_has_its_constants_for_every_backbone():
    for family in TUNED:
        settings = load_settings(None, {"method": "paper", "backbone": f"{family}-vit-s-14"})
        assert (settings.degrees, settings.interval, settings.k_list) == ((1, 3, 5), (0.0, 0.3), (1, 2, 3))
        assert settings.constants.twelfths == (3, 6, 9, 12)


def test_what_is_not_given_is_chosen_and_does_not_count_as_given():
    settings = load_settings(None, {"backbone": "dinov2-vit-s-14"})
    assert settings.degrees == TUNED["dinov2"].degrees != PAPER.degrees
    assert not settings.model_fields_set & {*CHOSEN}


def test_null_in_a_settings_file_is_not_given(tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text("".join(f"{name}: null\n" for name in (*CHOSEN, "layers")))
    settings = load_settings(str(file), {"backbone": "dinov2-vit-s-14"})
    assert settings == load_settings(None, {"backbone": "dinov2-vit-s-14", "layers": None})
    assert not settings.model_fields_set & {*CHOSEN}


@pytest.mark.parametrize("method", ["tuned", "paper"])
def test_what_is_given_stays(method):
    given = {"degrees": (7,), "interval": (0.1, 0.2), "k_list": (4,), "layers": (0,)}
    settings = load_settings(None, given | {"method": method, "backbone": "dinov2-vit-s-14"})
    assert {name: getattr(settings, name) for name in given} == given


def test_settings_that_are_read_back_keep_what_was_chosen():
    """A run's constants stay its own when a later version chooses others."""
    settings = load_settings(None, {"backbone": "dinov2-vit-s-14"})
    assert load_settings(None, {**settings_dict(settings), "method": "paper"}).degrees == settings.degrees


def test_ids_hold_what_was_chosen_and_not_the_method():
    tuned = load_settings(None, {"backbone": "dinov2-vit-s-14"})
    same = load_settings(None, {"backbone": "dinov2-vit-s-14", "method": "paper", "degrees": tuned.degrees})
    for effect in ("features", "scores"):
        assert "method" not in identity_values(tuned, effect)
    assert identity_values(tuned, "scores")["degrees"] == identity_values(same, "scores")["degrees"] == tuned.degrees


@pytest.mark.parametrize(
    ("given", "keeps"),
    [
        ({}, True),
        ({"image_size": 224}, True),
        ({"image_size": (224, 224)}, False),
        ({"method": "paper", "image_size": 224}, False),
    ],
)
def test_one_side_keeps_the_shape_of_the_images(given, keeps):
    assert load_settings(None, given).keeps_shape is keeps


def test_constants_name_settings():
    assert all(hasattr(constants_of("tuned", "clip-vit-l-14-336"), name) for name in CHOSEN)
