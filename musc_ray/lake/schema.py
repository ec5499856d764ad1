"""Define the tables of the lake: columns with comments, partitions; the score columns are those of storage/schemas."""

from collections.abc import Mapping

import pyarrow as pa
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.transforms import DayTransform, IdentityTransform
from pyiceberg.types import (
    BooleanType,
    FloatType,
    IcebergType,
    IntegerType,
    ListType,
    LongType,
    NestedField,
    StringType,
    TimestamptzType,
)

from musc_ray.storage.schemas import DEFECT_GROUP, IS_ANOMALOUS, SCORES, SIZE_AND_PEAK

COMMENTS = {
    "image_id": "32 hexadecimal digits: a hash of the uri",
    "uri": "location of the image",
    "group": "product and view whose images score each other",
    "run_id": "the run that gave the scores; its settings, versions and weights are in the table of runs",
    "scored_at": "when the run scored, UTC; one time a run",
    "score_raw": "largest value of the patch map at the model's input size",
    "score": "anomaly score after rescoring, comparable within its group and run",
    "rank": "1 = most anomalous of its group",
    "percentile": "share of the group that scores lower, 0 to 100",
    "grid_h": "rows of the patch map",
    "grid_w": "columns of the patch map",
    "patch_map": "anomaly score of each patch, row-major; NaN where a patch is ignored or background",
    "is_anomalous": "whether score reaches the run's threshold; null where the run has none",
    "defect_group": "repeated defect of its group that the image has, from 1; null where unknown",
    "height": "pixels of the upright image from top to bottom; null where unknown",
    "width": "pixels of the upright image from left to right; null where unknown",
    "peak_y": "row of the image's pixel where the patch map is largest, from 0; null where unknown",
    "peak_x": "column of the image's pixel where the patch map is largest, from 0; null where unknown",
    "features_id": "folder of the features below out",
    "backbone": "model that made the features",
    "weights_sha256": "hash of the model's weights",
    "code_version": "version of musc-ray",
    "source": "where the run's images came from",
    "source_snapshot": "snapshot of the source, where that is an Iceberg table",
    "out": "folder of the run's files",
    "images": "images of the run",
    "scored": "images with a score",
    "failed": "images that could not be read",
    "settings": "all settings of the run as JSON",
}

MAY_BE_MISSING = (IS_ANOMALOUS.name, "patch_map")
"""Columns of the scores that a run may come without."""

RUNS = pa.schema(
    [
        pa.field("run_id", pa.string(), nullable=False),
        pa.field("scored_at", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("features_id", pa.string(), nullable=False),
        pa.field("backbone", pa.string()),
        pa.field("weights_sha256", pa.string()),
        pa.field("code_version", pa.string()),
        pa.field("source", pa.string()),
        pa.field("source_snapshot", pa.int64()),
        pa.field("out", pa.string(), nullable=False),
        pa.field("images", pa.int64(), nullable=False),
        pa.field("scored", pa.int64(), nullable=False),
        pa.field("failed", pa.int64(), nullable=False),
        pa.field("settings", pa.string(), nullable=False),
    ]
)

TYPES: Mapping[pa.DataType, IcebergType] = {
    pa.string(): StringType(),
    pa.bool_(): BooleanType(),
    pa.float32(): FloatType(),
    pa.int16(): IntegerType(),
    pa.int32(): IntegerType(),
    pa.int64(): LongType(),
    pa.timestamp("us", tz="UTC"): TimestamptzType(),
}


def scores_schema(maps: bool, thresholds: bool, defects: bool = False) -> pa.Schema:
    """Return the columns of a run's scores in the lake: with or without patch maps, `is_anomalous`, `defect_group`."""
    fields = [field for field in SCORES if maps or field.name != "patch_map"]
    fields += [DEFECT_GROUP] if defects else []
    fields += list(SIZE_AND_PEAK)
    fields += [IS_ANOMALOUS] if thresholds else []
    return pa.schema(
        [
            pa.field(
                field.name,
                pa.int32() if field.type == pa.int16() else field.type,  # Iceberg has no shorter ones
                field.nullable or field.name in MAY_BE_MISSING,
            )
            for field in fields
        ]
    )


def iceberg_schema(columns: pa.Schema) -> Schema:
    """Convert columns to Iceberg's form, with comments; field ids in order, those of list items after them."""
    fields = []
    for number, field in enumerate(columns, 1):
        kind = (
            ListType(element_id=len(columns) + number, element_type=FloatType(), element_required=False)
            if pa.types.is_list(field.type)
            else TYPES[field.type]
        )
        fields.append(NestedField(number, field.name, kind, required=not field.nullable, doc=COMMENTS[field.name]))
    return Schema(*fields)


def by_day_and_group(schema: Schema) -> PartitionSpec:
    """Partition a table of scores by the day of `scored_at` and by `group`."""
    day, group = schema.find_field("scored_at").field_id, schema.find_field("group").field_id
    return PartitionSpec(
        PartitionField(source_id=day, field_id=1000, transform=DayTransform(), name="scored_at_day"),
        PartitionField(source_id=group, field_id=1001, transform=IdentityTransform(), name="group"),
    )
