import pytest

from musc_ray.scoring.notes import (
    MIN_IMAGES,
    few_images_notes,
    grown_notes,
    judged_notes,
    outside_notes,
    run_notes,
    settled_anew_notes,
)
from musc_ray.storage.group_matching import GroupMatching
from musc_ray.storage.manifest_records import GroupCompression, GroupJudged


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


@pytest.mark.parametrize(("outside", "warns"), [((0.02, 0.06), True), ((0.01, 0.02), False), ((), False)])
def test_a_whole_run_says_that_its_images_lie_outside_a_basis_of_few(outside, warns):
    group = GroupCompression(
        channels=32,
        dtype="int8",
        basis_sha256="a" * 64,
        sample=2,
        energy=(0.99, 0.99),
        outside=outside,
        bytes=1,
        full_bytes=2,
    )
    notes = outside_notes(None, {"a": group})
    assert len(notes) == warns
    if warns:
        assert notes[0].startswith("Group 'a': 4.0 % of the energy of its images lies outside the basis")
        assert "left out 1.0 % of the 2 images it was found from" in notes[0]
    assert outside_notes({}, {"a": group}) == []  # a night says it of its new images alone


def test_groups_that_have_grown_are_named():
    assert grown_notes([]) == []
    (note,) = grown_notes(["a", "b"])
    assert note.startswith("Groups 'a', 'b': their features are not compressed")
    assert "--refit" in note


def test_groups_without_a_readable_sample_are_named():
    stages = {
        "extract": {"halved_batches": 0, "lost_workers": 0, "without_basis": ["a", "b"]},
        "mutual": {"largest_summary_error": 0, "shrunk_blocks": 0, "lost_workers": 0},
    }
    (note,) = run_notes({}, stages, {}, {}, {}, {})
    assert note.startswith("Groups 'a', 'b': features are not compressed, since no image of the sample")


def test_what_persons_said_of_images_is_noted_once_a_sentence():
    both, good = GroupJudged(known_good=1, defective=2, digest="a"), GroupJudged(known_good=20, digest="b")
    gone = GroupJudged(digest="c")
    assert judged_notes({"a": both, "b": good, "c": good, "d": gone, "e": gone}, {"a": {"1"}, "e": {"2", "3"}}) == [
        "Group 'a': compared with 1 image known to be good; no image was compared with 2 images found defective.",
        "Groups 'b', 'c': compared with 20 images known to be good.",
        "Group 'e': of 2 images known to be good none can be read, so it was compared with none.",
    ]


def test_what_has_grown_is_noted():
    grown = GroupMatching(radius=2, reason="as measured", images=64, grown=True)
    found = settled_anew_notes({"patches are matched": {"a": grown, "b": grown.model_copy(update={"grown": False})}})
    assert found == [
        "Group 'a' has grown: a sample of the images now says how patches are matched, where before there were too few "
        "for one, so that raw scores do not compare with those of earlier runs."
    ]
