"""Notes on masks and the foreground say no more and no less than what is left out."""

from musc_ray.scoring.kept_notes import kept_notes
from musc_ray.storage.group_foreground import GroupKept


def test_a_mask_is_named_where_no_background_is_left_out():
    notes = kept_notes({"a": GroupKept(share=0.94, masked=True, foreground=False, reason="no background is seen")})
    assert notes == [
        "Group 'a': 6% of patches are ignored (setting ignore).",
        "Group 'a': all other patches are scored, since no background is seen (foreground auto).",
    ]


def test_without_a_mask_all_patches_are_scored():
    notes = kept_notes({"a": GroupKept(share=1.0, foreground=False, reason="no background is seen")})
    assert notes == ["Group 'a': all patches are scored, since no background is seen (foreground auto)."]


def test_a_background_is_named_once_with_or_without_a_mask():
    for masked in (False, True):
        notes = kept_notes({"a": GroupKept(share=0.6, masked=masked, foreground=True, reason="a part is seen")})
        assert notes == ["Group 'a': 40% of patches are not scored, since a part is seen (foreground auto)."]
