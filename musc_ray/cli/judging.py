"""Verbs for what people say of images: verdicts."""

from typing import Annotated

import typer

from musc_ray.cli.verbs import EARLIER_RUNS, AsJson


def verdicts(
    out: Annotated[str, typer.Argument(help=EARLIER_RUNS, metavar="OUT")],
    table: Annotated[
        str | None,
        typer.Argument(help="The verdicts.csv of a report. Default: only show what is stored.", metavar="VERDICTS.CSV"),
    ] = None,
    who: Annotated[
        str, typer.Option("--who", help="Who said what does not say it.", metavar="TEXT", show_default=False)
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Store what people said of images in a report, and show where all verdicts stand.

    By group: images judged good, defective and unsure; the threshold of the latest run, with precision and recall on
    the judged images; and the threshold by verdicts, with the number of labels that it rests on. Runs without a
    threshold or contamination take it. Nothing that was stored is lost: of each image the latest verdict counts.
    `musc-ray rescore OUT --verdicts` then scores again what has changed: good images are compared with and not scored,
    defective ones are scored and not compared with.

    Keys of --json: imported (null, or rows, stored, unknown), groups: a list of group, good, defective, unsure, run_id,
    scored, threshold, threshold_source (given, verdicts, suggested), precision, recall, labelled_threshold (null, or
    threshold, good, defective).

    Example: `musc-ray verdicts results/ verdicts.csv --who Ada`
    """
    from musc_ray.cli.output import print_json
    from musc_ray.cli.output_verdicts import print_verdicts, verdicts_document
    from musc_ray.storage.paths import OutPaths
    from musc_ray.verdicts.importing import import_verdicts
    from musc_ray.verdicts.standing import standing

    out_paths = OutPaths.at(out)
    imported = None if table is None else import_verdicts(out_paths, table, who.strip())
    groups = standing(out_paths)
    if as_json:
        print_json(verdicts_document(imported, groups))
    else:
        print_verdicts(imported, groups, out)
