"""The features table: one Parquet file a shard, ViT tokens as binary columns, one column a layer.

Binary on purpose: FixedSizeList<float16> writes 30 times and reads 17 times slower; compression saves 8 % of the bytes.

The schema's metadata hold a CRC-32 of every image's values in every column, begun with its id, and one of themselves:
what is read is what was written for this very image, or a `BrokenShardError`. Parquet's own page checksums take as long
(0.2 s/GB) and see neither a broken footer nor rows that changed places.
"""

import json
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from musc_ray.errors import MuscRayError, reason_of
from musc_ray.storage.checked_columns import FLOAT32, Checksums, binary_rows, checksum, read_rows
from musc_ray.storage.filesystem import atomic_file, is_local
from musc_ray.storage.layer_columns import (
    TOKEN_DTYPES,
    LayerTokens,
    layer_column,
    layer_names,
    layer_values,
    norm_column,
    scale_column,
)
from musc_ray.storage.requests import in_turn

METADATA_KEY, METADATA_CHECKSUM_KEY = b"musc_ray", b"musc_ray_crc32"
ROW_GROUP_BYTES = 2**28
CLASS_TOKEN = "class_token"  # noqa: S105, a column


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
        outside: of compressed features, by layer: the share of the energy of its tokens outside the basis.
    """

    image_id: str
    uri: str
    version: str
    error: str | None = None
    message: str | None = None
    height: int | None = None
    width: int | None = None
    remarks: tuple[str, ...] = ()
    outside: tuple[float, ...] = ()


@dataclass(frozen=True)
class FeaturesMeta:
    """What a shard's numbers mean; stored as JSON in the Parquet schema's metadata.

    Attributes:
        channels: values of a stored token: K of compressed features.
        dtype: float16, or int8 with a scale a token.
        intensity: the range of deep pixels; None in groups without one.
        one_picture: digest of the pixels, if those of all extracted images are the same.
        original_channels: C of the backbone's tokens, where features are compressed.
        basis_sha256: of the directions that they are compressed with; see `bases`.
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
    original_channels: int | None = None
    basis_sha256: str | None = None

    @property
    def extracted(self) -> list[ShardImage]:
        """The images that have a row in the shard, in row order."""
        return [image for image in self.images if image.error is None]

    @property
    def patches(self) -> int:
        """Patches of an image, L."""
        return self.grid[0] * self.grid[1]


def write_shard(
    fs: fsspec.AbstractFileSystem,
    path: str,
    meta: FeaturesMeta,
    class_tokens: npt.NDArray[np.float32],
    layers: Sequence[npt.NDArray[np.float16] | LayerTokens],
) -> int:
    """Write a shard atomically.

    Args:
        meta: its `extracted` images are the rows.
        class_tokens: (A, class_channels) float32.
        layers: in the order of meta.layers; an array is float16 tokens (A, h*w, C) that are not compressed.

    Returns:
        Bytes of features written.
    """
    images = meta.extracted
    values = {CLASS_TOKEN: np.ascontiguousarray(class_tokens, FLOAT32)}
    for layer, stored in zip(meta.layers, layers, strict=True):
        whole = stored if isinstance(stored, LayerTokens) else LayerTokens(stored)
        values |= layer_values(meta.dtype, meta.basis_sha256 is not None, layer, whole)
    columns = {
        "image_id": pa.array([image.image_id for image in images], pa.string()),
        "uri": pa.array([image.uri for image in images], pa.string()),
        **{name: binary_rows(rows) for name, rows in values.items()},
    }
    checksums = {
        name: [checksum(image.image_id, row) for image, row in zip(images, rows, strict=True)]
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
    for name in ("intensity", "one_picture", "original_channels", "basis_sha256"):
        if content[name] is None:
            del content[name]
    for image in content["images"]:
        for name in ("remarks", "outside"):
            if not image[name]:
                del image[name]
    return content


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
        ShardImage(**{**image, **{name: tuple(image.get(name, ())) for name in ("remarks", "outside")}})
        for image in content["images"]
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
    columns = {"image_id", CLASS_TOKEN} | layer_names(meta.dtype, meta.basis_sha256 is not None, meta.layers)
    bytes_told = sum(footer.row_group(group).total_byte_size for group in range(footer.num_row_groups))
    if footer.num_rows != len(meta.extracted) or not columns <= set(footer.schema.names) or bytes_told > size:
        raise BrokenShardError(path, "its table does not match its metadata")
    return parquet, meta, checksums


@in_turn
def read_layer(
    fs: fsspec.AbstractFileSystem, path: str, layer: int, image_ids: Sequence[str], basis: str | None = None
) -> npt.NDArray[Any]:
    """Read the tokens (A, h*w, C) of one layer for some of a shard's images, in the order asked for.

    Args:
        basis: sha256 of the directions that the features must be compressed with; None for raw tokens.

    Returns:
        float16 as stored, or float32 from int8 and scales.

    Raises:
        BrokenShardError: they are not what was written, hold NaN or infinite numbers, or have another basis.
    """
    with _opened(fs, path) as (parquet, meta, checksums):
        _check_basis(meta, basis)
        dtype, shape = TOKEN_DTYPES[meta.dtype], (len(image_ids), meta.patches, meta.channels)
        rows = read_rows(parquet, checksums, layer_column(layer), image_ids, dtype, meta.patches * meta.channels)
        if meta.dtype != "int8":
            return rows.reshape(shape)
        scales = read_rows(parquet, checksums, scale_column(layer), image_ids, FLOAT32, meta.patches)
    tokens = rows.reshape(shape).astype(np.float32)
    tokens *= scales[:, :, None]
    return tokens


@in_turn
def read_norms(
    fs: fsspec.AbstractFileSystem, path: str, layer: int, image_ids: Sequence[str], basis: str
) -> npt.NDArray[np.float32]:
    """Read the mean and standard deviation (A, 2) of some images' raw tokens; otherwise as `read_layer`."""
    with _opened(fs, path) as (parquet, meta, checksums):
        _check_basis(meta, basis)
        return read_rows(parquet, checksums, norm_column(layer), image_ids, FLOAT32, 2)


def _check_basis(meta: FeaturesMeta, basis: str | None) -> None:
    """Refuse features of other directions: their numbers mean something else.

    Raises:
        ValueError: they have another basis; `_opened` names the shard.
    """
    if meta.basis_sha256 != basis:
        named = [f"basis {found[:12]}" if found else "no basis" for found in (meta.basis_sha256, basis)]
        raise ValueError(f"its features have {named[0]}, its group has {named[1]}")


@in_turn
def read_class_tokens(fs: fsspec.AbstractFileSystem, path: str, image_ids: Sequence[str]) -> npt.NDArray[np.float32]:
    """Class tokens (A, class_channels) float32 for some of a shard's images, in the order asked for.

    Raises:
        BrokenShardError: as `read_layer`.
    """
    with _opened(fs, path) as (parquet, meta, checksums):
        return read_rows(parquet, checksums, CLASS_TOKEN, image_ids, FLOAT32, meta.class_channels)


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
