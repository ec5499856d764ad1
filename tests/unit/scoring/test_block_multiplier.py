"""Blocks of crops, which are single tiles: each shard's distances to the images of the shards that it meets."""

import pytest
import torch

from musc_ray.core.references import reference_window
from musc_ray.scoring.block_multiplier import BlockMultiplier
from musc_ray.scoring.kept_reader import KeptReader
from musc_ray.scoring.ring import BlockTask
from musc_ray.scoring.shard_cache import ShardCache
from tests.helpers.generated import DEFAULTS, generated_archive

SPEC = DEFAULTS | {"images": 24, "grid": [3, 4], "shard_size": 2, "layers": 1}


@pytest.fixture
def made(tmp_path):
    settings = {"degrees": "1,3", "precision": "float32", "crops": "1x2", "crop_references": "all"}
    context, groups = generated_archive(str(tmp_path), SPEC | {"settings": settings})
    cache = ShardCache(
        context.settings, context.arithmetic, KeptReader(context.settings, context.run_paths), context.meta, 1
    )
    return BlockMultiplier(cache), groups[0]


@pytest.mark.parametrize("references", [None, 6])
@pytest.mark.parametrize("columns", [(0, 4), (4, 8)])
def test_a_single_tile_gives_what_its_tiles_give(made, columns, references):
    _, group = made
    rows = group.ring[0:4]
    check(made, rows, rows if columns == (0, 4) else group.ring[slice(*columns)], references)


@pytest.mark.parametrize("references", [None, 6])
def test_a_band_is_repaired_with_its_own_shard_among_the_columns(made, references):
    _, group = made
    check(made, [group.ring[1]], group.ring[0:3], references, frozenset([group.ring[1].number]))


def check(made, rows, columns, references: int | None, only: frozenset[int] | None = None) -> None:
    """Multiply a block in both ways."""
    multiplier, group = made
    window = reference_window(24, references)

    def task(unfinished: frozenset[int], merged: bool) -> BlockTask:
        fields = group.group, 0, group.sets[1], window, None, 24, rows, columns, unfinished, frozenset(), 0, 0
        return BlockTask(*fields, merged=merged)

    numbers = frozenset(shard.number for shard in (*rows, *columns))
    unfinished = only or frozenset(task(numbers, False).partners)
    assert unfinished
    found, wanted = (
        multiplier.multiply(made_task, multiplier.cache.shards_of(made_task)[0])[0]
        for made_task in (task(unfinished, True), task(unfinished, False))
    )
    assert found.keys() == wanted.keys() == unfinished
    for number in unfinished:
        assert found[number].shape == wanted[number].shape
        # the columns may be in another order; those of images that do not count are inf
        torch.testing.assert_close(found[number].sort(dim=3).values, wanted[number].sort(dim=3).values)
