"""The setting `crops`: one spelling for each rule, and a sentence for everything else."""

import pytest

from musc_ray.core.crops import DEFAULT_OVERLAP, CropLayout
from musc_ray.errors import SettingsError
from musc_ray.settings.crops import CropRule
from musc_ray.settings.loading import load_settings
from musc_ray.settings.model import Settings
from musc_ray.settings.values import identity_values, settings_dict


@pytest.mark.parametrize(
    ("given", "text", "rule"),
    [
        ("none", "none", None),
        ("1x1", "none", None),
        ("auto", "auto", CropRule()),
        ("3x2", "3x2,overlap=0.1", CropRule(CropLayout(3, 2, DEFAULT_OVERLAP))),
        ("3X2, overlap=0", "3x2,overlap=0", CropRule(CropLayout(3, 2, 0), overlap=0)),
        ("size=640", "size=640,overlap=0.1", CropRule(size=640)),
        ("overlap=0.10,size=640", "size=640,overlap=0.1", CropRule(size=640, overlap=0.1)),
        ("{size: 640, overlap: 0.3}", "size=640,overlap=0.3", CropRule(size=640, overlap=0.3)),
        ("scale=1.5", "scale=1.5,overlap=0.1", CropRule(scale=1.5)),
        ("scale=2", "auto", CropRule()),
        ({"scale": 2, "overlap": 0.2}, "scale=2,overlap=0.2", CropRule(overlap=0.2)),
        ({"size": 640, "overlap": 0.25}, "size=640,overlap=0.25", CropRule(size=640, overlap=0.25)),
    ],
)
def test_crops_have_one_spelling(given, text, rule):
    settings = load_settings(None, {"crops": given})
    assert settings.crops == text
    assert settings.crop_rule == rule
    assert load_settings(None, settings_dict(settings)) == settings
    if isinstance(given, str):
        assert load_settings(set_options=[f"crops={given}"]) == settings


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("many", "must be none, auto, ROWSxCOLUMNS such as 3x2"),
        ("0x2", "must be none, auto"),
        ("3x2,size=4", "must be none, auto"),
        ("overlap=0.2", "must be none, auto"),
        ("size=640,size=320", "must be none, auto"),
        ("3x2,overlap=0.6", "has an overlap of '0.6': use a number from 0 to 0.5."),
        ("3x2,overlap=nan", "has an overlap of 'nan'"),
        ("size=640,scale=2", "must be none, auto"),
        ("3x2,scale=2", "must be none, auto"),
        ("scale=0.1", "has a scale of '0.1': use a number from 0.25 to 100."),
        ("scale=nan", "has a scale of 'nan'"),
        ("size=6.5", "has a size of '6.5': use a whole number of pixels"),
        ("99x99", "cuts an image into 99 x 99 parts: use at most 4096."),
        ({"size": 640, "overlp": 0.2}, "must be none, auto"),
        (3, "must be none, auto, ROWSxCOLUMNS"),
    ],
)
def test_what_is_no_rule_is_refused_in_a_sentence(given, sentence):
    with pytest.raises(SettingsError, match="Setting 'crops' ") as caught:
        load_settings(None, {"crops": given})
    assert sentence in str(caught.value)


def test_crops_enter_ids_as_resolved_and_only_where_images_are_cut():
    assert "crops" not in identity_values(Settings(), "features")
    assert identity_values(load_settings(None, {"crops": "3x2"}), "features")["crops"] == "3x2,overlap=0.1"
    assert "crop_references" not in identity_values(Settings(), "scores")
    same = load_settings(None, {"crops": "auto", "crop_references": "same"})
    assert identity_values(same, "scores")["crop_references"] == "same"
    with pytest.raises(SettingsError, match="but 'crops' is none"):
        load_settings(None, {"crop_references": "same"})


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"crops": "3x2", "repeated_defects": True}, "Settings 'repeated_defects' and 'crops' do not go together yet"),
        (
            {"crops": "3x2", "crop_references": "all", "matching": "near"},
            "Settings 'matching' near and 'crop_references' all exclude each other",
        ),
    ],
)
def test_what_crops_do_not_go_together_with(given, sentence):
    with pytest.raises(SettingsError) as error:
        load_settings(None, given)
    assert sentence in str(error.value)
    for name in given:  # each two of three, and each alone, are possible
        rest = {key: value for key, value in given.items() if key != name}
        if "crops" in rest or "crop_references" not in rest:
            load_settings(None, rest)
