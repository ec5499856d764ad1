"""The features table: one Parquet file a shard, raw ViT tokens as binary columns, one column a layer.

Binary on purpose: FixedSizeList<float16> writes 30 times and reads 17 times slower; compression saves 8 % of the bytes.

The schema's metadata hold a CRC-32 of every image's values in every column, begun with its id, and one of themselves:
what is read is what was written for this very image, or a `BrokenShardError`. Parquet's own page checksums take as long
(0.2 s/GB) and see neither a broken footer nor rows that changed places.
"""

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from musc_ray.errors import MuscRayError, reason_of
from musc_ray.storage.filesystem import atomic_file, is_local
from musc_ray.storage.requests import in_turn

METADATA_KEY, METADATA_CHECKSUM_KEY = b"musc_ray", b"musc_ray_crc32"
ROW_GROUP_BYTES = 2**28
CLASS_TOKEN = "class_token"  # noqa: S105, a column
FLOAT16 = np.dtype("<f2")
FLOAT32 = np.dtype("<f4")

EXPONENT: dict[np.dtype, Any] = {FLOAT16: np.uint16(0x7C00), FLOAT32: np.uint32(0x7F800000)}
"""The bits that are all set in NaN and infinite numbers, and in no other."""


class BrokenShardError(MuscRayError):
    """A shard that is not, or no longer, what was written; a run computes it again."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"{self.path} is not a readable feature shard ({self.reason}): delete it and run again."


@dataclass(frozen=True)
class ShardImage:
    """What became of one image of a shard: extracted, or failed with an error class and message.

    Attributes:
        image_id, uri, version: as in the catalog.
        error, message: of one that failed.
        height, width: upright, in pixels; None of one that failed, and in shards older than these fields.
        remarks: what of the image its features do not show; a phrase each.
    """

    image_id: str
    uri: str
    version: str
    error: str | None = None
    message: str | None = None
    height: int | None = None
    width: int | None = None
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class FeaturesMeta:
    """What a shard's numbers mean; stored as JSON in the Parquet schema's metadata.

    Attributes:
        intensity: the range of deep pixels; None in groups without one.
        one_picture: digest of the pixels, if those of all extracted images are the same.
    """

    grid: tuple[int, int]
    layers: tuple[int, ...]
    channels: int
    class_channels: int
    image_size: tuple[int, int]
    backbone: str
    weights_sha256: str
    features_id: str
    dtype: str = "float16"
    images: list[ShardImage] = field(default_factory=list)
    intensity: tuple[float, float] | None = None
    one_picture: str | None = None

    @property
    def extracted(self) -> list[ShardImage]:
        """The images that have a row in the shard, in row order."""
        return [image for image in self.images if image.error is None]


Checksums = Mapping[str, Sequence[int]]
"""By column, the CRC-32 of each row."""


def layer_column(layer: int) -> str:
    """Column name of a layer's tokens: layer_05."""
    return f"layer_{layer:02d}"


def write_shard(
    fs: fsspec.AbstractFileSystem,
    path: str,
    meta: FeaturesMeta,
    class_tokens: npt.NDArray[np.float32],
    layers: Sequence[npt.NDArray[np.float16]],
) -> int:
    """Write a shard atomically.

    Args:
        meta: its `extracted` images are the rows.
        class_tokens: (A, class_channels) float32.
        layers: one (A, h*w, C) float16 array a layer, in the order of meta.layers.

    Returns:
        Bytes of features written.
    """
    images = meta.extracted
    values = {CLASS_TOKEN: np.ascontiguousarray(class_tokens, FLOAT32)}
    for layer, tokens in zip(meta.layers, layers, strict=True):
        values[layer_column(layer)] = np.ascontiguousarray(tokens, FLOAT16)
    columns = {
        "image_id": pa.array([image.image_id for image in images], pa.string()),
        "uri": pa.array([image.uri for image in images], pa.string()),
        **{name: _binary_rows(rows) for name, rows in values.items()},
    }
    checksums = {
        name: [_checksum(image.image_id, row) for image, row in zip(images, rows, strict=True)]
        for name, rows in values.items()
    }
    content = json.dumps({**_described(meta), "checksums": checksums}).encode()
    described = {METADATA_KEY: content, METADATA_CHECKSUM_KEY: str(zlib.crc32(content))}
    table = pa.table(columns).replace_schema_metadata(described)
    row_bytes = max(1, table.nbytes // max(1, len(images)))
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


def _described(meta: FeaturesMeta) -> dict[str, Any]:
    """Convert to JSON, without what few shards have: so that they are as earlier versions wrote them."""
    content = asdict(meta)
    for name in ("intensity", "one_picture"):
        if content[name] is None:
            del content[name]
    for image in content["images"]:
        if not image["remarks"]:
            del image["remarks"]
    return content


def _checksum(image_id: str, values: Any) -> int:
    """CRC-32 of an image's values, which are contiguous; its id comes first, so that no other's will do."""
    return zlib.crc32(memoryview(values).cast("B"), zlib.crc32(image_id.encode()))


def _binary_rows(array: npt.NDArray[np.generic]) -> pa.ChunkedArray:
    """Rows of a contiguous array as a binary column that shares its memory; chunked: a chunk's offsets are 32 bits."""
    size = array[:1].nbytes if len(array) else 0
    rows = max(1, (2**31 - 1) // max(1, size))
    chunks = []
    for start in range(0, len(array), rows):
        part = array[start : start + rows]
        offsets = np.arange(len(part) + 1, dtype=np.int64) * size
        buffers = [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(part.reshape(-1).view(np.uint8))]
        chunks.append(pa.Array.from_buffers(pa.binary(), len(part), buffers))
    return pa.chunked_array(chunks, pa.binary())


@in_turn
def read_meta(fs: fsspec.AbstractFileSystem, path: str) -> FeaturesMeta:
    """What a shard holds, from its footer alone.

    Raises:
        BrokenShardError: not a feature shard.
    """
    with fs.open(path, "rb") as file, _named(path):
        return _read_footer(file, path)[1]


def _parse_meta(metadata: dict[bytes, bytes] | None, path: str) -> tuple[FeaturesMeta, Checksums]:
    if metadata is None or METADATA_KEY not in metadata:
        raise BrokenShardError(path, "it has no musc_ray metadata")
    stored = metadata.get(METADATA_CHECKSUM_KEY)
    if stored is not None and stored != str(zlib.crc32(metadata[METADATA_KEY])).encode():
        raise BrokenShardError(path, "the checksum of its metadata is wrong")
    content = json.loads(metadata[METADATA_KEY])
    checksums = content.pop("checksums", {})  # a shard of an earlier version has none
    content["images"] = [
        ShardImage(**{**image, "remarks": tuple(image.get("remarks", ()))}) for image in content["images"]
    ]
    for key in ("grid", "layers", "image_size", "intensity"):
        content[key] = tuple(content[key]) if content.get(key) is not None else None
    return FeaturesMeta(**content), checksums


def _read_footer(file: Any, path: str) -> tuple[pq.ParquetFile, FeaturesMeta, Checksums]:
    """A shard's footer; one that speaks of other rows or columns is refused before memory is taken for them."""
    size = file.seek(0, 2)
    file.seek(0)
    parquet = pq.ParquetFile(file)
    footer = parquet.metadata
    meta, checksums = _parse_meta(parquet.schema_arrow.metadata, path)
    columns = {"image_id", CLASS_TOKEN, *map(layer_column, meta.layers)}
    bytes_told = sum(footer.row_group(group).total_byte_size for group in range(footer.num_row_groups))
    if footer.num_rows != len(meta.extracted) or not columns <= set(footer.schema.names) or bytes_told > size:
        raise BrokenShardError(path, "its table does not match its metadata")
    return parquet, meta, checksums


@in_turn
def read_layer(
    fs: fsspec.AbstractFileSystem, path: str, layer: int, image_ids: Sequence[str]
) -> npt.NDArray[np.float16]:
    """Raw tokens (A, h*w, C) float16 of one layer for some of a shard's images, in the order asked for.

    Raises:
        BrokenShardError: they are not what was written, or hold NaN or infinite numbers.
    """
    with _opened(fs, path) as (parquet, meta, checksums):
        values = meta.grid[0] * meta.grid[1] * meta.channels
        rows = _read_rows(parquet, checksums, layer_column(layer), image_ids, FLOAT16, values)
    return rows.reshape(len(image_ids), meta.grid[0] * meta.grid[1], meta.channels)


@in_turn
def read_class_tokens(fs: fsspec.AbstractFileSystem, path: str, image_ids: Sequence[str]) -> npt.NDArray[np.float32]:
    """Class tokens (A, class_channels) float32 for some of a shard's images, in the order asked for.

    Raises:
        BrokenShardError: as `read_layer`.
    """
    with _opened(fs, path) as (parquet, meta, checksums):
        return _read_rows(parquet, checksums, CLASS_TOKEN, image_ids, FLOAT32, meta.class_channels)


@contextmanager
def _named(path: str) -> Iterator[None]:
    """Name the shard that turns out to be broken; faults of the storage go on as they are."""
    try:
        yield
    except pa.ArrowMemoryError:
        raise
    except (pa.ArrowException, LookupError, TypeError, ValueError, RecursionError) as error:
        raise BrokenShardError(path, reason_of(error)) from error
    except OSError as error:
        if type(error) is OSError and error.errno is None:  # Arrow's own, of what it read
            raise BrokenShardError(path, reason_of(error)) from error
        raise


@contextmanager
def _opened(fs: fsspec.AbstractFileSystem, path: str) -> Iterator[tuple[pq.ParquetFile, FeaturesMeta, Checksums]]:
    """A shard for reading, its footer checked; a local one is mapped, which saves a copy."""
    with pa.memory_map(path) if is_local(fs) else fs.open(path, "rb") as file, _named(path):
        yield _read_footer(file, path)


def _read_rows(
    parquet: pq.ParquetFile,
    checksums: Checksums,
    column: str,
    image_ids: Sequence[str],
    dtype: np.dtype,
    values: int,
) -> npt.NDArray[Any]:
    """The checked values of a column for the given images, (A, values) in their order; `_opened` names the shard."""
    table = parquet.read(columns=["image_id", column])
    row_of = {image_id: row for row, image_id in enumerate(table["image_id"].to_pylist())}
    if len(row_of) * values * dtype.itemsize > table.nbytes:
        raise ValueError(f"{column} has fewer values than its metadata states")
    rows = np.empty((len(image_ids), values), dtype)
    for target, image_id in enumerate(image_ids):
        row = row_of[image_id]
        rows[target] = np.frombuffer(table[column][row].as_buffer(), dtype).reshape(values)
        if column in checksums and _checksum(image_id, rows[target]) != checksums[column][row]:
            raise ValueError(f"the checksum of image {image_id} in {column} is wrong")
        if not _is_finite(rows[target]):
            raise ValueError(f"image {image_id} has NaN or infinite numbers in {column}")
    return rows


def _is_finite(values: npt.NDArray[Any]) -> bool:
    """Whether all numbers are; by their bits, ten times as fast as `np.isfinite` is for float16."""
    exponent = EXPONENT[values.dtype]
    return len(values) == 0 or bool((values.view(exponent.dtype) & exponent).max() != exponent)
