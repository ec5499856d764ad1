from typing import get_args

import pytest

from musc_ray.settings.affects import EFFECTS, Effect, affects_of
from musc_ray.settings.loading import load_settings
from musc_ray.settings.model import Settings
from musc_ray.settings.values import identity_values, settings_affecting


def test_every_setting_declares_what_it_affects():
    for name, field in Settings.model_fields.items():
        effects = affects_of(field).effects
        assert effects, name
        assert len(set(effects)) == len(effects), name
        assert set(effects) <= set(EFFECTS), name


def test_effects_are_those_of_the_type():
    assert tuple(EFFECTS) == get_args(Effect)
    assert all(settings_affecting(effect) for effect in EFFECTS)


def test_settings_are_found_by_what_they_affect():
    assert set(settings_affecting("source")) == {
        "source",
        "group_by",
        "column",
        "max_error_fraction",
        "max_pixels",
        "max_image_mb",
    }
    assert set(settings_affecting("night", "publish")) == {
        "since",
        "window",
        "rescore_window",
        "drift_warning",
        "lake",
    }


def test_what_enters_an_id_never_concerns_machines():
    machines = {*settings_affecting("extraction", "scoring", "runtime", "run", "output")}
    assert not machines & {*settings_affecting("features", "scores")}


@pytest.mark.parametrize("name", ["aggregation", "repeated_defects", "rescoring", "matching"])
def test_settings_added_later_enter_ids_only_when_changed(name):
    changed = {"aggregation": "snamd", "repeated_defects": True, "rescoring": "none", "matching": "auto"}[name]
    assert name not in identity_values(Settings(), "scores")
    assert identity_values(load_settings(None, {name: changed}), "scores")[name] == changed


def test_a_radius_enters_ids_where_there_is_one():
    assert "radius" not in identity_values(Settings(), "scores")
    assert "radius" not in identity_values(load_settings(None, {"matching": "auto"}), "scores")
    near = identity_values(load_settings(None, {"matching": "near"}), "scores")
    assert near["radius"] == 2
    assert near == identity_values(load_settings(None, {"matching": "near", "radius": 2}), "scores")


def test_the_intensity_changes_features_and_is_left_out_while_it_is_found():
    assert "intensity" not in identity_values(Settings(), "features")
    assert identity_values(load_settings(None, {"intensity": "0,4095"}), "features")["intensity"] == (0, 4095)
