"""Verbs for before and during a run: plan, settings, status."""

from typing import TYPE_CHECKING, Annotated

import typer

from musc_ray.cli.running import NIGHT, SCORING
from musc_ray.cli.verbs import EARLIER_RUNS, AsJson, Uses, uses_settings
from musc_ray.runtime.progress import Progress

if TYPE_CHECKING:
    from musc_ray.settings.model import Settings


@uses_settings(
    Uses(SCORING, but_kinds=NIGHT, arguments={"source": None, "out": "As in `musc-ray run`; nothing is written there."})
)
def plan(
    settings: "Settings",
    gpu: Annotated[
        str | None, typer.Option(help="Plan for workers with this kind of GPU, such as h100, a100 or l4.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List SOURCE and what would be skipped, and estimate the cost of `musc-ray run` with these options.

    The estimate comes from a few images and seconds of measuring.

    All options of `run` are taken; those that change no cost have no effect here.

    Keys of --json: images, groups, references, shards, tiles, pairs, executor, workers, threads (of a worker),
    rates_source, operations, bytes, seconds and bound (each by stage), worker_memory_bytes, fits (whether references
    fit into max_pending_gb), compressed (what differs with compress auto; null where that does not apply); listed,
    errors, skipped (by reason), error_examples, skipped_examples, notes.

    Example: `musc-ray plan photos/ --references 256 --gpu h100 --workers 8`
    """
    with Progress() as progress:
        with progress.phase("starting the plan"):
            from musc_ray.cli.output import print_json, stdout_console
            from musc_ray.cli.output_ledger import ledger_document, print_catalog
            from musc_ray.cli.output_plan import plan_document, print_plan
            from musc_ray.planning.plan import list_archive, plan_archive
        with progress.phase("listing the images"):
            catalog = list_archive(settings, gpu)
        if not as_json:
            print_catalog(catalog, stdout_console())
        with progress.phase("measuring images and machine"):
            found = plan_archive(settings, catalog, gpu)
    if as_json:
        print_json(plan_document(found, settings.max_pending_gb) | ledger_document(catalog))
    else:
        print_plan(found, settings.max_pending_gb)


def settings(as_json: AsJson = False) -> None:
    """List all settings with type, default, meaning, and what they affect.

    Each can be given in a YAML file (--config), as an option of the verbs that use it, or by --set.

    Keys of --json, of each item of the list: name, option, type, default, meaning, affects, verbs.

    Example: `musc-ray settings --json`
    """
    from musc_ray.cli.output import print_json
    from musc_ray.cli.output_settings import print_settings, settings_document

    if as_json:
        print_json(settings_document())
    else:
        print_settings()


def status(out: Annotated[str, typer.Argument(help=EARLIER_RUNS, metavar="OUT")], as_json: AsJson = False) -> None:
    """Show the runs in OUT: complete, running (by which process, how far, how long still), failed (why), or stopped.

    Keys of --json, of each item of the list: run_id, started_at, complete, images, groups, shards_done, shards,
    bands_done, bands, scored, failed, skipped, listed, updated_at, stages, failure (why the last attempt failed), state
    (complete, running, failed or stopped); process, host, running_since (of the command that is at work); share (of all
    work, about), seconds_left (about; null while unknown), phases (what is done beside the stages).

    Example: `musc-ray status results/`
    """
    from dataclasses import asdict

    from musc_ray.cli import status as of_runs
    from musc_ray.cli.output import print_json
    from musc_ray.cli.output_lists import print_status

    found = of_runs.read_status(out)
    if as_json:
        print_json([asdict(run) for run in found])
    else:
        print_status(found)
