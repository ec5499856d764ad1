"""What is said of images that the model sees squeezed, and of groups that mix sizes."""

from collections import Counter

import pytest

from musc_ray.features.shapes import shape_notes, squeeze

SQUARE = (224, 224)
GRID = (16, 16)


def notes(image_size=SQUARE, grid=GRID, kept=None, **groups):
    return shape_notes({name: Counter(sizes) for name, sizes in groups.items()}, image_size, grid, kept or {})


@pytest.mark.parametrize(
    ("size", "image_size", "expected"),
    [((300, 300), SQUARE, 1.0), ((500, 1250), SQUARE, 2.5), ((1250, 500), SQUARE, 2.5), ((100, 200), (112, 224), 1.0)],
)
def test_squeeze(size, image_size, expected):
    assert squeeze(size, image_size) == pytest.approx(expected)


@pytest.mark.parametrize("size", [(300, 300), (1000, 840), (1190, 1000)])
def test_nothing_is_said_up_to_a_fifth(size):
    assert notes(a=[size]) == ()


def test_squeezed_images_are_said_once_with_the_size_to_use():
    """At 224 x 224 and patches of 14, 1250 x 500 keeps its shape and its number of patches at 350 x 140 (25 x 10)."""
    (note,) = notes(a=[(1250, 500)] * 3, b=[(1250, 500)] * 2 + [(1300, 500)])
    assert note.startswith("6 of 6 images are squeezed in one direction, by up to 2.6 times, most of them from 1250 x")
    assert "--image-size 350,140" in note


def test_a_mixed_group_is_said_once():
    mixed = [(100, 100), (100, 130)]
    (note,) = [note for note in notes(a=[(5, 5)], b=mixed, c=mixed) if "mixes" in note]
    assert note.startswith("Group 'b' mixes images of 2 sizes, as 1 other group does, from 100 x 100 to 100 x 130")
    assert "--group-by" in note


def test_groups_of_other_sizes_are_not_mixed():
    assert notes(a=[(100, 100)], b=[(400, 400)]) == ()
    assert notes(a=[], b=[(400, 400)]) == ()


def test_nothing_is_squeezed_where_shapes_are_kept_but_mixed_groups_are_said():
    tall = [(1250, 500)] * 3
    assert notes(kept={"a": (350, 140)}, a=tall) == ()
    (note,) = notes(kept={"a": (350, 140)}, a=[*tall, (500, 1250)])
    assert "mixes" in note
    assert "from 500 x 1250 to 1250 x 500 pixels (height x width), all resized to 350 x 140" in note


def test_a_kept_shape_of_earlier_images_is_said_with_the_way_to_find_it_again():
    tall = [(1250, 500)] * 3
    kept = {"a": (350, 140), "b": (140, 350), "c": (224, 224)}
    (note,) = notes(kept=kept, a=tall, b=tall, c=tall)
    assert note.startswith("Images of group 'b' are squeezed 6.2 times in one direction, as those of 1 other group, ")
    assert "from 1250 x 500 to 140 x 350 pixels (height x width), the shape of the group's earlier images" in note
    assert "--overwrite" in note


@pytest.mark.parametrize(
    ("size", "image_size", "grid", "kept", "said"),
    [
        ((4000, 10), SQUARE, GRID, (1792, 28), True),  # 128 x 2 patches: 64 to 1
        ((640, 10), SQUARE, GRID, (1792, 28), False),
        ((120, 60), (28, 28), (2, 2), (28, 28), True),
        ((150, 60), (56, 56), (4, 4), (84, 42), False),  # 2.5 is 2 at a grid this coarse
    ],
)
def test_images_longer_than_two_rows_of_patches_are_said(size, image_size, grid, kept, said):
    found = notes(image_size, grid, {"a": kept}, a=[size] * 3, unreadable=[])
    assert [("2 patches" in note, "--image-size" in note) for note in found] == [(True, True)] * said
