"""The command line: one verb a thing a user wants, settings from YAML and options, errors as one sentence."""

import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.table import Column, Table

from musc_ray.cli.options import (
    Address,
    Aggregation,
    Backbone,
    Config,
    Contamination,
    Degrees,
    Device,
    GroupBy,
    HeatmapFormat,
    ImageSize,
    Layers,
    Out,
    Overwrite,
    Precision,
    Quiet,
    References,
    RepeatedDefects,
    RunId,
    SetOptions,
    ShardSize,
    Source,
    Threshold,
    Weights,
    Workers,
    readable_errors,
    settings_of,
)
from musc_ray.errors import MuscRayError, SettingsError
from musc_ray.runtime.progress import Progress
from musc_ray.settings.credentials import log_to_stderr

app = typer.Typer(
    name="musc-ray",
    help="Find defects in large archives of unlabeled industrial images: images of one product score each other.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)


@app.command()
@readable_errors
def run(
    source: Source = None,
    out: Out = None,
    config: Config = None,
    backbone: Backbone = None,
    weights: Weights = None,
    image_size: ImageSize = None,
    layers: Layers = None,
    degrees: Degrees = None,
    aggregation: Aggregation = None,
    references: References = None,
    group_by: GroupBy = None,
    shard_size: ShardSize = None,
    precision: Precision = None,
    device: Device = None,
    address: Address = None,
    run_id: RunId = None,
    threshold: Threshold = None,
    contamination: Contamination = None,
    repeated_defects: RepeatedDefects = None,
    overwrite: Overwrite = False,
    set_options: SetOptions = None,
    quiet: Quiet = False,
) -> None:
    """Score every image of SOURCE and write scores and a report to OUT. Running it again resumes.

    Example: `musc-ray run photos/ results/ --backbone dinov2-vit-s-14 --weights vit_s.safetensors --image-size 224`
    """
    settings = settings_of(locals())
    from musc_ray.cli.output import fail_with_groups, print_result
    from musc_ray.pipeline import run_archive

    result = run_archive(settings, Progress(quiet=quiet))
    print_result(result, Console())
    fail_with_groups(result)


@app.command()
@readable_errors
def extract(
    source: Source = None,
    out: Out = None,
    config: Config = None,
    backbone: Backbone = None,
    weights: Weights = None,
    image_size: ImageSize = None,
    layers: Layers = None,
    group_by: GroupBy = None,
    shard_size: ShardSize = None,
    device: Device = None,
    address: Address = None,
    overwrite: Overwrite = False,
    set_options: SetOptions = None,
    quiet: Quiet = False,
) -> None:
    """Only extract the features of SOURCE into OUT, as on GPU nodes; `musc-ray score` does the rest.

    Example: `musc-ray extract photos/ results/ --backbone dinov2-vit-s-14 --weights vit_s.safetensors`
    """
    settings = settings_of(locals())
    from musc_ray.cli.output import print_extracted
    from musc_ray.pipeline import extract_archive

    print_extracted(extract_archive(settings, Progress(quiet=quiet)), Console())


@app.command()
@readable_errors
def score(
    source: Source = None,
    out: Out = None,
    config: Config = None,
    backbone: Backbone = None,
    weights: Weights = None,
    image_size: ImageSize = None,
    layers: Layers = None,
    degrees: Degrees = None,
    aggregation: Aggregation = None,
    references: References = None,
    group_by: GroupBy = None,
    precision: Precision = None,
    device: Device = None,
    address: Address = None,
    run_id: RunId = None,
    threshold: Threshold = None,
    contamination: Contamination = None,
    repeated_defects: RepeatedDefects = None,
    overwrite: Overwrite = False,
    set_options: SetOptions = None,
    quiet: Quiet = False,
) -> None:
    """Score images whose features `musc-ray extract` wrote to OUT; those without features are refused.

    Example: `musc-ray score photos/ results/ --backbone dinov2-vit-s-14 --weights vit_s.safetensors --references 256`
    """
    settings = settings_of(locals())
    from musc_ray.cli.output import fail_with_groups, print_result
    from musc_ray.pipeline import run_archive

    result = run_archive(settings, Progress(quiet=quiet), extracted=True)
    print_result(result, Console())
    fail_with_groups(result)


@app.command()
@readable_errors
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
    repeated_defects: RepeatedDefects = None,
    overwrite: Overwrite = False,
    set_options: SetOptions = None,
    quiet: Quiet = False,
) -> None:
    """Score what came in since the last run, against a window of earlier images. Other settings are the last run's.

    Example: `musc-ray rescore results/ --new --window 30d --references 512`
    """
    if new and since is not None:
        raise SettingsError("Give --new or --since, not both.")
    given = settings_of(locals())
    from musc_ray.cli.output import fail_with_groups, print_night
    from musc_ray.nightly.run import night_settings, rescore_new

    result, waiting = rescore_new(night_settings(given), Progress(quiet=quiet))
    print_night(result, waiting, Console())
    if result is not None:
        fail_with_groups(result)


@app.command()
@readable_errors
def plan(
    source: Source = None,
    config: Config = None,
    backbone: Backbone = None,
    image_size: ImageSize = None,
    layers: Layers = None,
    degrees: Degrees = None,
    aggregation: Aggregation = None,
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
    settings = settings_of(locals())
    from musc_ray.cli.output import print_plan
    from musc_ray.planning.plan import plan_archive

    print_plan(plan_archive(settings, gpu), settings.max_pending_gb, Console())


@app.command()
@readable_errors
def status(out: Annotated[str, typer.Argument(help="The OUT of earlier runs.")]) -> None:
    """Say how far the runs in OUT are; also works while one is going on.

    Example: `musc-ray status results/`
    """
    from musc_ray.cli.status import read_status

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
@readable_errors
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
    settings = settings_of(locals())
    from musc_ray.cli.output import print_heatmaps
    from musc_ray.report.export import HeatmapsOptions, export_heatmaps

    options = HeatmapsOptions(file_format.value, overlay, top, overwrite)
    print_heatmaps(export_heatmaps(settings, options, Progress(quiet=quiet), to, group), Console())


@app.command()
@readable_errors
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
    settings = settings_of(locals())
    from musc_ray.evaluate.evaluation import evaluate_run
    from musc_ray.evaluate.show import print_metrics

    found = evaluate_run(settings, Progress(quiet=quiet))
    print_metrics(found.rows, found.about, found.notes, found.folder, Console())


@app.command()
@readable_errors
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
    from musc_ray.report.build import report_again

    path = report_again(out, run_id, address, set_options or (), Progress(quiet=quiet))
    typer.echo(f"Report: {path}")


@app.command()
@readable_errors
def publish(
    out: Annotated[str, typer.Argument(help="The OUT of earlier runs.")],
    run_id: Annotated[str | None, typer.Option(help="Which run; otherwise all complete ones.")] = None,
    config: Config = None,
    set_options: SetOptions = None,
) -> None:
    """Publish complete runs to an Iceberg table; what is there already stays as it is.

    Example: `musc-ray publish results/ --set 'lake={catalog: https://host/iceberg, table: plant.scores}'`
    """
    settings = settings_of(locals())
    from musc_ray.lake.publish import publish_again

    published, there = publish_again(out, settings.lake, run_id)
    for name in published:
        typer.echo(f"Published run {name}.")
    if there:
        typer.echo(f"{len(there)} run{'' if len(there) == 1 else 's'} there already.")


@app.command()
@readable_errors
def runs(out: Annotated[str, typer.Argument(help="The OUT of earlier runs.")]) -> None:
    """List the complete runs of OUT and what each was made of.

    Example: `musc-ray runs results/`
    """
    from musc_ray.cli.output import print_runs
    from musc_ray.storage.paths import OutPaths
    from musc_ray.storage.runs import complete_runs

    found = complete_runs(OutPaths.at(out))
    if not found:
        raise MuscRayError(f"There is no complete run in {out}: start one with `musc-ray run SOURCE {out}`.")
    print_runs(found, Console())


@app.command()
@readable_errors
def gc(
    out: Annotated[str, typer.Argument(help="The OUT of earlier runs.")],
    delete: Annotated[bool, typer.Option("--delete/--dry-run", help="Delete it, or only say what it is.")] = False,
    older_than: Annotated[int, typer.Option(min=1, help="Days after which an unfinished run is given up.")] = 7,
) -> None:
    """Remove what no run of OUT needs: features, shards, intermediate results, runs that were given up.

    Example: `musc-ray gc results/ --delete`
    """
    from musc_ray.cli.output import print_garbage
    from musc_ray.storage.garbage import collect_garbage

    print_garbage(collect_garbage(out, older_than, delete), delete, Console())


@app.command()
@readable_errors
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
    stop_on_sigterm()
    log_to_stderr()
    sys.exit(app(arguments))


def stop_on_sigterm() -> None:
    """From now on SIGTERM, as `ray job stop` sends it, ends the process as Ctrl-C does."""
    signal.signal(signal.SIGTERM, _stop)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    """Handle SIGTERM: what comes after the first one must not disturb the clearing up (SIGKILL still ends it)."""
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt
