"""Which images a checked one is compared with: those of a run in which it stands on the ring."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from musc_ray.checking.stored_group import StoredGroup
from musc_ray.scoring.ring import GroupImages
from musc_ray.sources.images import image_id

IDS = [image_id(f"file:///{number}.png") for number in range(40)]
NEW = image_id("file:///new.png")


def group_of(shards: dict[int, list[str]], references: int | None, seed: int = 0, **others) -> StoredGroup:
    settings = SimpleNamespace(reference_count=references, seed=seed)
    run = SimpleNamespace(settings=settings, night=others.pop("night", None), run_id="run")
    meta = SimpleNamespace(grid_of=lambda _: (2, 2))
    return StoredGroup(None, run, "all", meta, shards, **others)


def chosen(group: StoredGroup, image: str) -> set[str]:
    found = group.references_of(image)
    assert list(found) == list(group.mutual)
    return {other for shard, ids in group.mutual.items() for other, counts in zip(ids, found[shard]) if counts}  # noqa: B905


@given(st.integers(1, 39), st.integers(1, 9), st.integers(0, 3), st.sampled_from([None, 2, 5, 8]))
def test_they_are_those_of_a_run_with_the_image_as_a_shard_of_its_own(images, size, seed, references):
    shards = {number: IDS[start : min(start + size, images)] for number, start in enumerate(range(0, images, size))}
    ring = GroupImages.of("all", shards | {99: [NEW]}, (2, 2), references, seed)
    window = ring.window.contains(ring.shards[99].positions, range(images + 1))[0]
    on_ring = [other for shard in ring.ring for other in shard.ids]
    found = chosen(group_of(shards, references, seed), NEW)
    assert found == {on_ring[at] for at in np.flatnonzero(window)}
    assert len(found) == ring.window.references
    assert chosen(group_of(shards, references, seed, night={}), NEW) == set(IDS[:images])


@pytest.mark.parametrize("references", [None, 4])
def test_the_image_itself_is_never_one(references):
    group = group_of({0: IDS[:1], 3: IDS[1:12]}, references)
    for image in IDS[:12]:
        found = chosen(group, image)
        assert image not in found
        assert len(found) == (references or 11)


@pytest.mark.parametrize("references", [None, 4])
def test_an_image_that_is_set_aside_has_as_many_references(references):
    group = group_of({0: IDS[:5], 1: IDS[5:9]}, references, aside={1: [IDS[9]]})
    assert len(chosen(group, IDS[9])) == (references or 9)
    assert [shard.number for shard in group.scored] == [0, 1, 1]
