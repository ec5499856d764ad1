"""What is said of large images: that they are cut, or what is lost because they are not."""

from collections import Counter

from musc_ray.core.crops import CropInput, CropLayout
from musc_ray.features.crop_notes import cut_notes, uncut_notes

SQUARE = (224, 224)


def test_images_of_at_most_two_pixels_a_pixel_are_not_mentioned():
    assert uncut_notes({"a": Counter({(448, 448): 5, (100, 300): 2})}, {"a": SQUARE}) == ()
    assert uncut_notes({"a": Counter()}, {"a": SQUARE}) == ()


def test_large_images_are_said_once_with_the_way_out():
    sizes = {"a": Counter({(448, 448): 5, (500, 449): 3}), "b": Counter({(2000, 3000): 2})}
    (note,) = uncut_notes(sizes, {"a": SQUARE, "b": (182, 280)})
    assert note.startswith(
        "5 of 10 images have more than 2 pixels a pixel of the model, up to 11.0 (from 2000 x 3000 to 182 x 280), "
    )
    assert "--crops auto" in note


def test_one_direction_is_enough():
    (note,) = uncut_notes({"a": Counter({(200, 900): 1})}, {"a": SQUARE})
    assert "up to 4.0 (from 200 x 900 to 224 x 224)" in note


def test_groups_that_are_cut_alike_share_a_sentence():
    alike, other = CropInput(CropLayout(2, 3), (224, 210)), CropInput(CropLayout(2, 2, 0.25), SQUARE)
    sizes = {name: Counter({(900, 1250): 4, (1, 1): 1}) for name in "abcdef"}
    notes = cut_notes(sizes, dict.fromkeys("abcde", alike) | {"f": other, "unread": other})
    assert notes == (
        "Groups 'a', 'b', 'c' and 2 more: images are cut into 2 x 3 crops of about 474 x 446 pixels, overlap 10 %, "
        "which the model sees as 224 x 210 (height x width).",
        "Group 'f': images are cut into 2 x 2 crops of about 514 x 714 pixels, overlap 25 %, which the model sees as "
        "224 x 224 (height x width).",
        "Group 'unread': images are cut into 2 x 2 crops, overlap 25 %, which the model sees as 224 x 224 (height x "
        "width).",
    )


def test_crops_of_fewer_pixels_than_the_model_sees_are_named():
    (note,) = cut_notes({"a": Counter({(400, 400): 4})}, {"a": CropInput(CropLayout(2, 2), SQUARE)})
    assert "of about 211 x 211 pixels" in note
    assert note.endswith(", more pixels than they have: fewer crops would show as much at less cost.")
    (note,) = cut_notes({"a": Counter({(400, 4000): 4})}, {"a": CropInput(CropLayout(2, 2), SQUARE)})
    assert note.endswith("(height x width).")
