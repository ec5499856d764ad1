"""Options that several verbs of the command line share, their settings, and errors as one sentence."""

import os
from collections.abc import Callable
from enum import StrEnum
from functools import wraps
from typing import Annotated, Any

import click
import typer

from musc_ray.errors import MuscRayError, SettingsError
from musc_ray.settings.credentials import redacted
from musc_ray.settings.loading import load_settings
from musc_ray.settings.model import Settings
from musc_ray.storage.retry import as_storage_error, is_storage_fault

Source = Annotated[
    str | None, typer.Argument(help="Folder, URI prefix, glob, or a Parquet/CSV table with a `uri` column.")
]
Out = Annotated[str | None, typer.Argument(help="Folder or URI where features, scores and reports go.")]
Config = Annotated[str | None, typer.Option("--config", help="YAML file with settings.")]
Backbone = Annotated[str | None, typer.Option(help="`open_clip:MODEL/TAG`, `timm:MODEL` or an alias.")]
Weights = Annotated[str | None, typer.Option(help="safetensors or pth file, path or URI; without it the model hub.")]
ImageSize = Annotated[str | None, typer.Option(help="Model input in pixels: 518, or H,W.")]
Layers = Annotated[str | None, typer.Option(help="0-based layers, such as 5,11,17,23.")]
Degrees = Annotated[str | None, typer.Option(help="Neighbourhood sizes, such as 1,3,5.")]
Aggregation = Annotated[str | None, typer.Option(help="`lnamd` (plain means) or `snamd` (weighted, one vector).")]
References = Annotated[str | None, typer.Option(help="`all`, or how many images each is scored against.")]
GroupBy = Annotated[str | None, typer.Option(help="Path template `{group}/**` or a regular expression.")]
ShardSize = Annotated[str | None, typer.Option(help="Images a shard.")]
Precision = Annotated[str | None, typer.Option(help="auto, float32, bfloat16 or float16.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu or cuda.")]
Workers = Annotated[str | None, typer.Option(help="Actors of a stage: one a GPU, or one a CPU core.")]
Address = Annotated[str | None, typer.Option(help="Ray cluster; without it one is started for the command.")]
RunId = Annotated[str | None, typer.Option(help="Name of the run; otherwise made from settings and images.")]
Threshold = Annotated[str | None, typer.Option(help="Images with at least this score are anomalous.")]
Contamination = Annotated[str | None, typer.Option(help="Share of each group that is anomalous, such as 0.05.")]
RepeatedDefects = Annotated[
    bool | None, typer.Option("--repeated-defects", help="Find defects that many images share.", show_default=False)
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Compute again what is already done.")]
SetOptions = Annotated[list[str] | None, typer.Option("--set", help="Any setting as key=value; may be repeated.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Show no progress.")]

STOPPED = "Error: Stopped: what is written stays, and the same command goes on from there."


class HeatmapFormat(StrEnum):
    """What `heatmaps` writes."""

    PNG = "png"
    NPY = "npy"
    TIFF = "tiff"


def readable_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Turn errors a user can act on into one sentence and the right exit code."""

    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except MuscRayError as error:
            cause = getattr(error, "cause", error)  # raised in an actor, Ray wraps it and adds a traceback
            typer.echo(f"Error: {redacted(str(cause))}", err=True)
            raise typer.Exit(2 if isinstance(cause, SettingsError) else 1) from error
        except KeyboardInterrupt as error:
            typer.echo(STOPPED, err=True)
            raise typer.Exit(1) from error
        except (typer.Exit, click.ClickException):
            raise
        except Exception as error:
            if is_storage_fault(error):
                typer.echo(f"Error: {redacted(str(as_storage_error(error)))}", err=True)
                raise typer.Exit(1) from error
            if os.environ.get("MUSC_RAY_DEBUG"):
                raise
            reason = " ".join(redacted(str(error)).split()).rstrip(".")
            typer.echo(f"Error: {type(error).__name__}: {reason}. MUSC_RAY_DEBUG=1 shows where.", err=True)
            raise typer.Exit(1) from error

    return wrapped


def settings_of(options: dict[str, Any]) -> Settings:
    """The settings that a verb was given: --set over its options that are settings, over --config.

    Args:
        options: the verb's parameters by name; None and False mean not given.
    """
    given = {name: value for name, value in options.items() if name in Settings.model_fields and value is not False}
    return load_settings(options.get("config"), given, options.get("set_options") or ())
