"""Fill dates and environment variables into the values of a settings file; nothing is evaluated."""

import re
from collections.abc import Mapping
from datetime import date, timedelta

from musc_ray.errors import SettingsError
from musc_ray.settings.credentials import credentials_sentence, has_credentials
from musc_ray.settings.messages import shown

PLACEHOLDER = re.compile(r"\$\{([^}]*)\}?")
DATE = re.compile(r"DATE(?:-(\d{1,4}))?")
VARIABLE = re.compile(r"env:([A-Za-z_][A-Za-z0-9_]*)")


def fill_in(value: object, where: str, today: date, environment: Mapping[str, str]) -> object:
    """Replace the placeholders in a value of a settings file; in lists and mappings item by item.

    `${DATE}` is today as 2025-03-01, `${DATE-1}` the day before, and so on; `${env:NAME}` is an environment variable.
    Placeholders in what was filled in are not replaced.

    Args:
        value: as parsed from YAML.
        where: file and setting, for errors.
        today: value of `${DATE}`.
        environment: variables by name.

    Returns:
        The value with the same structure.

    Raises:
        SettingsError: a variable that is not set, or whose name says that it is a secret; any other `${...}`.
    """
    if isinstance(value, list):
        return [fill_in(item, where, today, environment) for item in value]
    if isinstance(value, dict):
        return {key: fill_in(item, where, today, environment) for key, item in value.items()}
    if not isinstance(value, str):
        return value
    return PLACEHOLDER.sub(lambda found: _filled(found, where, today, environment), value)


def _filled(found: re.Match[str], where: str, today: date, environment: Mapping[str, str]) -> str:
    """Return the text that replaces one `${...}`."""
    if found[0].endswith("}") and (days := DATE.fullmatch(found[1])):
        return (today - timedelta(days=int(days[1] or 0))).isoformat()
    if not found[0].endswith("}") or not (variable := VARIABLE.fullmatch(found[1])):
        raise SettingsError(
            f"{where}: {shown(found[0])} is not a placeholder: these are ${{DATE}}, ${{DATE-1}} and ${{env:NAME}}."
        )
    name = variable[1]
    if has_credentials(f"{name}="):  # run.json stores every setting
        raise SettingsError(f"{where}: {credentials_sentence(f'The variable {name}')}")
    if not environment.get(name):
        raise SettingsError(f"{where}: the environment variable {name} is not set or empty; set it where the job runs.")
    return environment[name]
