"""Runs with chosen scores, and what people said of their images."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from musc_ray.core.ranks import percentiles, ranks
from musc_ray.core.rescoring import min_max
from musc_ray.sources.images import image_id
from musc_ray.storage.complete_runs import complete_run
from musc_ray.storage.filesystem import write_json
from musc_ray.storage.manifest import RunManifest
from musc_ray.storage.parquet import write_table
from musc_ray.storage.paths import OutPaths
from musc_ray.storage.schemas import CATALOG, SCORES
from musc_ray.storage.verdicts import Verdict, VerdictWord, add_verdicts
from tests.helpers.manifests import SCORED_AT, run_record, started_record


def uri_of(name: str) -> str:
    """Return the URI of an image."""
    return f"file:///archive/{name}.png"


def id_of(name: str) -> str:
    """Return the id of an image."""
    return image_id(uri_of(name))


def write_scored(
    out_paths: OutPaths,
    run_id: str,
    groups: Mapping[str, Mapping[str, float]],
    hour: int = 0,
    catalog_only: Mapping[str, list[str]] | None = None,
    **changed: Any,
) -> RunManifest:
    """Write a run with raw scores by group and name; scores are the raw ones scaled, as a rescoring with k = 1 gives.

    Args:
        out_paths: of the OUT.
        run_id: name of the run.
        groups: raw scores by group and name of image.
        hour: when it was scored.
        catalog_only: images without scores, by group.
        changed: in the manifest.
    """
    run_paths, at = out_paths.run(run_id), SCORED_AT + timedelta(hours=hour)
    listed = []
    for group, of_images in groups.items():
        ids, raw = [id_of(name) for name in of_images], np.array(list(of_images.values()), np.float32)
        settings = changed.get("settings", {})
        scores = raw if settings.get("rescoring") == "none" else min_max(raw)
        count = len(ids)
        columns = {
            "image_id": ids,
            "uri": [uri_of(name) for name in of_images],
            "group": [group] * count,
            "run_id": [run_id] * count,
            "scored_at": [at] * count,
            "score_raw": raw,
            "score": scores,
            "rank": ranks(scores, np.array(ids)),
            "percentile": percentiles(scores),
            "grid_h": np.ones(count, np.int16),
            "grid_w": np.ones(count, np.int16),
            "patch_map": [[value] for value in raw.tolist()],
        }
        for part, start in enumerate(range(0, count, 3)):
            table = pa.table({name: columns[name][start : start + 3] for name in SCORES.names}, schema=SCORES)
            write_table(out_paths.fs, run_paths.part(run_paths.scores, group, part), table)
        listed += [(group, name) for name in of_images]
    listed += [(group, name) for group, names in (catalog_only or {}).items() for name in names]
    rows = [
        {"image_id": id_of(name), "uri": uri_of(name), "group": group, "version": "1", "shard": 0, "modified": None}
        for group, name in listed
    ]
    write_table(out_paths.fs, run_paths.catalog, pa.Table.from_pylist(rows, schema=CATALOG))
    counts = {name: len(of_images) for name, of_images in groups.items()}
    write_json(out_paths.fs, run_paths.started_json, started_record(run_id, counts))
    write_json(out_paths.fs, run_paths.run_json, run_record(run_id, **{"scored_at": at.isoformat(), **changed}))
    return complete_run(out_paths, run_id)


def say(out_paths: OutPaths, word: VerdictWord, names: list[str], group: str = "a", minute: int = 0) -> None:
    """Store a verdict on images."""
    when = datetime(2026, 3, 5, tzinfo=UTC) + timedelta(minutes=minute)
    add_verdicts(out_paths, [Verdict(id_of(name), uri_of(name), group, word, "", "", when) for name in names])
