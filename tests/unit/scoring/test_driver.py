"""How many shards are multiplied at a time: those of crops are small, and more of them within the same memory."""

from dataclasses import replace

import pytest

from musc_ray.runtime.progress import Progress
from musc_ray.scoring.driver import TOGETHER_SHARE, _Stages
from musc_ray.scoring.tile_driver import MAX_SIDE, block_side
from tests.helpers.generated import DEFAULTS, generated_archive

SPEC = DEFAULTS | {"images": 120, "grid": [4, 5], "channels": 16, "layers": 1, "shard_size": 1}


def sides_of(out: str, workers: int = 1, **settings: object):
    """The archive, its group, and the sides of its sets; shards hold one image, as of 63 crops of a size of 64."""
    context, groups = generated_archive(
        out, SPEC | {"settings": {"degrees": "1,3", "precision": "bfloat16", **settings}}
    )
    context = replace(context, settings=context.settings.model_copy(update={"shard_size": 64}))
    return context, groups[0], _Stages(None, context, Progress(quiet=True), {})._sides(groups, workers)


def test_without_crops_sides_are_as_ever(tmp_path):
    context, group, sides = sides_of(str(tmp_path))
    expected = block_side(context.settings, [120], 1, 64**2 * 20, 1)
    assert sides == {(group.group, 0): expected}
    assert expected == MAX_SIDE


@pytest.mark.parametrize("meeting", ["same", "all"])
def test_small_shards_of_crops_are_multiplied_together(tmp_path, meeting):
    _, group, sides = sides_of(str(tmp_path), crops="7x9", crop_references=meeting)
    assert set(sides) == {(group.group, patch_set.number) for patch_set in group.sets}
    for patch_set in group.sets:
        side = sides[group.group, patch_set.number]
        assert side * len(patch_set.places) <= MAX_SIDE * 64  # rows of the shards of a block without crops
        assert side > 4 * MAX_SIDE or len(patch_set.places) > 1
    if meeting == "all":
        assert sides[group.group, 1] == MAX_SIDE


def test_what_is_prepared_together_fits(tmp_path):
    _, group, sides = sides_of(str(tmp_path), crops="7x9", crop_references="all", cache_mb=1)
    crops = group.sets[1]
    of_image = crops.patches * 16 * 2 * 2  # channels, bytes, and a left and a right operand
    assert sides[group.group, 1] == 2**20 // TOGETHER_SHARE // of_image
    assert sides[group.group, 1] < MAX_SIDE
