"""Options of the command line, generated from the settings: name, type, default, meaning, and the panel of `--help`."""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, get_args, get_origin

import typer

from musc_ray.cli.verbs import Uses
from musc_ray.errors import SettingsError
from musc_ray.settings.affects import Effect, affects_of
from musc_ray.settings.loading import load_settings
from musc_ray.settings.model import Settings

PANELS: Mapping[Effect, str] = {
    "night": "Nightly runs: what is scored, and when to warn",
    "source": "Images: which belong to a run, and how they are grouped",
    "features": "Features: what is computed from each image",
    "scores": "Scores: how images score each other",
    "evaluate": "Evaluation: what scores and maps are compared with",
    "benchmark": "Benchmark: the paper's protocol",
    "report": "Report: what is marked and shown",
    "publish": "Iceberg tables",
    "output": "Output",
    "run": "This run",
    "extraction": "Extraction: speed and memory, never values",
    "scoring": "Scoring: speed and memory, never values",
    "runtime": "Machines: workers and their shares, never values",
}
"""Panels of `--help` in their order, by what a setting affects; a setting stands in that of its first effect."""

NOT = "no_"
"""Prefix of the parameter that says no to a flag."""


def with_settings(uses: Uses) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a verb the options of the settings that it uses.

    The verb is a function of the settings, its first parameter, and of parameters of its own, which Typer reads.
    """

    def decorate(verb: Callable[..., None]) -> Callable[..., None]:
        names = [*uses.positional, *uses.options]

        def command(**values: Any) -> None:
            given = {name: value for name in names if (value := _value(name, values)) is not None}
            set_options = values.pop("set_options") or []
            if uses.only:
                _refuse_others(verb.__name__, set_options, names)
            mappings = [f"{name}={given.pop(name)}" for name in [*given] if metavar(name) == "MAPPING"]
            verb(load_settings(values.pop("config"), given, [*mappings, *set_options]), **values)

        own = list(inspect.signature(verb).parameters.values())[1:]
        parameters = [
            *(_argument(name, text) for name, text in uses.positional.items()),
            *own,
            *COMMON,
            *(parameter for name in uses.options for parameter in _options(name)),
        ]
        command.__name__, command.__doc__, command.__module__ = verb.__name__, verb.__doc__, verb.__module__
        command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
        )
        command.__annotations__ = {}
        return command

    return decorate


def options_of(uses: Uses) -> list[str]:
    """Return the settings that are options of a verb, by panel."""

    def takes(name: str) -> bool:
        of_setting = {*effects(name)}
        if name in (*uses.positional, *uses.but) or of_setting & {*uses.but_kinds}:
            return False
        return name in uses.also or bool(of_setting & {*uses.kinds})

    return sorted(filter(takes, Settings.model_fields), key=lambda name: list(PANELS).index(panel_of(name)))


def effects(name: str) -> tuple[Effect, ...]:
    """What a setting affects."""
    return affects_of(Settings.model_fields[name]).effects


def panel_of(name: str) -> Effect:
    """The key of the panel that a setting stands in."""
    return effects(name)[0]


def option_name(name: str) -> str:
    """The option of a setting: --shard-size."""
    return f"--{name.replace('_', '-')}"


def default_text(name: str) -> str | None:
    """The default of a setting as a user would write it; None where its description says what happens without it."""
    value = Settings.model_fields[name].default
    if value is None:
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(f"{part:g}" for part in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def metavar(name: str) -> str:
    """What stands for the value of a setting in `--help`: TEXT, CHOICE, N, N|all, X, LIST or MAPPING."""
    if choices(name):
        return "CHOICE"
    annotation = Settings.model_fields[name].annotation
    words = [word for part in get_args(annotation) if get_origin(part) is Literal for word in get_args(part)]
    signs = {"tuple": "LIST", "Literal": "|".join(["N", *words]), "int": "N", "float": "X", "Lake": "MAPPING"}
    return next((sign for part, sign in signs.items() if part in str(annotation)), "TEXT")


def choices(name: str) -> tuple[str, ...]:
    """The values that a setting can have, where they are few."""
    kind = Settings.model_fields[name].annotation
    return tuple(map(str, get_args(kind))) if get_origin(kind) is Literal else ()


def is_flag(name: str) -> bool:
    """Whether a setting is true or false."""
    return Settings.model_fields[name].annotation is bool


def help_text(name: str) -> str:
    """The description of a setting with its possible values and its default, as Markdown."""
    text, default = Settings.model_fields[name].description or "", default_text(name)
    if len(choices(name)) > 1:
        text += f" One of {', '.join(choices(name))}."
    if is_flag(name):
        text = f"Turn off: {text}" if default == "true" else text
    elif default is not None:
        text += f" [default: {default}]"
    return re.sub(r"([<*_])", r"\\\1", text)


def _value(name: str, values: dict[str, Any]) -> object:
    """Take the value that a setting's options were given out of `values`; None means not given."""
    value = values.pop(name)
    if not is_flag(name):
        return value
    denied = values.pop(f"{NOT}{name}")
    if value and denied:
        raise SettingsError(f"Options {option_name(name)} and --no-{option_name(name)[2:]} exclude each other.")
    return True if value else False if denied else None


def _argument(name: str, text: str | None) -> inspect.Parameter:
    info = typer.Argument(help=text or help_text(name), metavar=name.upper(), show_default=False)
    return _parameter(name, Annotated[str | None, info], None)


def _options(name: str) -> list[inspect.Parameter]:
    """Return the option of a setting; of a flag two, of which `--help` shows the one that differs from the default."""
    panel, option = PANELS[panel_of(name)], option_name(name)
    if not is_flag(name):
        info = typer.Option(
            option, help=help_text(name), rich_help_panel=panel, show_default=False, metavar=metavar(name)
        )
        return [_parameter(name, Annotated[str | None, info], None)]
    default = Settings.model_fields[name].default
    both = {f"{NOT}{name}": (f"--no-{option.removeprefix('--')}", default), name: (option, not default)}
    return [
        _parameter(
            key,
            Annotated[
                bool,
                typer.Option(
                    flag, help=help_text(name), rich_help_panel=panel, show_default=False, metavar=" ", hidden=not shown
                ),
            ],
            False,
        )
        for key, (flag, shown) in both.items()
    ]


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


COMMON = (
    _parameter(
        "config",
        Annotated[
            str | None, typer.Option("--config", help="YAML file with settings.", metavar="PATH", show_default=False)
        ],
        None,
    ),
    _parameter(
        "set_options",
        Annotated[
            list[str] | None,
            typer.Option(
                "--set",
                help="Any setting as key=value; may be repeated. `musc-ray settings` lists them.",
                metavar="KEY=VALUE",
                show_default=False,
            ),
        ],
        None,
    ),
)
"""Options of every verb that takes settings."""


def _refuse_others(verb: str, set_options: Sequence[str], names: Sequence[str]) -> None:
    """Refuse settings that would change nothing.

    Raises:
        SettingsError: names the setting and those that the verb uses.
    """
    for option in set_options:
        name = option.partition("=")[0].strip()
        if name in Settings.model_fields and name not in names:
            raise SettingsError(f"Setting '{name}' has no effect on `musc-ray {verb}`; these have: {', '.join(names)}.")
