"""Column names and types of the tables that others read: contracts, see README."""

import pyarrow as pa

CATALOG = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("group", pa.string(), nullable=False),
        pa.field("version", pa.string(), nullable=False),
        pa.field("shard", pa.int32(), nullable=False),
    ]
)

SCORES = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("group", pa.string(), nullable=False),
        pa.field("run_id", pa.string(), nullable=False),
        pa.field("scored_at", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("score_raw", pa.float32(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),
        pa.field("rank", pa.int32(), nullable=False),
        pa.field("percentile", pa.float32(), nullable=False),
        pa.field("grid_h", pa.int16(), nullable=False),
        pa.field("grid_w", pa.int16(), nullable=False),
        pa.field("patch_map", pa.list_(pa.float32()), nullable=False),
    ]
)

IS_ANOMALOUS = pa.field("is_anomalous", pa.bool_(), nullable=False)
"""Last column of the scores table of a run with a threshold or contamination; absent without."""

ERRORS = pa.schema(
    [pa.field(name, pa.string(), nullable=False) for name in ("uri", "group", "stage", "error", "message")]
)

MAPS = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("score_raw", pa.float32(), nullable=False),
        pa.field("patch_map", pa.list_(pa.float32()), nullable=False),
    ]
)
"""Intermediate: what the reduce stage hands to the publish stage, a file a shard."""
