"""Verbs for after a run: runs, report, evaluate, heatmaps, publish, gc."""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from musc_ray.cli.verbs import EARLIER_RUNS, AsJson, Quiet, Uses, uses_settings
from musc_ray.errors import MuscRayError, SettingsError
from musc_ray.runtime.progress import Progress

if TYPE_CHECKING:
    from musc_ray.settings.model import Settings

Out = Annotated[str, typer.Argument(help=EARLIER_RUNS, metavar="OUT")]


class HeatmapFormat(StrEnum):
    """File formats that `heatmaps` writes."""

    PNG = "png"
    NPY = "npy"
    TIFF = "tiff"


def runs(out: Out, as_json: AsJson = False) -> None:
    """List the complete runs of OUT and what each was made of.

    Keys of --json, of each item of the list: run_id, scored_at, images, failed, groups, version, backbone,
    weights_sha256, features_id, source, source_snapshot (null unless the source is an Iceberg table).

    Example: `musc-ray runs results/`
    """
    from musc_ray.cli.output import print_json
    from musc_ray.cli.output_lists import print_runs, run_document
    from musc_ray.storage.complete_runs import complete_runs
    from musc_ray.storage.paths import OutPaths

    found = complete_runs(OutPaths.at(out))
    if not found:
        raise MuscRayError(f"There is no complete run in {out}: start one with `musc-ray run SOURCE {out}`.")
    documents = [run_document(run) for run in found]
    if as_json:
        print_json(documents)
    else:
        print_runs(documents)


@uses_settings(
    Uses(
        ("report", "runtime"),
        also=("run_id",),
        but=("device",),
        arguments={"out": EARLIER_RUNS},
        only=True,
    )
)
def report(settings: "Settings", quiet: Quiet = False) -> None:
    """Write the report of a complete run again: after an evaluation, with another threshold, with more images shown.

    A threshold or contamination also changes the column is_anomalous of the scores. Other settings are the run's.

    Example: `musc-ray report results/ --report-images 100 --threshold 0.4`
    """
    if settings.out is None:
        raise SettingsError("A report needs the out of a run: `musc-ray report OUT`.")
    with Progress(quiet=quiet) as progress:
        with progress.phase("starting the report"):
            from musc_ray.cli.output import print_total_time
            from musc_ray.report.build import report_again
        written = report_again(settings, progress)
    typer.echo(f"Report: {written}")
    print_total_time()


@uses_settings(Uses(("evaluate", "runtime"), also=("run_id",), but=("device",), arguments={"out": EARLIER_RUNS}))
def evaluate(settings: "Settings", quiet: Quiet = False) -> None:
    """Compare a run with labels and masks: AUROC, AP, F1-max, PRO and AUPIMO. Scores never change.

    Example: `musc-ray evaluate results/ --labels labels.csv`
    """
    with Progress(quiet=quiet) as progress:
        with progress.phase("starting the evaluation"):
            from musc_ray.cli.output import print_total_time
            from musc_ray.cli.output_metrics import print_metrics
            from musc_ray.evaluate.evaluation import evaluate_run
        found = evaluate_run(settings, progress)
    print_metrics(found)
    print_total_time()


@uses_settings(
    Uses(("runtime",), also=("run_id", "overwrite"), but=("device",), arguments={"out": EARLIER_RUNS}, only=True)
)
def heatmaps(
    settings: "Settings",
    file_format: Annotated[HeatmapFormat, typer.Option("--format", help="Pictures, or float32 values.")],
    overlay: Annotated[bool, typer.Option("--overlay", help="Blend a png with the original.", metavar=" ")] = False,
    top: Annotated[int | None, typer.Option(min=1, help="Only the N worst of each group.", metavar="N")] = None,
    group: Annotated[str | None, typer.Option(help="Only this group.", metavar="TEXT")] = None,
    to: Annotated[str | None, typer.Option(help="Folder or URI; default: the run's own.", metavar="PATH")] = None,
    quiet: Quiet = False,
) -> None:
    """Write the patch maps of a run as files of the original images' sizes.

    Example: `musc-ray heatmaps results/ --format png --overlay --top 20`
    """
    with Progress(quiet=quiet) as progress:
        with progress.phase("starting the heat maps"):
            from musc_ray.cli.output import print_total_time
            from musc_ray.cli.output_lists import print_heatmaps
            from musc_ray.report.heatmap_writer import HeatmapsOptions
            from musc_ray.report.heatmaps import export_heatmaps
        options = HeatmapsOptions(file_format.value, overlay, top, settings.overwrite)
        result = export_heatmaps(settings, options, progress, to, group)
    print_heatmaps(result)
    print_total_time()


@uses_settings(Uses(("publish",), also=("run_id",), arguments={"out": EARLIER_RUNS}, only=True))
def publish(settings: "Settings") -> None:
    """Publish complete runs to an Iceberg table; runs that are in it stay as they are.

    Example: `musc-ray publish results/ --lake '{catalog: https://host/iceberg, table: plant.scores}'`
    """
    from musc_ray.lake.publish import publish_again

    if settings.out is None:
        raise MuscRayError("Publishing needs the OUT of earlier runs, as in `musc-ray publish OUT`.")
    published, there = publish_again(settings.out, settings.lake, settings.run_id)
    for name in published:
        typer.echo(f"Published run {name}.")
    if there:
        typer.echo(f"{len(there)} run{'' if len(there) == 1 else 's'} already published.")


def gc(
    out: Out,
    delete: Annotated[
        bool, typer.Option("--delete/--dry-run", help="Delete it, or only list it.", metavar=" ")
    ] = False,
    older_than: Annotated[
        int, typer.Option(min=1, help="Days after which an unfinished run counts as abandoned.", metavar="DAYS")
    ] = 7,
    as_json: AsJson = False,
) -> None:
    """Remove what no run of OUT needs: features, shards, intermediate results, abandoned runs.

    Keys of --json: deleted (true or false), bytes (of all), found: a list of path, why, bytes.

    Example: `musc-ray gc results/ --delete`
    """
    from musc_ray.cli.output import print_json
    from musc_ray.cli.output_lists import garbage_document, print_garbage
    from musc_ray.storage.garbage import collect_garbage

    found = collect_garbage(out, older_than, delete)
    if as_json:
        print_json(garbage_document(found, delete))
    else:
        print_garbage(found, delete)
