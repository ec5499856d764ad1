"""What the value of a setting must be, and one sentence, never repeating a secret, for what is wrong with it."""

import datetime
import re
import reprlib
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Annotated, Any, Literal, get_args, get_origin
from urllib.parse import unquote

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
from pydantic.fields import FieldInfo

LARGEST = 2**63 - 1

CREDENTIALS = re.compile(
    r"""
      ://[^/@\s:]*:(?!\d{1,5}(?:/|$))[^@]*@   # scheme://key:secret@host; not the port of http://host:8080/a@b
    | https?://[^/@\s]+@                      # https://token@host
    | (?:password|passwd|passphrase|pwd|secret|token|credentials?|signature|connection_?string
        |(?:account|access|api|shared|private|secret)[-_]?key(?:[-_]?id)?)\s*=
    | [?&;](?:sig|key|auth)=                  # signed URLs
    """,
    re.IGNORECASE | re.VERBOSE,
)


def _whole_from_text(value: object) -> object:
    """The command line's "518" is 518; anything else goes on as it is to the strict check."""
    try:
        return int(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _real_from_text(value: object) -> object:
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _flag_from_text(value: object) -> object:
    return {"true": True, "false": False}.get(value.lower(), value) if isinstance(value, str) else value


def _tuple_from_list(value: object) -> object:
    """A list, the text "1,3,5" or a single number, as a tuple."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(","))
    if isinstance(value, list):
        return tuple(value)
    return (value,) if isinstance(value, int | float) else value


def expects(phrase: str) -> Any:
    """What the field's value must be; completes "Setting 'x' must be ..."."""
    return Field(json_schema_extra={"expects": phrase})


def _text_from_date(value: object) -> object:
    """YAML reads an unquoted 2026-11-23 as a date."""
    return value.isoformat() if type(value) is datetime.date else value


def _is_day(value: str) -> str:
    try:
        datetime.date.fromisoformat(value)
    except ValueError as error:
        raise ValueError(f"Setting 'since' must be a day such as 2026-11-23, not {value!r}.") from error
    return value


_WHOLE = BeforeValidator(_whole_from_text)
_Natural = Annotated[int, _WHOLE, Field(ge=0, le=LARGEST)]
_Positive = Annotated[int, _WHOLE, Field(ge=1, le=LARGEST)]
_Fraction = Annotated[float, BeforeValidator(_real_from_text), Field(ge=0, le=1, allow_inf_nan=False)]
_TUPLE = BeforeValidator(_tuple_from_list)

Text = Annotated[str, expects("text")]
OptionalText = Annotated[str | None, expects("text (in quotes where YAML would read a number or a date)")]
Flag = Annotated[bool, BeforeValidator(_flag_from_text), expects("true or false")]
Natural = Annotated[_Natural, expects("a whole number of at least 0")]
Count = Annotated[_Positive, expects("a whole number of at least 1")]
OptionalCount = Annotated[_Positive | None, expects("a whole number of at least 1")]
Fraction = Annotated[_Fraction, expects("a number from 0 to 1")]
OptionalScore = Annotated[
    Annotated[float, BeforeValidator(_real_from_text), Field(ge=0, allow_inf_nan=False)] | None,
    expects("a number of at least 0"),
]
OptionalShare = Annotated[
    Annotated[float, BeforeValidator(_real_from_text), Field(gt=0, lt=1, allow_inf_nan=False)] | None,
    expects("a number between 0 and 1, for example 0.05"),
]
Positive = Annotated[
    Annotated[float, BeforeValidator(_real_from_text), Field(gt=0, allow_inf_nan=False)],
    expects("a number above 0"),
]
Since = Annotated[
    Annotated[str, BeforeValidator(_text_from_date), Field(pattern=r"^\d{4}-\d\d-\d\d$"), AfterValidator(_is_day)]
    | None,
    expects("a day such as 2026-11-23"),
]
Days = Annotated[Annotated[str, Field(pattern=r"^[1-9]\d{0,5}d$")] | None, expects("a number of days such as 30d")]
Counts = Annotated[
    tuple[_Positive, ...], _TUPLE, Field(min_length=1), expects("whole numbers of at least 1, for example 1,3,5")
]
Layers = Annotated[
    Annotated[tuple[_Natural, ...], _TUPLE, Field(min_length=1)] | None,
    expects("layer numbers from 0, for example 5,11,17,23"),
]
Size = Annotated[
    _Positive | Annotated[tuple[_Positive, _Positive], _TUPLE] | None,
    expects("a whole number of pixels or height,width, for example 518 or 392,518"),
]
Interval = Annotated[tuple[_Fraction, _Fraction], _TUPLE, expects("two numbers from 0 to 1, for example 0,0.3")]
References = Annotated[Literal["all"] | _Positive, expects("'all' or a whole number of at least 1")]
Aggregation = Literal["lnamd", "snamd"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]
Device = Literal["auto", "cpu", "cuda"]
ReportImages = Annotated[int, _WHOLE, Field(ge=0, le=1000), expects("a whole number from 0 to 1000")]


def has_credentials(text: str) -> bool:
    """Whether a path or URI carries a password, key or token: user info, query string or `password=...`."""
    return any(CREDENTIALS.search(form) for form in (text, unquote(text)))


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
    """A value as the user would write it, cut to a line; strings that carry credentials are hidden."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return _Shown().repr(list(value) if isinstance(value, tuple) else value)


def credentials_sentence(what: str) -> str:
    """Refusal of a value that carries credentials; `what` names it without repeating it."""
    return (
        f"{what} carries credentials: take them out of it and give them in the environment "
        "(AWS_ACCESS_KEY_ID, GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_ACCOUNT_KEY, ...)."
    )


def unknown_setting(key: object, names: Iterable[str]) -> str:
    """Refusal of a key that is no setting, with the nearest name, or all of them where none is near."""
    spelled = key[:64].lower().replace("-", "_") if isinstance(key, str) else ""
    near = get_close_matches(spelled, names, n=1)
    if near:
        return f"Unknown setting {shown(key)}: did you mean '{near[0]}'?"
    return f"Unknown setting {shown(key)}: the settings are {', '.join(sorted(names))}."


def validation_sentences(
    error: ValidationError, given: Mapping[str, object], fields: Mapping[str, FieldInfo]
) -> list[str]:
    """One sentence for each setting that pydantic refused, in the order of the fields.

    Args:
        error: what `Settings.model_validate(given)` raised.
        given: the values it was given.
        fields: `Settings.model_fields`.
    """
    by_key: dict[object, list[Any]] = {}
    for problem in error.errors(include_url=False, include_input=False):
        by_key.setdefault(problem["loc"][0] if problem["loc"] else None, []).append(problem)
    return [_sentence(key, problems, given, fields) for key, problems in by_key.items()]


def _sentence(key: Any, problems: list[Any], given: Mapping[str, object], fields: Mapping[str, FieldInfo]) -> str:
    for problem in problems:
        if problem["type"] == "value_error":  # raised by a validator of Settings: a whole sentence already
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
    """The bound that a single number broke."""
    for problem in problems:
        bound = problem.get("ctx", {}).get("ge", problem.get("ctx", {}).get("le"))
        inside_list = any(isinstance(part, int) for part in problem["loc"])
        if bound is not None and not inside_list:
            return f": the nearest is {bound:g}" if isinstance(bound, float) else f": the nearest is {bound}"
    return ""


def first_of(sentences: list[str]) -> str:
    """The first sentence, and how many more there are."""
    more = len(sentences) - 1
    if more == 0:
        return sentences[0]
    return f"{sentences[0]} ({more} more {'problem' if more == 1 else 'problems'} after this one)"
