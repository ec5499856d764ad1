"""Score again what verdicts have changed: the groups whose known good or defective images are others than they were."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from musc_ray.errors import SettingsError
from musc_ray.features.context import RunContext, context_of, with_judged
from musc_ray.features.known_good import Judged, judged_images
from musc_ray.features.workspace import open_out
from musc_ray.nightly.run import inherited
from musc_ray.pipeline import score_archive
from musc_ray.runtime.executor import open_executor
from musc_ray.runtime.options import ExecutorOptions
from musc_ray.runtime.progress import Progress
from musc_ray.scoring.result import RunResult
from musc_ray.settings.model import Settings
from musc_ray.sources.catalog import Catalog
from musc_ray.sources.images import CatalogImage
from musc_ray.storage.complete_runs import complete_runs
from musc_ray.storage.manifest import RunManifest
from musc_ray.storage.parquet import read_table
from musc_ray.storage.paths import OutPaths, RunPaths
from musc_ray.storage.scores import read_tables


@dataclass(frozen=True)
class ScoredBefore:
    """The groups that a run was the last to score.

    Attributes:
        run: its manifest.
        listed: all its images by group, known good ones included.
        earlier: ids of those that it only compared with, of a night's window, by group; None of no night.
    """

    run: RunManifest
    listed: Mapping[str, Sequence[CatalogImage]]
    earlier: Mapping[str, frozenset[str]] | None


def rescore_judged(given: Settings, progress: Progress) -> list[RunResult]:
    """Score those groups again whose verdicts have changed since they were scored last; the others keep their scores.

    Each group gets the images and the settings of the run that scored it last, so that groups of several runs make
    several runs. Features are used as they are.

    Args:
        given: with out; settings that are given take the place of those of the earlier run.
        progress: shows the stages.

    Returns:
        The results, none where no verdict changes anything.

    Raises:
        SettingsError: no out, or one run_id for several runs.
        MuscRayError: what `run_archive` raises.
    """
    if given.out is None:
        raise SettingsError("Verdicts are of the images of an OUT: give it, as in `musc-ray rescore OUT --verdicts`.")
    out_paths = OutPaths.at(given.out)
    with progress.phase("looking for what verdicts change"):
        changed = []
        for before in scored_before(out_paths):
            settings = inherited(before.run, given)
            judged = judged_images(settings, out_paths, before.listed, whole=False)
            some = _changed(before, judged)
            if some is not None:
                changed.append((some, settings, judged))
    if given.run_id is not None and len(changed) > 1:
        raise SettingsError(
            f"Verdicts change groups of {len(changed)} runs, which make as many new ones: leave out run_id, so that "
            "each gets a name of its own."
        )
    return [_score_again(*each, progress) for each in changed]


def scored_before(out_paths: OutPaths) -> Iterator[ScoredBefore]:
    """Yield the complete runs, the last one first, each with the groups that no later run has scored."""
    seen: set[str] = set()
    for run in reversed(complete_runs(out_paths)):
        run_paths = out_paths.run(run.run_id)
        listed: dict[str, list[CatalogImage]] = {}
        for row in read_table(out_paths.fs, run_paths.catalog).to_pylist():
            if row["group"] not in seen and row["group"] not in run.failed_groups:
                image = CatalogImage(row["image_id"], row["uri"], row["group"], row["version"], row.get("modified"))
                listed.setdefault(image.group, []).append(image)
        seen |= listed.keys()
        if listed:
            yield ScoredBefore(run, listed, None if run.night is None else _earlier(run_paths, listed))


def _earlier(run_paths: RunPaths, listed: Mapping[str, Sequence[CatalogImage]]) -> dict[str, frozenset[str]]:
    """Return the images of a night that got neither scores nor errors: its window."""
    published: set[str] = set()
    for paths in run_paths.parts_of(run_paths.scores, list(listed)).values():
        for table in read_tables(run_paths.fs, paths, ["image_id"]):
            published.update(table["image_id"].to_pylist())
    failed = set(read_table(run_paths.fs, f"{run_paths.errors}/part-00000.parquet", ["uri"])["uri"].to_pylist())
    return {
        name: frozenset(i.image_id for i in images if i.image_id not in published and i.uri not in failed)
        for name, images in listed.items()
    }


def _changed(before: ScoredBefore, judged: Judged) -> ScoredBefore | None:
    """Return the part of a run whose verdicts have changed; None where none have."""
    now = judged.digests
    then = {name: found.digest for name, found in before.run.judged.items()}
    listed = {name: images for name, images in before.listed.items() if now.get(name) != then.get(name)}
    return replace(before, listed=listed) if listed else None


def _score_again(before: ScoredBefore, settings: Settings, judged: Judged, progress: Progress) -> RunResult:
    with open_executor(ExecutorOptions.of(settings), progress) as executor:
        workspace = open_out(settings, executor)
        with progress.stage("catalog", total=None, unit="images") as stage:
            to_score, earlier = judged.without_known_good(before.listed), before.earlier
            if earlier is not None and not settings.rescore_window:
                gone = {name: earlier[name] & judged.defective.get(name, frozenset()) for name in to_score}
                to_score = {n: [i for i in images if i.image_id not in gone[n]] for n, images in to_score.items()}
            if earlier is not None:
                left = {name: frozenset(image.image_id for image in images) for name, images in to_score.items()}
                earlier = {name: earlier[name] & left[name] for name in to_score}
            context = _named(context_of(workspace, to_score, judged, earlier))
            catalog = Catalog(groups={name: list(images) for name, images in before.listed.items()})
            context = replace(context, catalog=with_judged(catalog, _of_groups(judged, before.listed)))
            stage.advance(context.images)
        stages = {"catalog": {"seconds": stage.seconds, "images": context.images}}
        return score_archive(context, executor, stages, progress)


def _of_groups(judged: Judged, listed: Mapping[str, object]) -> Judged:
    """Leave out what the source of known good images holds of groups that are not scored again."""
    groups = {name: images for name, images in judged.catalog.groups.items() if name in listed}
    return replace(judged, catalog=replace(judged.catalog, groups=groups), notes=())


def _named(context: RunContext) -> RunContext:
    """Name a run `<id>-2`, or with the next number, where one of its id is complete: what was said was taken back.

    The latest run has to be the one with the scores that count, so that the earlier one does not do.
    """
    settings, run_id, number = context.settings, context.run_id, 1
    while settings.run_id is None and not settings.overwrite and RunManifest.read(context.out_paths.run(run_id)):
        number += 1
        run_id = f"{context.run_id}-{number}"
    return replace(context, run_id=run_id)
