"""Shards whose images are all the same picture say so."""

import numpy as np
import pytest

from musc_ray.features.one_picture import OnePicture
from musc_ray.features.read_ahead import DecodedImage
from musc_ray.sources.model_input import ModelInput
from musc_ray.storage.shards import ShardImage

BLACK, GREY = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 90, np.uint8)
ALMOST = GREY.copy()
ALMOST[3, 3, 2] += 1


def digest(*pictures):
    seen = OnePicture()
    inputs = [None if picture is None else ModelInput(picture) for picture in pictures]
    batches = [[DecodedImage(ShardImage("a", "a", ""), each)] for each in inputs]
    assert list(seen.watch(iter(batches))) == batches
    return seen.digest


@pytest.mark.parametrize("pictures", [(GREY, ALMOST), (BLACK, GREY, BLACK), (), (None, None)])
def test_several_pictures_or_none_have_no_digest(pictures):
    assert digest(*pictures) is None


def test_one_picture_has_the_digest_of_its_pixels():
    assert digest(GREY, None, GREY.copy()) == digest(GREY)
    assert digest(BLACK, BLACK) not in (None, digest(GREY))


def test_crops_that_differ_are_no_one_picture():
    def digest_of(*crops):
        seen = OnePicture()
        images = [DecodedImage(ShardImage("a", "a", ""), ModelInput(GREY, np.stack([BLACK, crop]))) for crop in crops]
        assert list(seen.watch(iter([images]))) == [images]
        return seen.digest

    assert digest_of(GREY, ALMOST) is None
    assert digest_of(GREY, GREY) not in (None, digest_of(BLACK, BLACK), digest(GREY))
