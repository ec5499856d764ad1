"""Metrics of a run whose labels are known while it runs."""

from collections.abc import Mapping, Sequence

from musc_ray.core.metrics.image import image_auroc
from musc_ray.storage.paths import RunPaths
from musc_ray.storage.scores import read_scores


def image_aurocs(run_paths: RunPaths, groups: Sequence[str], labels: Mapping[str, int]) -> dict[str, float]:
    """Compute the image AUROC of each group whose images are all labelled, with both kinds of labels.

    Args:
        run_paths: of a scored run.
        groups: names of the scored groups.
        labels: by uri, 1 = defective, 0 = good.
    """
    metrics = {}
    files = run_paths.parts_of(run_paths.scores, groups) if labels else {}
    for group, paths in files.items():
        table = read_scores(run_paths.fs, paths, ["uri", "score"])
        known = [labels.get(uri, -1) for uri in table["uri"].to_pylist()]
        if set(known) == {0, 1}:
            name = "image AUROC" if len(groups) == 1 else f"image AUROC {group}"
            metrics[name] = image_auroc(known, table["score"].to_numpy())
    return metrics
