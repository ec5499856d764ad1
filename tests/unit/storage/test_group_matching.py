"""What was chosen for a group: values that no sample gives are refused."""

import pytest
from pydantic import ValidationError

from musc_ray.storage.group_matching import GroupMatching


def test_a_radius_is_at_least_one_patch_or_anywhere():
    assert GroupMatching.model_validate({"radius": None, "reason": "few"}).radius is None
    for radius in (0, -3):
        with pytest.raises(ValidationError):
            GroupMatching.model_validate({"radius": radius, "reason": "edited"})
