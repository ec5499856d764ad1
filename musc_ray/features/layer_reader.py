"""Read a layer of a group's features as its aggregation takes it, whether they are compressed or not."""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from musc_ray.core.compression import raw_tokens
from musc_ray.core.quantised import rotation
from musc_ray.settings.model import Settings
from musc_ray.storage.bases import Compression, Directions, read_compression, read_directions
from musc_ray.storage.layer_columns import LayerTokens
from musc_ray.storage.paths import OutPaths
from musc_ray.storage.shards import read_layer, read_norms

MAX_GROUPS = 64
"""Groups whose decisions are kept; of their directions only the last ones'."""


class LayerReader:
    """Reads the features of an OUT.

    Args:
        out_paths: of the OUT.
        features_id: of the features.
        settings: of the run: compress and aggregation.
        layers: of the features.
    """

    def __init__(self, out_paths: OutPaths, features_id: str, settings: Settings, layers: tuple[int, ...]) -> None:
        self.out_paths, self.features_id, self.settings, self.layers = out_paths, features_id, settings, layers
        self.compression_of = lru_cache(MAX_GROUPS)(self._compression_of)
        self._directions = lru_cache(2)(self._read_directions)

    def basis(self, group: str) -> str | None:
        """Return the sha256 of a group's basis; None for features that are not compressed.

        Raises:
            MuscRayError: what was decided of the group is broken.
        """
        compression = None if self.settings.compress == "none" else self.compression_of(group)
        return None if compression is None else compression.sha256

    def is_compressed(self, group: str) -> bool:
        """Tell whether the features of a group are compressed: LayerNorm has been applied to them."""
        return self.basis(group) is not None

    def read(self, group: str, path: str, layer: int, image_ids: Sequence[str], places: Sequence[int] = (0,)) -> Tensor:
        """Read the tokens (A * places, h*w, C) of some images of a shard, on the CPU, in the order asked for.

        Of compressed features they are projections on K directions: of the normalised tokens for LNAMD, of the raw ones
        for SNAMD.

        Args:
            group: that the shard is of.
            path: of the shard.
            layer: one of its layers.
            image_ids: of its images.
            places: of each image: the whole image alone, or crops.

        Raises:
            BrokenShardError: they are not what was written, or of another basis than the group's.
            MuscRayError: the basis of the group is broken.
        """
        basis = self.basis(group)
        tokens = torch.from_numpy(read_layer(self.out_paths.fs, path, layer, image_ids, basis, places))
        if basis is None or self.settings.aggregation != "snamd":
            return tokens
        norms = read_norms(self.out_paths.fs, path, layer, image_ids, basis, places)
        return raw_tokens(tokens, torch.from_numpy(norms), self._vectors(group, basis, layer))

    def as_read(self, group: str, layer: int, stored: LayerTokens) -> Tensor:
        """Return tokens (A, h*w, C) that are not in a shard, as `read` would return them if they were.

        Args:
            group: of the images.
            layer: of the tokens.
            stored: what a shard would hold of them.
        """
        tokens = torch.from_numpy(stored.tokens)
        if stored.scales is not None:
            tokens = tokens.float() * torch.from_numpy(stored.scales)[:, :, None]
        basis = self.basis(group)
        if basis is None or stored.norms is None or self.settings.aggregation != "snamd":
            return tokens
        return raw_tokens(tokens, torch.from_numpy(stored.norms), self._vectors(group, basis, layer))

    def read_in_full(
        self, group: str, path: str, layer: int, image_ids: Sequence[str], places: Sequence[int] = (0,)
    ) -> Tensor:
        """Read tokens as `read` does, turned back into the backbone's channels: groups can be compared."""
        tokens, basis = self.read(group, path, layer, image_ids, places), self.basis(group)
        if basis is None:
            return tokens
        return tokens.float() @ rotation(tokens.shape[2]).T @ self._vectors(group, basis, layer).T

    def _vectors(self, group: str, basis: str, layer: int) -> Tensor:
        return torch.from_numpy(self._directions(group, basis)[layer])

    def _compression_of(self, group: str) -> Compression | None:
        return read_compression(self.out_paths, self.features_id, group)

    def _read_directions(self, group: str, sha256: str) -> Directions:
        return read_directions(self.out_paths, self.features_id, group, sha256, self.layers)
