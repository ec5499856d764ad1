"""Shards whose images are all the same picture say so."""

import numpy as np
import pytest

from musc_ray.features.one_picture import OnePicture
from musc_ray.features.read_ahead import DecodedImage
from musc_ray.storage.shards import ShardImage

BLACK, GREY = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 90, np.uint8)
ALMOST = GREY.copy()
ALMOST[3, 3, 2] += 1


def digest(*pictures):
    seen = OnePicture()
    batches = [[DecodedImage(ShardImage("a", "a", ""), picture)] for picture in pictures]
    assert list(seen.watch(iter(batches))) == batches
    return seen.digest


@pytest.mark.parametrize("pictures", [(GREY, ALMOST), (BLACK, GREY, BLACK), (), (None, None)])
def test_several_pictures_or_none_have_no_digest(pictures):
    assert digest(*pictures) is None


def test_one_picture_has_the_digest_of_its_pixels():
    assert digest(GREY, None, GREY.copy()) == digest(GREY)
    assert digest(BLACK, BLACK) not in (None, digest(GREY))
