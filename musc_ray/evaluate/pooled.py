"""Score images of several groups together, for their evaluation alone.

Scores of different groups are each scaled to 0..1 and cannot be compared. As MuSc's code does for subsets, patch maps
are scored apart, and RsCIN runs over all images of the category at once.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from musc_ray.core.rscin import rscin
from musc_ray.errors import MuscRayError
from musc_ray.storage.manifest import RunManifest
from musc_ray.storage.paths import OutPaths
from musc_ray.storage.shards import read_class_tokens, read_meta


def pooled_scores(
    out_paths: OutPaths, run: RunManifest, scored_in: Sequence[str], ids: Sequence[str], raw: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Compute scores after RsCIN (N,) float32 over the images of several groups.

    Args:
        out_paths: paths of OUT.
        run: its run.json.
        scored_in: the groups.
        ids: (N,) of the images.
        raw: (N,) scores before RsCIN.

    Raises:
        MuscRayError: the features are missing or broken.
    """
    places = {image_id: place for place, image_id in enumerate(ids)}
    tokens = np.full((len(ids), run.resolved.class_channels), np.nan, np.float32)
    for group in scored_in:
        for path in out_paths.written_shards(out_paths.features(run.features_id, group)).values():
            meta = read_meta(out_paths.fs, path)
            if meta.image_size != run.image_size_of(group):
                continue
            held = [image.image_id for image in meta.extracted if image.image_id in places]
            for image_id, token in zip(held, read_class_tokens(out_paths.fs, path, held), strict=True):
                tokens[places[image_id]] = token
    if np.isnan(tokens).any():
        raise MuscRayError(
            f"Images of {len(scored_in)} groups are evaluated together, which needs their features; some are missing: "
            "run again with keep_features."
        )
    return rscin(raw, tokens, tuple(run.settings.k_list))
