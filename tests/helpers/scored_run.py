"""A run that was scored, as far as its report looks at it, with generated scores, patch maps and neighbours."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from musc_ray.core.peaks import peak_pixels
from musc_ray.core.ranks import percentiles, ranks
from musc_ray.core.rescoring import weighted_scores
from musc_ray.sources.images import image_id
from musc_ray.storage.complete_runs import complete_run
from musc_ray.storage.filesystem import write_json
from musc_ray.storage.manifest import RunManifest
from musc_ray.storage.parquet import read_table, write_table
from musc_ray.storage.paths import OutPaths
from musc_ray.storage.schemas import ERRORS, NEIGHBOURS, SCORES, SIZE_AND_PEAK
from tests.helpers.manifests import SCORED_AT, run_record, started_record

RUN = "generated"
K_LIST, SIMILARITIES = (1, 2, 3), (0.9, 0.8)


def write_run(
    out_paths: OutPaths,
    groups: Mapping[str, Sequence[str]],
    grid: tuple[int, int] = (16, 16),
    shard: int = 64,
    errors: Sequence[Mapping[str, str]] = (),
    sizes: Mapping[str, tuple[int, int]] | None = None,
    **changed: Any,
) -> RunManifest:
    """Write the tables and manifest of a run; returns the latter, with what is `changed` in it.

    Raw scores are the largest patch scores, every image has the next two of its group for neighbours, and scores are
    made of both as they should be. With `sizes` (H, W) of all images by URI, the scores say them, and the peaks.
    """
    for number, (name, uris) in enumerate(groups.items()):
        _write_group(out_paths, name, uris, grid, shard, np.random.default_rng(number))
        if sizes is not None:
            _add_peaks(out_paths, name, grid, sizes)
    table = pa.Table.from_pylist([dict(error) for error in errors], schema=ERRORS)
    write_table(out_paths.fs, f"{out_paths.run(RUN).errors}/part-00000.parquet", table)
    scored = sum(map(len, groups.values()))
    write_json(
        out_paths.fs, out_paths.run(RUN).started_json, started_record(RUN, {name: len(u) for name, u in groups.items()})
    )
    counts = {"images": scored + len(errors), "scored": scored, "failed": len(errors), **changed.pop("counts", {})}
    resolved = {"grid": list(grid), "image_size": [14 * side for side in grid], **changed.pop("resolved", {})}
    run = run_record(RUN, scored_at=SCORED_AT.isoformat(), resolved=resolved, counts=counts, **changed)
    write_json(out_paths.fs, out_paths.run(RUN).run_json, run)
    return complete_run(out_paths, RUN)


def _add_peaks(out_paths: OutPaths, name: str, grid: tuple[int, int], sizes: Mapping[str, tuple[int, int]]) -> None:
    for path in out_paths.run(RUN).parts(out_paths.run(RUN).scores, name):
        table = read_table(out_paths.fs, path)
        of_images = [sizes[uri] for uri in table["uri"].to_pylist()]
        maps = np.array(table["patch_map"].to_pylist(), np.float32).reshape(-1, *grid)
        rows = [(*size, *peak) for size, peak in zip(of_images, peak_pixels(maps, of_images), strict=True)]
        for field, values in zip(SIZE_AND_PEAK, zip(*rows, strict=True), strict=True):
            table = table.append_column(field, pa.array(values, field.type))
        write_table(out_paths.fs, path, table)


def _write_group(
    out_paths: OutPaths, name: str, uris: Sequence[str], grid: tuple[int, int], shard: int, chance: np.random.Generator
) -> None:
    ids = np.array([image_id(uri) for uri in uris])
    maps = chance.random((len(ids), grid[0] * grid[1]), dtype=np.float32)
    maps *= 0.4 + chance.beta(2, 8, (len(ids), 1)).astype(np.float32)
    raw = maps.max(axis=1)
    near = (np.arange(len(ids))[:, None] + np.arange(1 + len(SIMILARITIES))) % len(ids)
    similarities = np.array([(1.0, *SIMILARITIES)] * len(ids), np.float32)
    scores = weighted_scores(raw, similarities, near, K_LIST)
    columns = {"rank": ranks(scores, ids), "percentile": percentiles(scores), "score": scores}
    for part, start in enumerate(range(0, len(ids), shard)):
        rows = slice(start, min(start + shard, len(ids)))
        size = rows.stop - start
        constant = {"group": name, "run_id": RUN, "scored_at": SCORED_AT, "grid_h": grid[0], "grid_w": grid[1]}
        arrays = {field: pa.array([value] * size, SCORES.field(field).type) for field, value in constant.items()}
        arrays |= {field: values[rows] for field, values in columns.items()}
        arrays |= {"image_id": ids[rows].tolist(), "uri": list(uris[rows])}
        arrays |= {"score_raw": raw[rows], "patch_map": maps[rows].tolist()}
        run_paths = out_paths.run(RUN)
        table = pa.table({field: arrays[field] for field in SCORES.names}, schema=SCORES)
        write_table(out_paths.fs, run_paths.part(run_paths.scores, name, part), table)
        columns_of_similar = [arrays["image_id"], [name] * size, ids[near[rows, 1:]].tolist()]
        columns_of_similar.append([list(SIMILARITIES)] * size)
        similar = pa.table(columns_of_similar, schema=NEIGHBOURS)
        write_table(out_paths.fs, run_paths.part(run_paths.neighbours, name, part), similar)
