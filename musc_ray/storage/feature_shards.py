"""The feature shards of a group in OUT: which are written, and removing those that are not needed."""

import logging
from concurrent.futures import ThreadPoolExecutor

from musc_ray.storage.paths import OutPaths
from musc_ray.storage.shards import BrokenShardError, FeaturesMeta, read_meta

MAX_FOOTERS = 32
"""Footers that are read at a time."""

logger = logging.getLogger(__name__)


def existing_shards(out_paths: OutPaths, features_id: str, group: str) -> dict[int, FeaturesMeta]:
    """Read the footers of a group's written shards, by number; leave out broken ones."""

    def described(path: str) -> FeaturesMeta | None:
        try:
            meta = read_meta(out_paths.fs, path)
            if meta.features_id != features_id:
                raise BrokenShardError(path, f"its features are {meta.features_id}")
        except BrokenShardError as error:
            logger.warning("%s is broken (%s): its images count as not extracted.", error.path, error.reason)
            return None
        return meta

    written = out_paths.written_shards(out_paths.features(features_id, group))
    with ThreadPoolExecutor(MAX_FOOTERS) as pool:
        metas = zip(written, pool.map(described, written.values()), strict=True)
        return {number: meta for number, meta in metas if meta is not None}


def forget_features(out_paths: OutPaths, features_id: str, group: str, image_ids: set[str]) -> None:
    """Delete a group's shards that hold none but the given images; shared ones stay, and so do other runs' images."""
    for number, meta in existing_shards(out_paths, features_id, group).items():
        if all(image.image_id in image_ids for image in meta.images):
            out_paths.fs.rm_file(out_paths.shard(features_id, group, number))
