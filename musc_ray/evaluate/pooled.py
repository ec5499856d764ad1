"""Image scores of images that were scored in several groups: rescored together, for their evaluation alone.

Scores of different groups are each scaled to 0..1 and cannot be compared. MuSc's code for subsets scores their maps
apart and rescores all images of the category at once; so is it here.
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
    layout: OutPaths, run: RunManifest, scored_in: Sequence[str], ids: Sequence[str], raw: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Scores after RsCIN (N,) over images of several groups.

    Args:
        layout: where the run lies.
        run: its run.json.
        scored_in: the groups.
        ids: (N,) of the images.
        raw: (N,) their scores before RsCIN.

    Raises:
        MuscRayError: the features are no longer there, or broken.
    """
    places = {image_id: place for place, image_id in enumerate(ids)}
    tokens = np.full((len(ids), run.resolved.class_channels), np.nan, np.float32)
    for group in scored_in:
        for path in layout.written_shards(layout.features(run.features_id, group)).values():
            held = [i.image_id for i in read_meta(layout.fs, path).extracted if i.image_id in places]
            for image_id, token in zip(held, read_class_tokens(layout.fs, path, held), strict=True):
                tokens[places[image_id]] = token
    if np.isnan(tokens).any():
        raise MuscRayError(
            f"Images of {len(scored_in)} groups are evaluated together, which needs their features, and some are gone: "
            "run again with keep_features."
        )
    return rscin(raw, tokens, tuple(run.settings.k_list))
