"""The features table: one Parquet file a shard, ViT tokens as binary columns, one column a layer.

A row is an image; of images that are cut into crops one of its places, see `core/crops.py`: 0 is the whole image.

The schema's metadata hold a CRC-32 of every row's values in every column, begun with its image's id and place, and one
of themselves: what is read is what was written for this very row, or a `BrokenShardError`. Parquet's own page checksums
take as long (0.2 s/GB) and see neither a broken footer nor rows that changed places.
"""

import json
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from musc_ray.core.crops import CropInput, CropLayout, InputShape
from musc_ray.errors import MuscRayError, reason_of
from musc_ray.storage.checked_columns import CROP, FLOAT32, CheckedTable, Checksums
from musc_ray.storage.filesystem import is_local
from musc_ray.storage.layer_columns import TOKEN_DTYPES, layer_column, layer_names, norm_column, scale_column
from musc_ray.storage.requests import in_turn

METADATA_KEY, METADATA_CHECKSUM_KEY = b"musc_ray", b"musc_ray_crc32"
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
        crops: where images are cut; `grid` and `image_size` are then those of a crop. None: they are not.
        whole_grid, whole_size: of the whole image beside its crops; None without crops.
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
    crops: CropLayout | None = None
    whole_grid: tuple[int, int] | None = None
    whole_size: tuple[int, int] | None = None

    @property
    def extracted(self) -> list[ShardImage]:
        """The images that have rows in the shard, in row order."""
        return [image for image in self.images if image.error is None]

    @property
    def patches(self) -> int:
        """Patches of a row, L: of an image, or of a crop."""
        return self.grid[0] * self.grid[1]

    @property
    def row_patches(self) -> list[int]:
        """Return the patches of each row of an image: of the whole of it, then of its crops."""
        if self.whole_grid is None:
            return [self.patches]
        return [self.whole_grid[0] * self.whole_grid[1]] + [self.patches] * (self.places - 1)

    @property
    def places(self) -> int:
        """Rows of an image: 1, or one more than it has crops."""
        return 1 if self.crops is None else self.crops.count + 1

    @property
    def shape(self) -> InputShape:
        """Return what of an image entered the model."""
        if self.crops is None or self.whole_size is None:
            return InputShape(self.image_size)
        return InputShape(self.whole_size, CropInput(self.crops, self.image_size))

    def shaped(self, shape: InputShape) -> "FeaturesMeta":
        """Return the same features of images of another shape."""
        patch = self.image_size[0] // self.grid[0]

        def grid(size: tuple[int, int]) -> tuple[int, int]:
            return size[0] // patch, size[1] // patch

        if shape.crops is None:
            return replace(self, image_size=shape.whole, grid=grid(shape.whole))
        return replace(
            self,
            image_size=shape.crops.size,
            grid=grid(shape.crops.size),
            crops=shape.crops.layout,
            whole_size=shape.whole,
            whole_grid=grid(shape.whole),
        )

    def grid_of(self, places: Sequence[int]) -> tuple[int, int]:
        """Return the patches (h, w) that some places have in common.

        Raises:
            ValueError: the whole image and crops of it have no grid in common.
        """
        if self.whole_grid is None or 0 not in places:
            return self.grid
        if set(places) != {0}:
            raise ValueError("the whole image and its crops cannot be read together")
        return self.whole_grid


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
    for key in ("grid", "layers", "image_size", "intensity", "whole_grid", "whole_size"):
        content[key] = tuple(content[key]) if content.get(key) is not None else None
    if "crops" in content:
        content["crops"] = CropLayout(**content["crops"])
    return FeaturesMeta(**content), checksums


def _read_footer(file: Any, path: str) -> tuple[CheckedTable, FeaturesMeta]:
    """A shard's footer; one that speaks of other rows or columns is refused before memory is taken for them."""
    size = file.seek(0, 2)
    file.seek(0)
    parquet = pq.ParquetFile(file)
    footer = parquet.metadata
    meta, checksums = _parse_meta(parquet.schema_arrow.metadata, path)
    has_crops = meta.crops is not None
    columns = {"image_id", CLASS_TOKEN} | layer_names(meta.dtype, meta.basis_sha256 is not None, meta.layers)
    columns |= {CROP} if has_crops else set()
    bytes_told = sum(footer.row_group(group).total_byte_size for group in range(footer.num_row_groups))
    rows = len(meta.extracted) * meta.places
    if footer.num_rows != rows or not columns <= set(footer.schema.names) or bytes_told > size:
        raise BrokenShardError(path, "its table does not match its metadata")
    return CheckedTable(parquet, checksums, has_crops), meta


@in_turn
def read_layer(
    fs: fsspec.AbstractFileSystem,
    path: str,
    layer: int,
    image_ids: Sequence[str],
    basis: str | None = None,
    places: Sequence[int] = (0,),
) -> npt.NDArray[Any]:
    """Read the tokens (A * places, h*w, C) of one layer for some of a shard's images, in the order asked for.

    Args:
        basis: sha256 of the directions that the features must be compressed with; None for raw tokens.
        places: of each image, one after the other: the whole image alone, or crops.

    Returns:
        float16 as stored, or float32 from int8 and scales.

    Raises:
        BrokenShardError: they are not what was written, hold NaN or infinite numbers, or have another basis.
    """
    with _opened(fs, path) as (table, meta):
        _check_basis(meta, basis)
        h, w = meta.grid_of(places)
        dtype, shape = TOKEN_DTYPES[meta.dtype], (len(image_ids) * len(places), h * w, meta.channels)
        rows = table.read(layer_column(layer), image_ids, dtype, h * w * meta.channels, places)
        if meta.dtype != "int8":
            return rows.reshape(shape)
        scales = table.read(scale_column(layer), image_ids, FLOAT32, h * w, places)
    tokens = rows.reshape(shape).astype(np.float32)
    tokens *= scales[:, :, None]
    return tokens


@in_turn
def read_norms(
    fs: fsspec.AbstractFileSystem,
    path: str,
    layer: int,
    image_ids: Sequence[str],
    basis: str,
    places: Sequence[int] = (0,),
) -> npt.NDArray[np.float32]:
    """Read the mean and standard deviation (A * places, 2) of raw tokens; otherwise as `read_layer`."""
    with _opened(fs, path) as (table, meta):
        _check_basis(meta, basis)
        return table.read(norm_column(layer), image_ids, FLOAT32, 2, places)


def _check_basis(meta: FeaturesMeta, basis: str | None) -> None:
    """Refuse features of other directions: their numbers mean something else.

    Raises:
        ValueError: they have another basis; `_opened` names the shard.
    """
    if meta.basis_sha256 != basis:
        named = [f"basis {found[:12]}" if found else "no basis" for found in (meta.basis_sha256, basis)]
        raise ValueError(f"its features have {named[0]}, its group has {named[1]}")


@in_turn
def read_class_tokens(
    fs: fsspec.AbstractFileSystem, path: str, image_ids: Sequence[str], places: Sequence[int] = (0,)
) -> npt.NDArray[np.float32]:
    """Read class tokens (A * places, class_channels) float32 for some of a shard's images, in the order asked for.

    Raises:
        BrokenShardError: as `read_layer`.
    """
    with _opened(fs, path) as (table, meta):
        return table.read(CLASS_TOKEN, image_ids, FLOAT32, meta.class_channels, places)


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
def _opened(fs: fsspec.AbstractFileSystem, path: str) -> Iterator[tuple[CheckedTable, FeaturesMeta]]:
    """A shard for reading, its footer checked; a local one is mapped, which saves a copy."""
    with pa.memory_map(path) if is_local(fs) else fs.open(path, "rb") as file, _named(path):
        yield _read_footer(file, path)
