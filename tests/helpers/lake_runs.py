"""Complete runs to publish, with generated scores, without files."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

import numpy as np
import pyarrow as pa

from musc_ray.core.ranks import percentiles, ranks
from musc_ray.lake.run_tables import LakeRun
from musc_ray.sources.images import image_id
from musc_ray.storage.manifest import RunManifest
from musc_ray.storage.schemas import IS_ANOMALOUS, SCORES, SIZE_AND_PEAK
from tests.helpers.manifests import run_record

GRID = (2, 3)


def lake_run(
    run_id: str,
    groups: Mapping[str, Sequence[str]],
    scored_at: datetime,
    threshold: float | None = None,
    maps: bool = True,
    **changed: object,
) -> LakeRun:
    """A run on the images of these URIs; its scores come from its name and time."""
    tables = [scores(run_id, name, uris, scored_at, threshold) for name, uris in groups.items()]
    images = sum(map(len, groups.values()))
    record = run_record(
        run_id,
        features_id="0123456789abcdef",
        scored_at=scored_at.isoformat(),
        settings={"source": "s3://plant/images", "degrees": [1, 3, 5], "threshold": threshold},
        resolved={"backbone": "timm:vit", "weights_sha256": "ab" * 32},
        counts={"images": images, "scored": images, "failed": 0},
        **({} if threshold is None else {"thresholds": dict.fromkeys(groups, threshold)}),
    )

    def read(columns: Sequence[str]) -> Iterator[pa.Table]:
        return (table.select(columns) for table in tables)

    return LakeRun(RunManifest.model_validate(record | changed), "/plant/out", read, maps)


def scores(
    run_id: str, group: str, uris: Sequence[str], scored_at: datetime, threshold: float | None = None
) -> pa.Table:
    """A file of the scores table."""
    chance = np.random.default_rng([*run_id.encode(), *group.encode(), int(scored_at.timestamp())])
    maps = chance.random((len(uris), GRID[0] * GRID[1]), dtype=np.float32)
    raw = maps.max(axis=1)
    ids = np.array([image_id(uri) for uri in uris])
    columns = {
        "image_id": ids,
        "uri": list(uris),
        "group": [group] * len(uris),
        "run_id": [run_id] * len(uris),
        "scored_at": [scored_at] * len(uris),
        "score_raw": raw,
        "score": raw,
        "rank": ranks(raw, ids),
        "percentile": percentiles(raw),
        "grid_h": np.full(len(uris), GRID[0], np.int16),
        "grid_w": np.full(len(uris), GRID[1], np.int16),
        "patch_map": maps.tolist(),
        "height": np.full(len(uris), 2000, np.int32),
        "width": np.full(len(uris), 3000, np.int32),
        "peak_y": maps.argmax(axis=1).astype(np.int32) // GRID[1],
        "peak_x": maps.argmax(axis=1).astype(np.int32) % GRID[1],
    }
    table = pa.table(columns, schema=pa.schema([*SCORES, *SIZE_AND_PEAK]))
    return table if threshold is None else table.append_column(IS_ANOMALOUS, pa.array(raw >= threshold))
