"""Verbs of the command as the list of them needs: names, help texts, which settings they use. Their options come later.

The options are made from the settings, whose model takes a fifth of a second to import: `--help` and `--version` do
without.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal, TypeVar

import typer
from typer.core import TyperCommand

from musc_ray.settings.affects import Effect

Function = TypeVar("Function", bound=Callable[..., None])

Quiet = Annotated[bool, typer.Option("--quiet", help="Show no progress.", metavar=" ", show_default=False)]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON document and nothing else.", metavar=" ", show_default=False)
]

EARLIER_RUNS = "The OUT of earlier runs."


MARKUP: Literal["markdown"] = "markdown"
"""How help texts are written."""


@dataclass(frozen=True)
class Uses:
    """The settings that a verb can use: those that affect one of `kinds`, or are named.

    Attributes:
        kinds: keys of PANELS.
        also: further settings by name.
        but: settings that the verb cannot use although they affect one of `kinds`.
        but_kinds: settings that affect one of these are not used, either.
        arguments: settings that are given by position, with their help; None takes the setting's description.
        only: whether a `--set` of another setting is refused, rather than taken as part of a job's settings.
    """

    kinds: Sequence[Effect]
    also: Sequence[str] = ()
    but: Sequence[str] = ()
    but_kinds: Sequence[Effect] = ()
    arguments: Mapping[str, str | None] | None = None
    only: bool = False

    @property
    def positional(self) -> Mapping[str, str | None]:
        """The settings that are given by position."""
        return {"source": None, "out": None} if self.arguments is None else self.arguments

    @property
    def options(self) -> list[str]:
        """The settings that are options, by panel."""
        from musc_ray.cli.options import options_of

        return options_of(self)


def uses_settings(uses: Uses) -> Callable[[Function], Function]:
    """Declare which settings a verb uses, a function whose first parameter is the settings: it gets their options."""

    def declare(verb: Function) -> Function:
        verb.uses = uses  # type: ignore[attr-defined]
        return verb

    return declare


class Verb(TyperCommand):
    """A verb of the command, whose options are made when it is called or its help is asked for.

    Args:
        verb: what it does: a function of settings and options, or of options alone.
        panel: where it stands in the list of verbs.
    """

    def __init__(self, verb: Callable[..., None], panel: str) -> None:
        self.verb = verb
        super().__init__(verb.__name__, help=inspect.getdoc(verb), rich_help_panel=panel, rich_markup_mode=MARKUP)

    @cached_property
    def _made(self) -> Any:
        """The verb with its options."""
        verb, uses = self.verb, getattr(self.verb, "uses", None)
        if uses is not None:
            from musc_ray.cli.options import with_settings

            verb = with_settings(uses)(verb)
        alone = typer.Typer(add_completion=False, rich_markup_mode=MARKUP)
        alone.command()(verb)
        return typer.main.get_command(alone)

    @property
    def params(self) -> Any:
        """Arguments and options."""
        return self._made.params

    @params.setter
    def params(self, given: Any) -> None:
        """Ignore what the base class sets: nothing."""

    @property
    def callback(self) -> Any:
        """What is called with the values of `params`."""
        return self._made.callback

    @callback.setter
    def callback(self, given: Any) -> None:
        """Ignore what the base class sets: nothing."""
