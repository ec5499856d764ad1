"""Verbs that score images: run, extract, score, rescore, benchmark, demo."""

from typing import TYPE_CHECKING, Annotated

import typer

from musc_ray.cli.verbs import EARLIER_RUNS, Quiet, Uses, uses_settings
from musc_ray.errors import SettingsError
from musc_ray.runtime.progress import Progress
from musc_ray.settings.affects import Effect

if TYPE_CHECKING:
    from musc_ray.settings.model import Settings

SCORING: tuple[Effect, ...] = (
    "source", "features", "scores", "report", "publish", "output", "run", "extraction", "scoring", "runtime",
)  # fmt: skip
"""What the settings affect that verbs which score images can use."""

NIGHT: tuple[Effect, ...] = ("night",)
"""What the settings of `rescore` alone affect."""


@uses_settings(Uses(SCORING, but_kinds=NIGHT))
def run(settings: "Settings", quiet: Quiet = False) -> None:
    """Score every image of SOURCE and write scores and a report to OUT. Running it again resumes.

    Example: `musc-ray run photos/ results/ --backbone dinov2-vit-s-14 --weights vit_s.safetensors --image-size 224`
    """
    with Progress(quiet=quiet) as progress:
        with progress.phase("starting the run"):
            from musc_ray.cli.output_run import finish_run
            from musc_ray.pipeline import run_archive
        result = run_archive(settings, progress)
    finish_run(result)


@uses_settings(
    Uses(
        ("source", "features", "extraction", "runtime"),
        also=("overwrite", "known_good"),
    )
)
def extract(settings: "Settings", quiet: Quiet = False) -> None:
    """Extract the features of SOURCE into OUT and stop, as on GPU nodes; `musc-ray score` does the rest.

    Example: `musc-ray extract photos/ results/ --backbone dinov2-vit-s-14 --weights vit_s.safetensors`
    """
    with Progress(quiet=quiet) as progress:
        with progress.phase("starting the extraction"):
            from musc_ray.cli.output_run import print_extracted
            from musc_ray.pipeline import extract_archive
        figures = extract_archive(settings, progress)
    print_extracted(figures)


@uses_settings(Uses(SCORING, but_kinds=NIGHT))
def score(settings: "Settings", quiet: Quiet = False) -> None:
    """Score images whose features `musc-ray extract` wrote to OUT; images without features are refused.

    Example: `musc-ray score photos/ results/ --backbone dinov2-vit-s-14 --weights vit_s.safetensors --references 256`
    """
    with Progress(quiet=quiet) as progress:
        with progress.phase("starting the scoring"):
            from musc_ray.cli.output_run import finish_run
            from musc_ray.pipeline import run_archive
        result = run_archive(settings, progress, extracted=True)
    finish_run(result)


@uses_settings(Uses(("night", *SCORING), arguments={"out": EARLIER_RUNS}))
def rescore(
    settings: "Settings",
    new: Annotated[
        bool, typer.Option("--new", help="Score what no run has scored yet, or has changed: the default.", metavar=" ")
    ] = False,
    verdicts: Annotated[
        bool,
        typer.Option("--verdicts", help="Score the groups again whose verdicts have changed, no others.", metavar=" "),
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Score what came in since the last run, against a window of earlier images, or what verdicts have changed.

    Settings that are not given are those of the last run, its source included; with --verdicts of the run that scored
    the group last, after a night those of the night: `musc-ray run` scores all images again.

    Example: `musc-ray rescore results/ --new --window 30d --references 512`
    """
    if new and settings.since is not None:
        raise SettingsError("Give --new or --since, not both.")
    if verdicts and (new or settings.since is not None):
        raise SettingsError("Give --verdicts or what is new (--new, --since), not both.")
    if verdicts:
        _rescore_judged(settings, quiet)
        return
    with Progress(quiet=quiet) as progress:
        with progress.phase("starting the nightly run"):
            from musc_ray.cli.output_run import finish_night
            from musc_ray.nightly.run import night_settings, rescore_new
        result, waiting = rescore_new(night_settings(settings), progress)
    finish_night(result, waiting)


def _rescore_judged(settings: "Settings", quiet: bool) -> None:
    with Progress(quiet=quiet) as progress:
        with progress.phase("starting the run"):
            from musc_ray.cli.output_run import finish_judged
            from musc_ray.nightly.judged import rescore_judged
        results = rescore_judged(settings, progress)
    finish_judged(results)


@uses_settings(Uses((*SCORING, "evaluate", "benchmark"), but=("group_by", "column"), but_kinds=NIGHT))
def benchmark(settings: "Settings", quiet: Quiet = False) -> None:
    """Score and evaluate the dataset in SOURCE by the paper's protocol: test images only, each category a group.

    SOURCE is a folder with the categories of MVTec AD, MVTec AD 2, VisA, BTAD or 3CAD. Labels are used for the metrics
    alone. The paper's tables need its constants, too: --method paper.

    Example: `musc-ray benchmark mvtec_anomaly_detection/ results/ --method paper --image-size 518`
    """
    with Progress(quiet=quiet) as progress:
        with progress.phase("starting the benchmark"):
            from musc_ray.cli.output import print_total_time
            from musc_ray.cli.output_metrics import print_metrics
            from musc_ray.cli.output_run import fail_with_groups
            from musc_ray.evaluate.benchmark import evaluate_dataset
        result, found = evaluate_dataset(settings, progress)
    print_metrics(found)
    print_total_time()
    fail_with_groups(result)


@uses_settings(
    Uses(
        SCORING,
        but=("source", "backbone", "weights", "group_by", "column"),
        but_kinds=NIGHT,
        arguments={"out": "Folder of all that the demo writes."},
    )
)
def demo(
    settings: "Settings",
    images: Annotated[str, typer.Option(help="How many solar cells: a number, or `all` mono cells.")] = "240",
    quiet: Quiet = False,
) -> None:
    """Find the defective ones among real solar cells (ELPV) with real weights (DINOv2), all from the `demo` extra.

    OUT is `musc-ray-demo` where none is given.

    Example: `musc-ray demo --images all`
    """
    with Progress(quiet=quiet) as progress:
        with progress.phase("starting the demo"):
            from musc_ray.cli.output_run import finish_run
            from musc_ray.demo.run import run_demo
        result = run_demo(settings, images, progress)
    finish_run(result)
