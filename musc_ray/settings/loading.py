"""Read the settings of a job: defaults, a YAML file, command-line options and `--set key=value`."""

import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from musc_ray.errors import MuscRayError, SettingsError
from musc_ray.settings.credentials import credentials_sentence, has_credentials
from musc_ray.settings.fill import fill_in
from musc_ray.settings.messages import first_of, shown, unknown_setting, validation_sentences
from musc_ray.settings.model import Settings

TEXTS = frozenset(name for name, field in Settings.model_fields.items() if field.annotation in (str, str | None))
"""Settings whose value is taken as text, not parsed."""


def load_settings(
    config: str | Path | None = None,
    overrides: Mapping[str, object] | None = None,
    set_options: Sequence[str] = (),
) -> Settings:
    """Read the settings of a job; later sources win: defaults, `config`, `overrides`, `set_options`.

    Args:
        config: YAML file of `key: value` lines, a local path or a URI. In its values `${DATE}` is today in UTC,
            `${DATE-1}` yesterday, and `${env:NAME}` an environment variable; a value that is overridden is not filled.
        overrides: command-line options by setting; None means not given.
        set_options: `key=value` texts. The value is YAML, or a comma list such as 1,3,5; for settings that are text it
            is taken as it stands (`*.png`, 2024-11-24), but `null` and nothing mean no value.

    Raises:
        SettingsError: the first problem as one sentence, with the number of further ones.
    """
    later = {key: value for key, value in (overrides or {}).items() if value is not None}
    later.update(_parse_set_option(option) for option in set_options)
    given = later if config is None else _from_file(str(config), later) | later
    known = {key: value for key, value in given.items() if key in Settings.model_fields}
    problems = [unknown_setting(key, Settings.model_fields) for key in given if key not in known]
    try:
        settings = Settings.model_validate(known)
    except ValidationError as error:
        problems += validation_sentences(error, known, Settings.model_fields)
    if problems:
        raise SettingsError(first_of(problems))
    return settings


def _from_file(config: str, later: Mapping[str, object]) -> dict[str, object]:
    """Read a settings file; fill dates and environment variables into the values that `later` does not override."""
    from musc_ray.settings.yaml_text import parse_settings  # here, as below: most commands have no settings file

    given = parse_settings(_read_file(config), config)
    today = datetime.now(UTC).date()
    needed = Settings.model_fields.keys() - later.keys()
    return {
        key: fill_in(value, f"Settings file {shown(config)}, {key}", today, os.environ) if key in needed else value
        for key, value in given.items()
    }


def _read_file(config: str) -> bytes:
    """Read a settings file of any store; at most a byte more than the maximum."""
    if has_credentials(config):
        raise SettingsError(credentials_sentence("The path of the settings file"))
    from musc_ray.settings.yaml_text import MAX_SETTINGS_BYTES
    from musc_ray.storage.filesystem import open_filesystem

    try:
        fs, path = open_filesystem(config)
        with fs.open(path, "rb") as file:
            return bytes(file.read(MAX_SETTINGS_BYTES + 1))
    except FileNotFoundError:
        raise SettingsError(f"There is no settings file {shown(config)}.") from None
    except MuscRayError as error:
        raise SettingsError(str(error)) from None
    except Exception as error:  # noqa: BLE001 - drivers of remote stores raise errors of their own
        raise SettingsError(f"Cannot read settings file {shown(config)}: {' '.join(str(error).split())}.") from None


def _parse_set_option(option: str) -> tuple[str, object]:
    """Split a `--set key=value` option into key and value."""
    key, equals, text = option.partition("=")
    key = key.strip()
    if not equals or not key:
        raise SettingsError(f"Option --set takes key=value, for example --set shard_size=64, not {shown(option)}.")
    if key in TEXTS:
        return key, None if text in ("", "null") else text
    from musc_ray.settings.yaml_text import VALUE_FAULTS, parse_value

    try:
        return key, parse_value(text)
    except VALUE_FAULTS:
        raise SettingsError(f"Option --set {shown(option)} is not a YAML value: put it in quotes.") from None
