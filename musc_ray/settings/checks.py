"""Checks of single settings beyond their types; each returns the value or raises ValueError with a whole sentence."""

import re
import unicodedata
from collections import Counter
from difflib import get_close_matches
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from pydantic import ValidationInfo

from musc_ray.core import MAX_DEGREE
from musc_ray.settings.columns import parse_columns
from musc_ray.settings.credentials import credentials_sentence, has_credentials
from musc_ray.settings.messages import shown

if TYPE_CHECKING:
    from musc_ray.settings.model import Settings

WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
RUN_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")


def check_text(value: str | None, info: ValidationInfo) -> str | None:
    """Refuse credentials (run.json stores every setting), empty text, and characters that a path cannot hold."""
    if value is None:
        return None
    # group_by is a pattern, not a location: "token=(.*)" is fine there
    if info.field_name != "group_by" and has_credentials(value):
        raise ValueError(credentials_sentence(f"Setting '{info.field_name}'"))
    if not value.strip():
        raise ValueError(f"Setting '{info.field_name}' is empty: give it a value or leave it out.")
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in value):
        raise ValueError(f"Setting '{info.field_name}' holds control characters, take them out: {shown(value)}.")
    return value


def check_out(value: str | None) -> str | None:
    """Refuse a web server, which cannot be written to."""
    if value is not None and value.lower().startswith(("http://", "https://")):
        raise ValueError(
            f"Setting 'out' cannot be on a web server ({shown(value)}): use a folder, s3://, gs://, az://."
        )
    return value


def check_weights(value: str | None) -> str | None:
    """Refuse a file whose suffix is not that of weights."""
    if value is None:
        return None
    suffix = PurePosixPath(value.partition("?")[0]).suffix.lower()
    if suffix not in WEIGHT_SUFFIXES:
        near = get_close_matches(suffix, WEIGHT_SUFFIXES, n=1, cutoff=0.5)
        end = f": did you mean '{near[0]}'?" if near else "."
        raise ValueError(f"Setting 'weights' must end in {', '.join(WEIGHT_SUFFIXES)}, not {shown(value)}{end}")
    return value


def check_column(value: str | None) -> str | None:
    """Refuse what names no columns."""
    parse_columns(value)
    return value


def check_run_id(value: str | None) -> str | None:
    """Refuse a name that cannot be a folder on every storage."""
    if value is None or RUN_ID.fullmatch(value):
        return value
    near = re.sub(r"[^A-Za-z0-9._-]+", "-", value).lstrip(".")[:64]
    end = f": did you mean '{near}'?" if near else "."
    raise ValueError(
        f"Setting 'run_id' must be up to 64 letters, digits, '.', '_' or '-', without a leading '.', "
        f"not {shown(value)}{end}"
    )


def check_distinct(values: tuple[int, ...] | None, info: ValidationInfo) -> tuple[int, ...] | None:
    """Refuse repeated values; sort them, since they are averaged over and their order must not change any id."""
    if values is None:
        return None
    for value, times in Counter(values).items():
        if times > 1:
            raise ValueError(f"Setting '{info.field_name}' repeats {value} in {shown(values)}: give it once.")
    return tuple(sorted(values))


def check_degrees(values: tuple[int, ...]) -> tuple[int, ...]:
    """Refuse even degrees, which have no centre, and those beyond what the kernels reach."""
    for value in values:
        if value % 2 == 0:
            raise ValueError(
                f"Setting 'degrees' must be odd, not {value} in {shown(values)}: use {value - 1} or {value + 1}."
            )
        if value > MAX_DEGREE:
            raise ValueError(f"Setting 'degrees' holds {value}, larger than {MAX_DEGREE}: use smaller ones.")
    return values


def check_intensity(value: str | tuple[float, float]) -> str | tuple[float, float]:
    """Refuse a range that does not ascend."""
    if isinstance(value, tuple) and value[0] >= value[1]:
        low, high = value
        end = f": did you mean {high:g},{low:g}?" if low > high else ": for example 0,4095."
        raise ValueError(f"Setting 'intensity' must go from a lower to a higher number, not {low:g},{high:g}{end}")
    return value


def check_interval(value: tuple[float, float]) -> tuple[float, float]:
    """Refuse an interval that does not ascend."""
    low, high = value
    if low >= high:
        end = f": did you mean {high},{low}?" if low > high else ": for example 0,0.3."
        raise ValueError(f"Setting 'interval' must go from a lower to a higher number, not {low},{high}{end}")
    return value


def check_together(settings: "Settings") -> None:
    """Refuse values that are possible alone but not together."""
    if settings.device == "cpu" and settings.precision == "float16":
        raise ValueError(
            "Settings 'precision' float16 and 'device' cpu do not go together, since CPUs have no fast float16 "
            "products: use bfloat16 or float32."
        )
    if settings.matching == "anywhere" and settings.radius is not None:
        raise ValueError(
            f"Setting 'radius' {settings.radius} is for 'matching' near or auto, not anywhere: give one of them, or "
            "leave it out."
        )
    if settings.crop_references != "auto" and settings.crops == "none":
        raise ValueError(
            f"Setting 'crop_references' {settings.crop_references} is for images that are cut, but 'crops' is none: "
            "give crops auto, or leave it out."
        )
    if settings.repeated_defects and settings.crops != "none":
        raise ValueError(
            "Settings 'repeated_defects' and 'crops' do not go together yet: defects that repeat are found in whole "
            "images; leave one of them out."
        )
    if settings.matching == "near" and settings.crop_references == "all":
        raise ValueError(
            "Settings 'matching' near and 'crop_references' all exclude each other, since patches near the same place "
            "are in the same crop: use crop_references same, or matching anywhere."
        )
    if settings.refit and settings.compress == "none":
        raise ValueError(
            f"Setting 'refit' {settings.refit} finds the directions of compressed features anew, but 'compress' is "
            "none: give compress auto or a number, or refit 0."
        )
    if settings.threshold is not None and settings.contamination is not None:
        raise ValueError(
            f"Settings 'threshold' {settings.threshold:g} and 'contamination' {settings.contamination:g} exclude each "
            "other: give one of them, and set the other to null if a settings file has it."
        )
    if settings.source is not None and settings.out is not None:
        from musc_ray.sources.overlap import lists_out  # here: it imports the readers of all kinds of sources

        if lists_out(settings.source, settings.out):
            raise ValueError(
                f"Settings 'source' {shown(settings.source)} and 'out' {shown(settings.out)} overlap, and the run's "
                "own files would be listed as images: choose an out outside the source."
            )
