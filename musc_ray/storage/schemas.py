"""Column names and types of the tables that others read: contracts, see README."""

import pyarrow as pa

CATALOG = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("group", pa.string(), nullable=False),
        pa.field("version", pa.string(), nullable=False),
        pa.field("shard", pa.int32(), nullable=False),
        pa.field("modified", pa.timestamp("us", tz="UTC")),
        pa.field("known_good", pa.bool_()),
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

DEFECT_GROUP = pa.field("defect_group", pa.int32())
"""Of the scores table: which repeated defect of its group an image has, from 1; null where none is known.

Behind the columns of SCORES; tables of versions before it lack the column.
"""

SIZE_AND_PEAK = pa.schema([pa.field(name, pa.int32()) for name in ("height", "width", "peak_y", "peak_x")])
"""Of the scores table, behind `defect_group`: size of the upright image, and where its patch map is largest, in pixels.

Null where the features do not tell the size; tables of versions before them lack the columns.
"""

IS_ANOMALOUS = pa.field("is_anomalous", pa.bool_(), nullable=False)
"""Last column of the scores table of a run with a threshold or contamination; absent without."""

NEIGHBOURS = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("group", pa.string(), nullable=False),
        pa.field("neighbours", pa.list_(pa.string()), nullable=False),
        pa.field("similarities", pa.list_(pa.float32()), nullable=False),
    ]
)

ERRORS = pa.schema(
    [pa.field(name, pa.string(), nullable=False) for name in ("uri", "group", "stage", "error", "message")]
)

SKIPPED = pa.schema([pa.field(name, pa.string(), nullable=False) for name in ("uri", "reason", "message")])

DEFECTS = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("group", pa.string(), nullable=False),
        pa.field("defect_group", pa.int32(), nullable=False),
        pa.field("patches", pa.list_(pa.int32()), nullable=False),
    ]
)
"""Images with a repeated defect, and the patches (row-major) that hold it."""

MAPS = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("score_raw", pa.float32(), nullable=False),
        pa.field("patch_map", pa.list_(pa.float32()), nullable=False),
    ]
)
"""Intermediate: what the reduce stage hands to the publish stage, a file a shard."""

METRICS = pa.schema(
    [
        pa.field("group", pa.string(), nullable=False),
        pa.field("defect", pa.string(), nullable=False),
        pa.field("images", pa.int32(), nullable=False),
        pa.field("anomalous", pa.int32(), nullable=False),
        pa.field("image_auroc", pa.float64()),
        pa.field("image_ap", pa.float64()),
        pa.field("image_f1_max", pa.float64()),
        pa.field("image_threshold", pa.float64()),
        pa.field("pixel_auroc", pa.float64()),
        pa.field("pixel_ap", pa.float64()),
        pa.field("pixel_f1_max", pa.float64()),
        pa.field("pixel_threshold", pa.float64()),
        pa.field("aupro", pa.float64()),
        pa.field("aupimo", pa.float64()),
        pa.field("is_mean", pa.bool_(), nullable=False),
    ]
)
"""Metrics of a group (`defect` empty) and of each of its defects against its good images; the last row, the only one
with `is_mean`, is the mean over the groups, also if one of them is named "mean"."""

LABELS = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("group", pa.string(), nullable=False),
        pa.field("label", pa.int8(), nullable=False),
        pa.field("defect", pa.string(), nullable=False),
        pa.field("mask", pa.string()),
    ]
)

REGIONS = pa.schema(
    [
        pa.field("row", pa.int32(), nullable=False),
        pa.field("defect", pa.string(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("starts", pa.list_(pa.int32()), nullable=False),
        pa.field("lengths", pa.list_(pa.int32()), nullable=False),
        pa.field("regions", pa.list_(pa.int32()), nullable=False),
    ]
)
"""Intermediate: the masks of a file of scores as runs of pixels, for passes over its maps; `row` is in that file."""

VERDICTS = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("group", pa.string(), nullable=False),
        pa.field("verdict", pa.string(), nullable=False),
        pa.field("note", pa.string(), nullable=False),
        pa.field("who", pa.string(), nullable=False),
        pa.field("when", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("imported_at", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)
"""What people said of images: `verdict` is good, defective or unsure. A row a saying; the latest `when` counts."""
