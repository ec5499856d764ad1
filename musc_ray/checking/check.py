"""Check images against what an OUT holds of their group: the public function `musc_ray.check`."""

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike, fspath

from musc_ray.checking.given_images import list_given
from musc_ray.checking.heatmap import HeatmapFolder
from musc_ray.checking.results import CheckedImage, CheckResult, UncheckedImage
from musc_ray.checking.stored_group import StoredGroup, open_group, run_of_group, scored_groups
from musc_ray.checking.stored_model import weights_of
from musc_ray.errors import SettingsError
from musc_ray.runtime.hardware import usable_cpus
from musc_ray.runtime.progress import Progress
from musc_ray.sources.images import CatalogImage
from musc_ray.storage.paths import OutPaths
from musc_ray.storage.requests import limit_requests

Place = str | PathLike[str]


@dataclass(frozen=True)
class CheckRequest:
    """What to check; see `check`."""

    out: str
    images: Sequence[str]
    group: str | None = None
    run_id: str | None = None
    weights: str | None = None
    maps: str | None = None


def check(
    out: Place,
    images: Place | Sequence[Place],
    *,
    group: str | None = None,
    run_id: str | None = None,
    weights: str | None = None,
    maps: Place | None = None,
) -> CheckResult:
    """Score one or a handful of new images against the stored references of their group, without touching OUT.

    Each is scored alone: raw score and patch map are those of a run that holds the image, too.

    Args:
        out: the OUT of earlier runs.
        images: paths or URIs of images, folders, globs or tables.
        group: of all images; default: by their paths, as the run finds it, or the only group there is.
        run_id: whose settings and references count; default: of each group the run that scored it last.
        weights: path or URI of the backbone's weights, where they are no longer where the run read them from.
        maps: folder or URI that heat maps are written to, outside of OUT.

    Returns:
        Scores, map and standing of each image; those that cannot be checked are among `failed`.

    Raises:
        SettingsError: no such group, nothing to check, or a folder for maps in OUT.
        MuscRayError: no complete run, or features or weights that are gone.
    """
    given = [images] if isinstance(images, str | PathLike) else images
    folder = None if maps is None else fspath(maps)
    request = CheckRequest(fspath(out), [fspath(image) for image in given], group, run_id, weights, folder)
    return check_images(request, Progress(quiet=True))


def check_images(request: CheckRequest, progress: Progress) -> CheckResult:
    """Do what `check` does; shows the steps."""
    out_paths, weights = OutPaths.at(request.out), request.weights
    if not request.images:
        raise SettingsError("There is nothing to check: give images, as in `musc-ray check OUT image.png`.")
    with progress.phase("looking at OUT and images"):
        runs = scored_groups(out_paths, request.run_id)
        if request.group is not None:
            run_of_group(runs, request.group)
        listed = list_given(request.images, runs, request.group)
        groups = [open_group(out_paths, runs[name], name) for name in sorted(listed.groups)]
        for run in {each.run.run_id: each.run for each in groups}.values():
            weights_of(run, weights)
        sources = {run.settings.source for run in runs.values() if run.settings.source is not None}
        folder = None if request.maps is None else HeatmapFolder.at(request.maps, request.out, sources)
    found, failed = _check_groups(groups, listed.groups, weights, folder, progress)
    return CheckResult(tuple(found), (*listed.failed, *failed), listed.skipped)


def _check_groups(
    groups: Sequence[StoredGroup],
    images: dict[str, list[CatalogImage]],
    weights: str | None,
    folder: HeatmapFolder | None,
    progress: Progress,
) -> tuple[list[CheckedImage], list[UncheckedImage]]:
    """Check the images of each group, which import torch."""
    found: list[CheckedImage] = []
    failed: list[UncheckedImage] = []
    if not groups:
        return found, failed
    limit_requests(max(each.run.settings.max_requests for each in groups))
    with progress.phase("loading libraries"):
        from musc_ray.backbones.names import model_module
        from musc_ray.runtime.worker import import_modules

        import_modules(["musc_ray.checking.group_check", model_module(groups[0].run.settings.backbone)])
        from musc_ray.checking.group_check import check_group
        from musc_ray.checking.query import Embeddings

    embeddings = Embeddings(weights, usable_cpus())
    for group in groups:
        more, others = check_group(group, images[group.name], embeddings, folder, progress)
        found += more
        failed += others
    return found, failed
