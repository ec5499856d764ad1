"""Error messages for settings: one sentence for each problem, never repeating a secret."""

import datetime
import reprlib
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any, Literal, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from musc_ray.settings.credentials import has_credentials


class _Shown(reprlib.Repr):
    """Short representation of a value; a string with credentials is hidden wherever it stands in it."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = 120

    def repr_str(self, x: str, level: int) -> str:
        return "(hidden: it carries credentials)" if has_credentials(x) else super().repr_str(x, level)

    def repr_int(self, x: int, level: int) -> str:
        # Python refuses to write integers of more than 4300 digits
        return super().repr_int(x, level) if x.bit_length() < 10_000 else f"a number of {x.bit_length()} bits"

    def repr_date(self, x: datetime.date, level: int) -> str:
        return f"the date {x}"

    def repr_datetime(self, x: datetime.datetime, level: int) -> str:
        return f"the time {x}"


def shown(value: object) -> str:
    """Format a value as the user would write it, cut to a line; hide strings that carry credentials."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return _Shown().repr(list(value) if isinstance(value, tuple) else value)


def unknown_setting(key: object, names: Iterable[str]) -> str:
    """Refuse a key that is not a setting; name the nearest setting, or all of them."""
    spelled = key[:64].lower().replace("-", "_") if isinstance(key, str) else ""
    near = get_close_matches(spelled, names, n=1)
    if near:
        return f"Unknown setting {shown(key)}: did you mean '{near[0]}'?"
    return f"Unknown setting {shown(key)}: the settings are {', '.join(sorted(names))}."


def validation_sentences(
    error: ValidationError, given: Mapping[str, object], fields: Mapping[str, FieldInfo]
) -> list[str]:
    """Write one sentence for each setting that pydantic refused, in the order of the fields.

    Args:
        error: raised by `Settings.model_validate(given)`.
        given: the refused values.
        fields: `Settings.model_fields`.
    """
    by_key: dict[object, list[Any]] = {}
    for problem in error.errors(include_url=False, include_input=False):
        by_key.setdefault(problem["loc"][0] if problem["loc"] else None, []).append(problem)
    return [_sentence(key, problems, given, fields) for key, problems in by_key.items()]


def _sentence(key: Any, problems: list[Any], given: Mapping[str, object], fields: Mapping[str, FieldInfo]) -> str:
    for problem in problems:
        if problem["type"] == "value_error":  # raised by a validator of Settings, as a whole sentence
            return str(problem["ctx"]["error"])
    value, field = given[key], fields[key]
    if get_origin(field.annotation) is Literal:
        allowed = get_args(field.annotation)
        near = get_close_matches(value.lower(), allowed, n=1, cutoff=0.4) if isinstance(value, str) else []
        end = f": did you mean '{near[0]}'?" if near else "."
        return f"Setting {key} {shown(value)} is not one of {', '.join(allowed)}{end}"
    extra: Any = field.json_schema_extra  # set by expects
    return f"Setting '{key}' must be {extra['expects']}, not {shown(value)}{_nearest(problems)}."


def _nearest(problems: list[Any]) -> str:
    """Name the bound that a single number broke."""
    for problem in problems:
        bound = problem.get("ctx", {}).get("ge", problem.get("ctx", {}).get("le"))
        inside_list = any(isinstance(part, int) for part in problem["loc"])
        if bound is not None and not inside_list:
            return f": the nearest is {bound:g}" if isinstance(bound, float) else f": the nearest is {bound}"
    return ""


def first_of(sentences: list[str]) -> str:
    """Return the first sentence, and the number of further ones."""
    more = len(sentences) - 1
    if more == 0:
        return sentences[0]
    return f"{sentences[0]} ({more} more {'problem' if more == 1 else 'problems'} after this one)"
