"""Write a shard of the features table; `shards` reads it.

Binary on purpose: FixedSizeList<float16> writes 30 times and reads 17 times slower; compression saves 8 % of the bytes.
"""

import json
import zlib
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import fsspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from musc_ray.storage.checked_columns import CROP, FLOAT32, binary_rows, checksum, interleaved_rows, row_name
from musc_ray.storage.filesystem import atomic_file
from musc_ray.storage.layer_columns import LayerTokens, layer_values
from musc_ray.storage.shards import CLASS_TOKEN, METADATA_CHECKSUM_KEY, METADATA_KEY, FeaturesMeta

ROW_GROUP_BYTES = 2**28
FEW_HAVE = (
    "intensity",
    "one_picture",
    "original_channels",
    "basis_sha256",
    "crops",
    "whole_grid",
    "whole_size",
)
"""Metadata that few shards have; it is left out of the others, so that they are as earlier versions wrote them."""


class Wholes(NamedTuple):
    """What is stored of A whole images beside their crops.

    Attributes:
        class_tokens: (A, class_channels) float32.
        layers: in the order of the layers.
    """

    class_tokens: npt.NDArray[np.float32]
    layers: Sequence[LayerTokens]


def write_shard(
    fs: fsspec.AbstractFileSystem,
    path: str,
    meta: FeaturesMeta,
    class_tokens: npt.NDArray[np.float32],
    layers: Sequence[npt.NDArray[np.float16] | LayerTokens],
    wholes: Wholes | None = None,
) -> int:
    """Write a shard atomically.

    Args:
        meta: its `extracted` images, A of them, are the rows; where they are cut, each has P crops.
        class_tokens: (A, class_channels) float32; of crops (A * P, class_channels).
        layers: in the order of meta.layers, as many rows; an array is float16 tokens (A, h*w, C) that are not
            compressed.
        wholes: of the whole images, where they are cut.

    Returns:
        Bytes of features written.

    Raises:
        ValueError: wholes do not go with what `meta` says of crops.
    """
    if (wholes is not None) != (meta.crops is not None):
        raise ValueError("rows of whole images go with crops, and with nothing else")
    columns, checksums = _columns(meta, _values(meta, class_tokens, layers), wholes and _values(meta, *wholes))
    content = json.dumps({**_described(meta), "checksums": checksums}).encode()
    described = {METADATA_KEY: content, METADATA_CHECKSUM_KEY: str(zlib.crc32(content))}
    table = pa.table(columns).replace_schema_metadata(described)
    row_bytes = max(1, table.nbytes // max(1, len(table)))
    with atomic_file(fs, path) as partial:
        pq.write_table(
            table,
            partial,
            row_group_size=max(1, ROW_GROUP_BYTES // row_bytes),
            compression="none",
            use_dictionary=False,
            write_statistics=False,
        )
    return int(table.nbytes)


Values = dict[str, npt.NDArray[Any]]
"""Binary columns by name, (A, ...) each."""


def _columns(
    meta: FeaturesMeta, rows: Values, wholes: Values | None
) -> tuple[dict[str, pa.Array | pa.ChunkedArray], dict[str, list[int]]]:
    """Return the columns of a table and the checksums of the binary ones, in the order of images and places."""
    keys = [(image, place) for image in meta.extracted for place in range(meta.places)]
    names = [row_name(image.image_id, place, meta.crops is not None) for image, place in keys]
    columns: dict[str, pa.Array | pa.ChunkedArray] = {
        "image_id": pa.array([image.image_id for image, _ in keys], pa.string()),
        "uri": pa.array([image.uri for image, _ in keys], pa.string()),
    }
    if wholes is None:
        columns |= {name: binary_rows(array) for name, array in rows.items()}
        return columns, {name: _checksums(names, array) for name, array in rows.items()}
    columns[CROP] = pa.array([place for _, place in keys], pa.int16())
    columns |= {name: interleaved_rows(array, rows[name], meta.places - 1) for name, array in wholes.items()}
    return columns, {name: _interleaved(array, rows[name], names, meta.places) for name, array in wholes.items()}


def _values(
    meta: FeaturesMeta,
    class_tokens: npt.NDArray[np.float32],
    layers: Sequence[npt.NDArray[np.float16] | LayerTokens],
) -> Values:
    """Return the binary columns of some rows."""
    values: Values = {CLASS_TOKEN: np.ascontiguousarray(class_tokens, FLOAT32)}
    for layer, stored in zip(meta.layers, layers, strict=True):
        whole = stored if isinstance(stored, LayerTokens) else LayerTokens(stored)
        values |= layer_values(meta.dtype, meta.basis_sha256 is not None, layer, whole)
    return values


def _checksums(names: Sequence[str], array: npt.NDArray[Any]) -> list[int]:
    return [checksum(name, row) for name, row in zip(names, array, strict=True)]


def _interleaved(wholes: npt.NDArray[Any], crops: npt.NDArray[Any], names: Sequence[str], places: int) -> list[int]:
    """Return the checksums of rows in the order in which they are written: each whole image, then its crops."""
    found = [0] * len(names)
    found[::places] = _checksums(names[::places], wholes)
    behind = [row for row in range(len(names)) if row % places]
    for row, sum_of_crop in zip(behind, _checksums([names[row] for row in behind], crops), strict=True):
        found[row] = sum_of_crop
    return found


def _described(meta: FeaturesMeta) -> dict[str, Any]:
    """Convert to JSON, without what few shards have."""
    content = asdict(meta)
    for name in FEW_HAVE:
        if content[name] is None:
            del content[name]
    for image in content["images"]:
        for name in ("remarks", "outside"):
            if not image[name]:
                del image[name]
    return content
