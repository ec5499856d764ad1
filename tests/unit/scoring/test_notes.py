import pytest

from musc_ray.scoring.notes import MIN_IMAGES, few_images_notes


@pytest.mark.parametrize(
    ("images", "begins"),
    [
        ({"a": 2}, "Group 'a' has 2 images: "),
        ({"a": 3, "b": 9, "c": 10}, "Groups 'a', 'b' have 3 to 9 images: "),
        ({"a": 4, "b": 4}, "Groups 'a', 'b' have 4 images: "),
        ({"a": 4, "b": 4, "c": 5, "d": 6, "e": 6}, "Groups 'a', 'b', 'c' and 2 more have 4 to 6 images: "),
    ],
)
def test_groups_of_few_images_are_named_in_one_note(images, begins):
    (note,) = few_images_notes(images)
    assert note.startswith(begins)


def test_enough_images_are_not_mentioned():
    assert few_images_notes({"a": MIN_IMAGES, "b": 500}) == []
