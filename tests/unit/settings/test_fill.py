"""Dates and environment variables in a settings file."""

import re
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from musc_ray.errors import SettingsError
from musc_ray.settings.fill import fill_in
from musc_ray.settings.loading import load_settings

LEAP = date(2024, 3, 1)


def filled(value: object, **environment: str) -> object:
    return fill_in(value, "job.yaml, source", LEAP, environment)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("s3://plant/${DATE}/", "s3://plant/2024-03-01/"),
        ("s3://plant/${DATE-1}/", "s3://plant/2024-02-29/"),
        ("${DATE-0} ${DATE-366}", "2024-03-01 2023-03-01"),
        ("${env:STORE}/in/${env:LINE}", "s3://plant/in/7"),
        (["${env:LINE}", 3, ["${DATE}"]], ["7", 3, ["2024-03-01"]]),
        ("$HOME $(id) `id` {group} 5$ %Y ~ $", "$HOME $(id) `id` {group} 5$ %Y ~ $"),
        (12, 12),
        (None, None),
    ],
)
def test_what_is_filled_in(value, expected):
    assert filled(value, STORE="s3://plant", LINE="7") == expected


def test_what_was_filled_in_is_not_looked_at_again():
    assert filled("${env:A}", A="${env:B} ${DATE} $(id)", B="no") == "${env:B} ${DATE} $(id)"


@pytest.mark.parametrize("text", ["${}", "${date}", "${DATE+1}", "${DATE-}", "${DATE - 1}", "${env:}", "${env:A-B}"])
@pytest.mark.parametrize("around", ["{}", "s3://a/{}/b"])
def test_anything_else_is_refused_with_what_there_is(text, around):
    with pytest.raises(SettingsError, match=re.escape("${DATE}, ${DATE-1} and ${env:NAME}")) as caught:
        filled(around.replace("{}", text))
    assert "job.yaml, source" in str(caught.value)
    assert text in str(caught.value)


def test_an_open_brace_is_refused():
    with pytest.raises(SettingsError, match="is not a placeholder"):
        filled("s3://a/${DATE")


@pytest.mark.parametrize("environment", [{}, {"STORE": ""}])
def test_an_unset_variable_is_named(environment):
    with pytest.raises(SettingsError, match="environment variable STORE is not set or empty"):
        filled("${env:STORE}/in", **environment)


@pytest.mark.parametrize(
    "name", ["AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN", "DB_PASSWORD", "RAY_AUTH_TOKEN"]
)
def test_a_variable_that_is_a_secret_by_its_name_is_refused(name):
    with pytest.raises(SettingsError, match=f"{name} carries credentials") as caught:
        filled(f"${{env:{name}}}", **{name: "hunter2"})
    assert "hunter2" not in str(caught.value)


@given(st.text().filter(lambda text: "${" not in text))
def test_other_text_stays_as_it_is(text):
    assert filled(text) == text


def test_settings_files_are_filled_in(tmp_path: Path, monkeypatch):
    path = tmp_path / "job.yaml"
    path.write_text(
        "source: ${env:STORE}/${DATE-1}\nout: ${env:STORE}-out\nimage_size: ${env:SIZE}\nlayers: ['${env:LAYER}', 3]\n"
        "device: ${env:DEVICE}\n"
    )
    for name, value in {"STORE": "s3://plant", "SIZE": "224", "LAYER": "2", "DEVICE": "cuda"}.items():
        monkeypatch.setenv(name, value)
    settings = load_settings(path)
    yesterday = datetime.now(UTC).date() - timedelta(days=1)
    assert settings.source in (f"s3://plant/{yesterday}", f"s3://plant/{yesterday + timedelta(days=1)}")  # at midnight
    assert (settings.out, settings.image_size, settings.layers) == ("s3://plant-out", 224, (2, 3))

    monkeypatch.delenv("DEVICE")
    with pytest.raises(SettingsError, match=f"Settings file '{path}', device: the environment variable DEVICE is not"):
        load_settings(path)
    assert load_settings(path, {"device": "cpu"}).device == "cpu"  # what is overridden needs no variable
    assert load_settings(path, set_options=["device=cpu"]).device == "cpu"

    monkeypatch.setenv("DEVICE", "cpu")
    monkeypatch.setenv("STORE", "s3://user:hunter2@plant")
    with pytest.raises(SettingsError, match="carries credentials") as caught:
        load_settings(path)
    assert "hunter2" not in str(caught.value)
