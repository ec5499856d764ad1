"""Score images of several groups together, for their evaluation alone.

Scores of different groups are each scaled to 0..1 and cannot be compared. As MuSc's code does for subsets, patch maps
are scored apart, and the rescoring runs over all images of the category at once.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch

from musc_ray.core.crops import CropLayout
from musc_ray.core.rscin import rscin
from musc_ray.core.rscon import features_at, rscon, salient_features, salient_layer
from musc_ray.core.stitching import crop_patches
from musc_ray.errors import MuscRayError
from musc_ray.features.layer_reader import LayerReader
from musc_ray.storage.manifest import RunManifest
from musc_ray.storage.parquet import read_table
from musc_ray.storage.paths import OutPaths
from musc_ray.storage.shards import FeaturesMeta, read_class_tokens, read_meta

FloatArray = npt.NDArray[np.float32]

ReadVectors = Callable[[str, str, FeaturesMeta, Sequence[str]], FloatArray]
"""Reads a vector an image from a shard: group, path, its metadata, and ids to (A, C), of all groups alike."""


def pooled_scores(
    out_paths: OutPaths, run: RunManifest, scored_in: Sequence[str], ids: Sequence[str], raw: FloatArray
) -> FloatArray:
    """Compute rescored scores (N,) over the images of several groups, by the run's rescoring.

    Args:
        out_paths: paths of OUT.
        run: its run.json.
        scored_in: the groups.
        ids: (N,) of the images.
        raw: (N,) scores before the rescoring.

    Raises:
        MuscRayError: the features are missing or broken.
    """
    settings = run.settings
    if settings.rescoring == "none":
        return raw

    reader = LayerReader(out_paths, run.features_id, settings, run.resolved.layers)

    def class_tokens(group: str, path: str, _: FeaturesMeta, held: Sequence[str]) -> FloatArray:
        return read_class_tokens(out_paths.fs, path, held)

    if settings.rescoring == "rscin":
        return rscin(raw, _vectors(reader, run, scored_in, ids, class_tokens), settings.k_list)
    maps = _patch_maps(out_paths, run, scored_in)

    def salient(group: str, path: str, meta: FeaturesMeta, held: Sequence[str]) -> FloatArray:
        own, grid = np.stack([maps[image_id] for image_id in held]), meta.grid_of((0,))
        tokens = reader.read_in_full(group, path, salient_layer(meta.layers), held)
        settled = settings.degrees, settings.aggregation, reader.is_compressed(group)
        if meta.crops is None:
            return salient_features(tokens, grid, torch.from_numpy(own), *settled)
        # of cut images the whole image's patch under the peak, as if it were their only crop
        stitched = own.reshape(-1, *meta.crops.map_grid(meta.grid))
        patches = crop_patches(stitched, CropLayout(1, 1), grid)[:, 1]
        return features_at(tokens, grid, torch.from_numpy(patches), *settled)

    return rscon(raw, _vectors(reader, run, scored_in, ids, salient), settings.k_list)


def _vectors(
    reader: LayerReader, run: RunManifest, scored_in: Sequence[str], ids: Sequence[str], read: ReadVectors
) -> FloatArray:
    """Read a vector for each of the images (N, C) from the feature shards of the groups.

    Raises:
        MuscRayError: the features of some are missing.
    """
    wanted, out_paths = set(ids), reader.out_paths
    found: dict[str, FloatArray] = {}
    for group in scored_in:
        for path in out_paths.written_shards(out_paths.features(run.features_id, group)).values():
            meta = read_meta(out_paths.fs, path)
            if meta.shape.whole != run.image_size_of(group) or meta.basis_sha256 != reader.basis(group):
                continue
            held = [image.image_id for image in meta.extracted if image.image_id in wanted]
            if held:
                found |= dict(zip(held, read(group, path, meta, held), strict=True))
    if len(found) < len(wanted):
        raise MuscRayError(
            f"Images of {len(scored_in)} groups are evaluated together, which needs their features; some are missing: "
            "run again with keep_features."
        )
    return np.stack([found[image_id] for image_id in ids])


def _patch_maps(out_paths: OutPaths, run: RunManifest, scored_in: Sequence[str]) -> Mapping[str, FloatArray]:
    """Read the patch maps (L,) of the groups' images from the scores, by image id."""
    run_paths = out_paths.run(run.run_id)
    maps: dict[str, FloatArray] = {}
    for paths in run_paths.parts_of(run_paths.scores, scored_in).values():
        for path in paths:
            table = read_table(run_paths.fs, path, ["image_id", "patch_map"])
            rows = (np.array(row.values.to_numpy(), np.float32) for row in table["patch_map"])
            maps |= dict(zip(table["image_id"].to_pylist(), rows, strict=True))
    return maps
