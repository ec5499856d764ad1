"""The verb for single images: check."""

from typing import Annotated

import typer

from musc_ray.cli.verbs import EARLIER_RUNS, AsJson, Quiet
from musc_ray.runtime.progress import Progress


def check(
    out: Annotated[str, typer.Argument(help=EARLIER_RUNS, metavar="OUT")],
    images: Annotated[
        list[str], typer.Argument(help="Images, folders, globs or tables; paths or URIs.", metavar="IMAGE...")
    ],
    group: Annotated[
        str | None,
        typer.Option(help="Group of all images. Default: by their paths, as the run finds it; or the only one."),
    ] = None,
    run_id: Annotated[
        str | None, typer.Option(help="Whose settings and references count. Default: the run that came last.")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="Weights of the backbone, where they are not where the run read them from.")
    ] = None,
    maps: Annotated[
        str | None, typer.Option(help="Folder for heat maps, alone and laid over the images.", metavar="FOLDER")
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Score single new images against the images of their group in OUT, in seconds; nothing in OUT changes.

    Raw score and map are those of a run that holds the image, too. The score is rescored with what the others have
    without it. The p-value is the share of the group that scores at least as high.

    Keys of --json: images: a list of uri, image_id, group, run_id, references, known_good, score_raw, score,
    score_is_approximate, p_value, rank, among, threshold, threshold_is_suggested, is_anomalous, height, width, peak_y,
    peak_x, neighbours (a list of uri, similarity), grid, patch_map (row-major, null where not scored), notes, heatmaps;
    failed: a list of uri, message; skipped (other files).

    Example: `musc-ray check results/ new.png --maps checked/`
    """
    with Progress(quiet=quiet) as progress:
        with progress.phase("starting the check"):
            from musc_ray.checking.check import CheckRequest, check_images
            from musc_ray.cli.errors import FAILED
            from musc_ray.cli.output import print_json
            from musc_ray.cli.output_check import check_document, print_check, print_unchecked
        found = check_images(CheckRequest(out, images, group, run_id, weights, maps), progress)
    if as_json:
        print_json(check_document(found))
    else:
        print_check(found)
    print_unchecked(found)
    if found.failed:
        raise typer.Exit(FAILED)
