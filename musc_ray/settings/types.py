"""Types of the settings: what a value must be, and how command-line text becomes one."""

import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from musc_ray.settings.crops import EXPECTED, crops_text

MAX_NUMBER = 2**63 - 1


def _whole_from_text(value: object) -> object:
    """Convert text such as "518" from the command line; leave other values to the strict check."""
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
    """Convert a list, the text "1,3,5" or a single number to a tuple."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(","))
    if isinstance(value, list):
        return tuple(value)
    return (value,) if isinstance(value, int | float) else value


def expects(phrase: str) -> Any:
    """Describe the values of a field; completes "Setting 'x' must be ..."."""
    return Field(json_schema_extra={"expects": phrase})


def _text_from_date(value: object) -> object:
    """Convert a date, which is what YAML reads an unquoted 2026-11-23 as."""
    return value.isoformat() if type(value) is datetime.date else value


def _is_day(value: str) -> str:
    try:
        datetime.date.fromisoformat(value)
    except ValueError as error:
        raise ValueError(f"Setting 'since' must be a day such as 2026-11-23, not {value!r}.") from error
    return value


_WHOLE = BeforeValidator(_whole_from_text)
_Natural = Annotated[int, _WHOLE, Field(ge=0, le=MAX_NUMBER)]
_Positive = Annotated[int, _WHOLE, Field(ge=1, le=MAX_NUMBER)]
_Fraction = Annotated[float, BeforeValidator(_real_from_text), Field(ge=0, le=1, allow_inf_nan=False)]
_Real = Annotated[float, BeforeValidator(_real_from_text), Field(allow_inf_nan=False)]
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
Intensity = Annotated[
    Literal["auto", "full", "percentile"] | Annotated[tuple[_Real, _Real], _TUPLE],
    expects("auto, full, percentile or two numbers, for example 0,4095"),
]
Compress = Annotated[Literal["none", "auto"] | _Positive, expects("none, auto or a whole number of at least 1")]
Crops = Annotated[str, BeforeValidator(crops_text), expects(EXPECTED)]
CropReferences = Literal["auto", "same", "all"]
FeatureDtype = Literal["auto", "float16", "int8"]
References = Annotated[Literal["all"] | _Positive, expects("'all' or a whole number of at least 1")]
Aggregation = Literal["lnamd", "snamd"]
Matching = Literal["anywhere", "near", "auto"]
ForegroundRule = Literal["none", "auto"]
Rescoring = Literal["rscin", "rscon", "none"]
Precision = Literal["auto", "float32", "bfloat16", "float16", "int8"]
ModelPrecision = Literal["auto", "float32", "bfloat16", "float16"]
Device = Literal["auto", "cpu", "cuda"]
ExecutorName = Literal["auto", "process", "ray"]
ReportImages = Annotated[int, _WHOLE, Field(ge=0, le=1000), expects("a whole number from 0 to 1000")]
