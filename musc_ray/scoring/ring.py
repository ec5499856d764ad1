"""The images of a group on a ring of shards, and the blocks of tiles that workers multiply."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from musc_ray.core.crops import CropLayout
from musc_ray.core.references import ReferenceWindow, reference_window, section_pairs
from musc_ray.scoring.patch_sets import PatchSet


@dataclass(frozen=True)
class RingShard:
    """A shard's images and their positions on the ring.

    Attributes:
        aside: how many of them, the last ones, are not on the ring of references: see `GroupImages.aside`.
    """

    number: int
    first: int
    ids: Sequence[str]
    aside: int = 0

    @property
    def positions(self) -> range:
        """Positions on the ring."""
        return range(self.first, self.first + len(self.ids))

    @property
    def slice(self) -> slice:
        """Positions as a slice of an array along the ring."""
        return slice(self.first, self.first + len(self.ids))


Tile = tuple[RingShard, RingShard]

BandKey = tuple[str, int, int, int]
"""Identity of a band: group, layer, shard and number of the set of patches."""


@dataclass(frozen=True)
class RingBlock:
    """A rectangle of tiles: its rows and columns as ranges of shards on the ring (the same on the diagonal)."""

    rows: range
    columns: range
    tiles: int
    shards: frozenset[int]
    """Numbers of the shards in any of its tiles."""


@dataclass(frozen=True)
class GroupImages:
    """The images of a group that are scored among themselves, and what else they are compared with.

    Attributes:
        ring: images that score each other.
        sets: patches that are compared with each other: the whole images, then their crops if they have any.
        earlier: images that are only references of the others: a night's window.
        publish_earlier: whether these get scores, too.
        radius: how far from its place a patch looks for its nearest, in patches; None means anywhere.
        layout: of the crops that images are cut into, if they are.
        known_good: images that persons vouch for: they bound the scores of the others. They are not on the ring.
        aside: images that get scores and are not on the ring, either: nobody is compared with those found defective;
            known good ones are among them if they are to get scores.
    """

    group: str
    ring: Sequence[RingShard]
    window: ReferenceWindow
    sets: tuple[PatchSet, ...]
    earlier: frozenset[str] = frozenset()
    publish_earlier: bool = False
    radius: int | None = None
    layout: CropLayout | None = None
    known_good: tuple[RingShard, ...] = ()
    aside: tuple[RingShard, ...] = ()

    @classmethod
    def of(
        cls,
        group: str,
        shards: Mapping[int, Sequence[str]],
        grid: tuple[int, int],
        references: int | None = None,
        seed: int = 0,
    ) -> "GroupImages":
        """Place shards on the ring, without crops.

        Shards hold images in the order of their hashed ids. They stand in the order of one random image each, so that
        the ring of an archive extracted at once is the order of all ids, whatever the shard size, and shards that came
        later, each with ids from everywhere, stand evenly among the others.

        Args:
            group: its name.
            shards: image ids by shard number; at least 2 in all.
            grid: (h, w) patches of each image.
            references: M, or None for all.
            seed: chooses the window of the ring.
        """
        ring, first = [], 0
        for number in sorted(shards, key=lambda number: min(shards[number], key=_read_backwards)):
            ring.append(RingShard(number, first, tuple(shards[number])))
            first += len(shards[number])
        return cls(group, ring, reference_window(first, references, seed), (PatchSet(0, (0,), grid),))

    @property
    def images(self) -> int:
        """Count the images that score each other: N of the formulas."""
        return self.window.images

    @property
    def scored(self) -> int:
        """Count the images that are scored."""
        return self.images + sum(len(shard.ids) for shard in self.aside)

    @property
    def known(self) -> int:
        """Count the known good images."""
        return sum(len(shard.ids) for shard in self.known_good)

    @property
    def published(self) -> int:
        """Count the images that get scores."""
        return self.scored if self.publish_earlier else self.scored - len(self.earlier)

    @property
    def grid(self) -> tuple[int, int]:
        """Return the patches (h, w) of a whole image."""
        return self.sets[0].grid

    @property
    def cut(self) -> CropLayout:
        """Return the layout of the crops of images that are cut."""
        if self.layout is None:
            raise ValueError(f"the images of group {self.group!r} are not cut into crops")
        return self.layout

    @property
    def map_grid(self) -> tuple[int, int]:
        """Return the patches (h, w) of the map of an image."""
        return self.grid if self.layout is None else self.layout.map_grid(self.sets[1].grid)

    @property
    def places(self) -> int:
        """Count the places of an image: the whole of it, and its crops."""
        return sum(len(patch_set.places) for patch_set in self.sets)

    def radius_of(self, patch_set: PatchSet) -> int | None:
        """Return how far from its place a patch looks for its nearest; anywhere in a set that compares places."""
        return self.radius if len(patch_set.places) == 1 else None

    @cached_property
    def shards(self) -> dict[int, RingShard]:
        """Map numbers to shards."""
        return {shard.number: shard for shard in self.ring}

    def all_scored(self) -> "GroupImages":
        """Return the group with all scored images on the ring, those aside behind the others of their shard.

        That is what is ranked together, once the bands are written.
        """
        if not self.aside:
            return self
        aside = {shard.number: tuple(shard.ids) for shard in self.aside}
        ring, first = [], 0
        for shard in (*self.ring, *(shard for shard in self.aside if shard.number not in self.shards)):
            mutual = () if shard.number not in self.shards else tuple(shard.ids)
            further = aside.get(shard.number, ())
            ring.append(RingShard(shard.number, first, (*mutual, *further), len(further)))
            first += len(mutual) + len(further)
        return replace(self, ring=ring, window=reference_window(first, None, 0), aside=())


def _read_backwards(image_id: str) -> str:
    """Return a sort key of ids that is independent of their own order."""
    return image_id[::-1]


def tiles_of(rows: Sequence[RingShard], columns: Sequence[RingShard], window: ReferenceWindow) -> Iterator[Tile]:
    """Yield the tiles of a block that hold pairs of images that score each other."""
    for index, a in enumerate(rows):
        for b in columns[index:] if rows == columns else columns:
            if window.touches(a.positions, b.positions):
                yield a, b


def ring_blocks(images: GroupImages, side: int) -> list[RingBlock]:
    """Cut the tiles of a group into blocks of up to side x side shards, in an order that completes bands early."""
    chunks = [range(start, min(start + side, len(images.ring))) for start in range(0, len(images.ring), side)]
    positions = [range(images.ring[chunk.start].first, images.ring[chunk.stop - 1].positions.stop) for chunk in chunks]
    found = []
    for row, column in section_pairs(images.window, positions):
        rows, columns = chunks[row], chunks[column]
        above, beside = images.ring[rows.start : rows.stop], images.ring[columns.start : columns.stop]
        tiles = list(tiles_of(above, beside, images.window))
        if tiles:
            touched = frozenset(shard.number for tile in tiles for shard in tile)
            found.append(RingBlock(rows, columns, len(tiles), touched))
    return found


@dataclass(frozen=True)
class BlockStats:
    """Figures of a block.

    Attributes:
        pairs: image pairs that score each other, each counted once.
        seconds_in_kernel: time spent multiplying.
        shards_read: shards that were not cached.
        shrunk: whether memory ran out and the block was repeated with a smaller cache.
        error: largest possible error of the bands reduced on the spot.
    """

    pairs: int = 0
    seconds_in_kernel: float = 0.0
    shards_read: int = 0
    shrunk: bool = False
    error: float = 0.0


@dataclass(frozen=True)
class BlockTask:
    """A block of one layer and set of patches: what a worker multiplies at a time.

    Attributes:
        radius: see `GroupImages.radius_of`.
        worth_keeping: number of shards that a worker should cache.
        rows: shards; columns: shards, the same object on the diagonal.
        unfinished: shards whose bands are not written yet: their distances are needed.
        whole: those of them without tiles in other blocks: their bands are reduced and written on the spot.
        counted: tiles that this block adds to the progress.
        attempt: number of restarts of its bands.
        merged: whether rows and columns are each prepared and multiplied as one shard: those of crops are small.
    """

    group: str
    layer: int
    patch_set: PatchSet
    window: ReferenceWindow
    radius: int | None
    worth_keeping: int
    rows: Sequence[RingShard]
    columns: Sequence[RingShard]
    unfinished: frozenset[int]
    whole: frozenset[int]
    counted: int
    attempt: int = 0
    merged: bool = False

    @property
    def units(self) -> list[tuple[RingShard, ...]]:
        """List the shards that are prepared together: each alone, or all rows and all columns."""
        if not self.merged:
            return [(shard,) for shard in self.shards]
        return [tuple(self.rows)] if self.rows == self.columns else [tuple(self.rows), tuple(self.columns)]

    @property
    def returned(self) -> list[int]:
        """List the shards whose distances are returned, in order."""
        return sorted(self.unfinished - self.whole)

    def columns_of(self, number: int) -> int:
        """Count the images that a shard meets in the block."""
        met = {b.number if a.number == number else a.number for a, b in self.tiles if number in (a.number, b.number)}
        return sum(len(shard.ids) for shard in self.shards if shard.number in met)

    @cached_property
    def partners(self) -> dict[int, dict[int, slice]]:
        """Map each shard to the shards that it meets, by number, and to the columns of their images."""
        partners: dict[int, dict[int, slice]] = {}
        for a, b in self.tiles:
            for shard, other in {(a.number, b), (b.number, a)}:
                taken = partners.setdefault(shard, {})
                start = max((columns.stop for columns in taken.values()), default=0)
                taken[other.number] = slice(start, start + len(other.ids))
        return partners

    @cached_property
    def shards(self) -> list[RingShard]:
        """List the shards of all tiles, each once."""
        return list({shard.number: shard for tile in self.tiles for shard in tile}.values())

    @cached_property
    def tiles(self) -> list[Tile]:
        """List the tiles that an unfinished band needs."""
        return [
            (a, b)
            for a, b in tiles_of(self.rows, self.columns, self.window)
            if a.number in self.unfinished or b.number in self.unfinished
        ]
