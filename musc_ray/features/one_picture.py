"""Find groups whose images are all the same picture: all black, all white, or one file copied."""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from musc_ray.features.context import RunContext
from musc_ray.storage.shards import BrokenShardError, read_meta

if TYPE_CHECKING:
    # these decode images, which the driver of this module does not
    from musc_ray.features.read_ahead import DecodedImage
    from musc_ray.sources.model_input import ModelInput

MAX_FOOTERS = 32
"""Footers that are read at a time."""


class OnePicture:
    """Whether the decoded images of a shard are all the same; costs nothing once two differ.

    Attributes:
        first: pictures of the first image; None before there is one.
        differ: whether another one has others.
    """

    def __init__(self) -> None:
        self.first: ModelInput | None = None
        self.differ = False

    def watch(self, batches: "Iterator[list[DecodedImage]]") -> "Iterator[list[DecodedImage]]":
        """Look at batches as they pass."""
        for batch in batches:
            for _, pictures in batch:
                if pictures is None or self.differ:
                    continue
                if self.first is None:
                    self.first = pictures
                self.differ = not pictures.equals(self.first)
            yield batch

    @property
    def digest(self) -> str | None:
        """The digest of the only picture; None if there are several, or none at all."""
        if self.differ or self.first is None:
            return None
        found = hashlib.sha256(self.first.whole.tobytes())
        if self.first.crops is not None:
            found.update(self.first.crops.tobytes())
        return found.hexdigest()[:16]


def groups_of_one_picture(context: RunContext, groups: Sequence[str]) -> list[str]:
    """Return those of some groups whose images are all the same; of most groups one footer is read."""
    with ThreadPoolExecutor(MAX_FOOTERS) as pool:
        found = pool.map(lambda name: _is_one(context, name), groups)
        return [name for name, is_one in zip(groups, found, strict=True) if is_one]


def _is_one(context: RunContext, group: str) -> bool:
    out_paths, features_id, first = context.out_paths, context.meta.features_id, None
    for shard in context.groups[group].all:
        try:
            meta = read_meta(out_paths.fs, out_paths.shard(features_id, group, shard))
        except (BrokenShardError, FileNotFoundError):  # repaired when it is scored
            return False
        if meta.extracted and (meta.one_picture is None or first not in (None, meta.one_picture)):
            return False
        first = meta.one_picture or first
    return first is not None
