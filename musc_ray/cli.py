"""The command line: one verb a thing a user wants, settings from YAML and options, errors as one sentence."""

import signal
import sys
from collections.abc import Callable, Sequence
from enum import StrEnum
from functools import wraps
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Column, Table

from musc_ray.config import Settings, load_settings
from musc_ray.errors import MuscRayError, SettingsError
from musc_ray.progress import Progress

app = typer.Typer(
    name="musc-ray",
    help="Find defects in large archives of unlabeled industrial images: images of one product score each other.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)

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
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Compute again what is already done.")]
SetOptions = Annotated[list[str] | None, typer.Option("--set", help="Any setting as key=value; may be repeated.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Show no progress.")]


class HeatmapFormat(StrEnum):
    """What `heatmaps` writes."""

    PNG = "png"
    NPY = "npy"
    TIFF = "tiff"


def _readable_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Turn errors a user can act on into one sentence and the right exit code."""

    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except MuscRayError as error:
            cause = getattr(error, "cause", error)  # raised in an actor, Ray wraps it and adds a traceback
            typer.echo(f"Error: {cause}", err=True)
            raise typer.Exit(2 if isinstance(cause, SettingsError) else 1) from error
        except KeyboardInterrupt as error:
            typer.echo("Error: Stopped: what is written stays, and the same command goes on from there.", err=True)
            raise typer.Exit(1) from error

    return wrapped


def _settings(config: str | None, set_options: list[str] | None, overwrite: bool, **options: str | None) -> Settings:
    given: dict[str, object] = {name: value for name, value in options.items() if value is not None}
    if overwrite:
        given["overwrite"] = True
    return load_settings(config, given, set_options or ())


@app.command()
@_readable_errors
def run(
    source: Source = None,
    out: Out = None,
    config: Config = None,
    backbone: Backbone = None,
    weights: Weights = None,
    image_size: ImageSize = None,
    layers: Layers = None,
    degrees: Degrees = None,
    references: References = None,
    group_by: GroupBy = None,
    shard_size: ShardSize = None,
    precision: Precision = None,
    device: Device = None,
    address: Address = None,
    run_id: RunId = None,
    threshold: Threshold = None,
    contamination: Contamination = None,
    overwrite: Overwrite = False,
    set_options: SetOptions = None,
    quiet: Quiet = False,
) -> None:
    """Score every image of SOURCE and write scores and a report to OUT. Running it again resumes.

    Example: `musc-ray run photos/ results/ --backbone dinov2-vit-s-14 --weights vit_s.safetensors --image-size 224`
    """
    settings = _settings(
        config,
        set_options,
        overwrite,
        source=source,
        out=out,
        backbone=backbone,
        weights=weights,
        image_size=image_size,
        layers=layers,
        degrees=degrees,
        references=references,
        group_by=group_by,
        shard_size=shard_size,
        precision=precision,
        device=device,
        address=address,
        run_id=run_id,
        threshold=threshold,
        contamination=contamination,
    )
    from musc_ray.stages.run import run_archive
    from musc_ray.summary import print_result

    result = run_archive(settings, Progress(quiet=quiet))
    print_result(result, Console())
    if result.run["failed_groups"]:
        raise MuscRayError(" ".join(result.run["failed_groups"].values()))


@app.command()
@_readable_errors
def rescore(
    out: Annotated[str | None, typer.Argument(help="The OUT of earlier runs.")] = None,
    source: Annotated[str | None, typer.Option(help="Where images come in; default: the last run's source.")] = None,
    config: Config = None,
    new: Annotated[
        bool, typer.Option("--new", help="What no run has scored yet, or has changed: the default.")
    ] = False,
    since: Annotated[str | None, typer.Option(help="What came in or changed on or after this day (UTC).")] = None,
    window: Annotated[str | None, typer.Option(help="Against earlier images of so many days, such as 30d.")] = None,
    references: Annotated[str | None, typer.Option(help="Against `all` of them, or so many, seeded.")] = None,
    rescore_window: Annotated[bool, typer.Option("--rescore-window", help="The earlier ones get scores, too.")] = False,
    backbone: Backbone = None,
    weights: Weights = None,
    group_by: GroupBy = None,
    shard_size: ShardSize = None,
    precision: Precision = None,
    device: Device = None,
    address: Address = None,
    run_id: RunId = None,
    threshold: Threshold = None,
    contamination: Contamination = None,
    overwrite: Overwrite = False,
    set_options: SetOptions = None,
    quiet: Quiet = False,
) -> None:
    """Score what came in since the last run, against a window of earlier images. Other settings are the last run's.

    Example: `musc-ray rescore results/ --new --window 30d --references 512`
    """
    if new and since is not None:
        raise SettingsError("Give --new or --since, not both.")
    given = _settings(
        config,
        set_options,
        overwrite,
        source=source,
        out=out,
        since=since,
        window=window,
        references=references,
        rescore_window="true" if rescore_window else None,
        backbone=backbone,
        weights=weights,
        group_by=group_by,
        shard_size=shard_size,
        precision=precision,
        device=device,
        address=address,
        run_id=run_id,
        threshold=threshold,
        contamination=contamination,
    )
    from musc_ray.stages.nightly import night_settings, rescore_new
    from musc_ray.summary import print_night

    result, waiting = rescore_new(night_settings(given), Progress(quiet=quiet))
    print_night(result, waiting, Console())
    if result is not None and result.run["failed_groups"]:
        raise MuscRayError(" ".join(result.run["failed_groups"].values()))


@app.command()
@_readable_errors
def plan(
    source: Source = None,
    config: Config = None,
    backbone: Backbone = None,
    image_size: ImageSize = None,
    layers: Layers = None,
    degrees: Degrees = None,
    references: References = None,
    group_by: GroupBy = None,
    shard_size: ShardSize = None,
    precision: Precision = None,
    workers: Workers = None,
    gpu: Annotated[str | None, typer.Option(help="Plan for this kind of GPU, such as h100, a100 or l4.")] = None,
    set_options: SetOptions = None,
) -> None:
    """Say what a job on SOURCE will cost, from a look at some images and some seconds of measuring.

    Example: `musc-ray plan photos/ --references 256 --gpu h100 --workers 8`
    """
    settings = _settings(
        config,
        set_options,
        False,
        source=source,
        backbone=backbone,
        image_size=image_size,
        layers=layers,
        degrees=degrees,
        references=references,
        group_by=group_by,
        shard_size=shard_size,
        precision=precision,
        workers=workers,
    )
    from musc_ray.stages.plan import plan_archive
    from musc_ray.summary import print_plan

    print_plan(plan_archive(settings, gpu), settings.max_pending_gb, Console())


@app.command()
@_readable_errors
def status(out: Annotated[str, typer.Argument(help="The OUT of earlier runs.")]) -> None:
    """Say how far the runs in OUT are; also works while one is going on.

    Example: `musc-ray status results/`
    """
    from musc_ray.status import read_status

    under_way: list[str] = []
    table = Table(Column("run", no_wrap=True), "started", "images", "features", "bands", "state")
    for run_status in read_status(out):
        state = "complete" if run_status.complete else "not complete: the same command resumes it"
        table.add_row(
            run_status.run_id,
            run_status.started_at[:19].replace("T", " "),
            f"{run_status.images:,}",
            f"{run_status.shards_done:,} of {run_status.shards:,} shards",
            f"{run_status.bands_done:,} of {run_status.bands:,}",
            state,
        )
        if not run_status.complete and run_status.updated_at is not None:
            under_way += [f"Run {run_status.run_id} at {run_status.updated_at}:", *run_status.stages]
    Console().print(table)
    for line in under_way:
        typer.echo(line)


@app.command()
@_readable_errors
def heatmaps(
    out: Annotated[str, typer.Argument(help="The OUT of earlier runs.")],
    file_format: Annotated[HeatmapFormat, typer.Option("--format", help="Pictures, or float32 values.")],
    overlay: Annotated[bool, typer.Option("--overlay", help="Lay a png over the original.")] = False,
    top: Annotated[int | None, typer.Option(min=1, help="Only so many of the worst of each group.")] = None,
    group: Annotated[str | None, typer.Option(help="Only this group.")] = None,
    to: Annotated[str | None, typer.Option(help="Folder or URI; default: the run's own folder.")] = None,
    run_id: Annotated[str | None, typer.Option(help="Which run; default: the complete one scored last.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Write anew what is there.")] = False,
    address: Address = None,
    set_options: SetOptions = None,
    quiet: Quiet = False,
) -> None:
    """Write the patch maps of a run as files of the original images' sizes.

    Example: `musc-ray heatmaps results/ --format png --overlay --top 20`
    """
    settings = _settings(None, set_options, overwrite, out=out, address=address, run_id=run_id)
    from musc_ray.stages.heatmaps import HeatmapsOptions, export_heatmaps
    from musc_ray.summary import print_heatmaps

    options = HeatmapsOptions(file_format.value, overlay, top, overwrite)
    print_heatmaps(export_heatmaps(settings, options, Progress(quiet=quiet), to, group), Console())


@app.command()
@_readable_errors
def evaluate(
    out: Annotated[str | None, typer.Argument(help="The OUT of a complete run.")] = None,
    config: Config = None,
    labels: Annotated[
        str | None,
        typer.Option(help="auto, a layout (mvtec, mvtec2, visa, btad, 3cad, folder), or a CSV of uri,label,mask."),
    ] = None,
    pixels: Annotated[
        str | None, typer.Option(help="Compare maps and masks at the `model` input's size, or the `original`.")
    ] = None,
    run_id: Annotated[str | None, typer.Option(help="Which run; otherwise the latest complete one.")] = None,
    workers: Workers = None,
    address: Address = None,
    set_options: SetOptions = None,
    quiet: Quiet = False,
) -> None:
    """Say how well a run found what labels and masks say: AUROC, AP, F1-max, PRO and AUPIMO; never changes scores.

    Example: `musc-ray evaluate results/ --labels labels.csv`
    """
    settings = _settings(
        config,
        set_options,
        False,
        out=out,
        labels=labels,
        pixels=pixels,
        run_id=run_id,
        workers=workers,
        address=address,
    )
    from musc_ray.evaluate.show import print_metrics
    from musc_ray.stages.evaluate import evaluate_run

    found = evaluate_run(settings, Progress(quiet=quiet))
    print_metrics(found.rows, found.about, found.notes, found.folder, Console())


@app.command()
@_readable_errors
def report(
    out: Annotated[str, typer.Argument(help="The OUT of earlier runs.")],
    run_id: Annotated[str | None, typer.Option(help="Which run; otherwise the one that was scored last.")] = None,
    address: Address = None,
    set_options: SetOptions = None,
    quiet: Quiet = False,
) -> None:
    """Write the report of a complete run again, after an evaluation or with more images shown.

    Example: `musc-ray report results/ --set report_images=100`
    """
    from musc_ray.stages.report import report_again

    path = report_again(out, run_id, address, set_options or (), Progress(quiet=quiet))
    typer.echo(f"Report: {path}")


@app.command()
@_readable_errors
def demo(
    out: Annotated[str, typer.Argument(help="Folder for features, scores and the report.")] = "musc-ray-demo",
    images: Annotated[str, typer.Option(help="How many solar cells: a number, or `all` mono cells.")] = "240",
    overwrite: Overwrite = False,
    set_options: SetOptions = None,
    quiet: Quiet = False,
) -> None:
    """Find the defective ones among real solar cells (ELPV) with real weights (DINOv2), all from the `demo` extra.

    Example: `musc-ray demo --images all`
    """
    from musc_ray.demo.run import run_demo

    run_demo(out, images, overwrite, set_options or (), Progress(quiet=quiet), Console())


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Entry point of the `musc-ray` command and of jobs; a SIGTERM stops it as Ctrl-C does.

    Args:
        arguments: verb and options; None takes the command line's.
    """
    signal.signal(signal.SIGTERM, _stop)
    sys.exit(app(arguments))


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    """Handle SIGTERM: what comes after the first one must not disturb the clearing up (SIGKILL still ends it)."""
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
