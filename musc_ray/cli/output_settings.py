"""Output of `settings`: every setting with its option, type, default, meaning, what it affects, and the verbs."""

import re
import textwrap
from typing import Any, Literal, get_args, get_origin

from musc_ray.cli.app import VERBS
from musc_ray.cli.options import PANELS, default_text, effects, option_name, panel_of
from musc_ray.cli.output import escape, stdout_console
from musc_ray.settings.model import Settings

INDENT = " " * 4


def settings_document() -> list[dict[str, Any]]:
    """Return what `musc-ray settings --json` says, in the order of the settings."""
    return [
        {
            "name": name,
            "option": option_name(name),
            "type": _type_text(name),
            "default": _json_ready(field.default),
            "meaning": field.description,
            "affects": list(effects(name)),
            "verbs": _verbs_of(name),
        }
        for name, field in Settings.model_fields.items()
    ]


def print_settings() -> None:
    """Print all settings by what they affect; no line needs more than the terminal's width."""
    console = stdout_console()
    documents = settings_document()
    for kind, title in PANELS.items():
        console.print(f"[bold underline]{escape(title)}[/]")
        for document in documents:
            name = document["name"]
            if panel_of(name) != kind:
                continue
            default = default_text(name)
            console.print(f"[bold]{name}[/]{'' if default is None else escape(f' = {default}')}", highlight=False)
            affected = f"{document['type'].capitalize()}. Affects {', '.join(document['affects'])}."
            for text in (document["meaning"], affected):
                lines = textwrap.fill(text, console.width, initial_indent=INDENT, subsequent_indent=INDENT)
                console.print(escape(lines), highlight=False)
        console.print()


def _type_text(name: str) -> str:
    """Return what a setting's value must be."""
    field = Settings.model_fields[name]
    if get_origin(field.annotation) is Literal:
        return "one of " + ", ".join(map(str, get_args(field.annotation)))
    extra: Any = field.json_schema_extra
    return re.sub(r" \(.*\)", "", str(extra["expects"]))


def _verbs_of(name: str) -> list[str]:
    """Return the verbs that take a setting as an option or argument."""
    verbs = [verb for panel in VERBS.values() for verb in panel]
    uses = {verb.__name__: getattr(verb, "uses", None) for verb in verbs}
    return [verb for verb, used in uses.items() if used and name in (*used.positional, *used.options)]


def _json_ready(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
