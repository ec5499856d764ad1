"""TIFF files that are read in part: what enters the model is what whole decoding gives, to the bit."""

import numpy as np
import pytest

from musc_ray.core.crops import CropInput, CropLayout, InputShape
from musc_ray.errors import ImageError
from musc_ray.sources import decoding, tiff_bands
from musc_ray.sources.decoding import decode_for_model
from musc_ray.sources.deep import BY_FORMAT, Range
from tests.helpers.tiff_files import tiff

RANGE = Range(0, 4095, "integer")
SHAPE = InputShape((28, 42), CropInput(CropLayout(3, 2, 0.25), (14, 28)))
ONE_ROW = InputShape((28, 42), CropInput(CropLayout(1, 3, 0.5), (14, 28)))
GENERATOR = np.random.default_rng(0)
GREY = GENERATOR.integers(0, 256, (211, 170)).astype(np.uint8)
COLOUR = GENERATOR.integers(0, 256, (211, 170, 3)).astype(np.uint8)
DEEP = GREY.astype(np.uint16) * 17
DEEP_COLOUR = COLOUR.astype(np.uint16) * 16
DEEP[150:] += 4000  # above the range, in the last bands alone

IN_PART = {
    "one block": (GREY, {}),
    "one block, deep, big-endian": (DEEP, {"byteorder": ">"}),
    "one block, colour": (COLOUR, {}),
    "one block in many strips": (COLOUR, {"rowsperstrip": 7}),
    "deflated strips": (GREY, {"rowsperstrip": 16, "compression": "zlib"}),
    "strips of one row, predictor": (DEEP, {"rowsperstrip": 1, "compression": "zlib", "predictor": True}),
    "LZW, colour, predictor": (COLOUR, {"rowsperstrip": 13, "compression": "lzw", "predictor": True}),
    "PackBits": (GREY, {"rowsperstrip": 5, "compression": "packbits"}),
    "Zstandard, deep": (DEEP_COLOUR, {"rowsperstrip": 9, "compression": "zstd"}),
    "tiles": (GREY, {"tile": (32, 48)}),
    "tiles, deep colour, predictor": (DEEP_COLOUR, {"tile": (16, 16), "compression": "zlib", "predictor": True}),
    "BigTIFF tiles": (DEEP, {"tile": (48, 32), "bigtiff": True, "compression": "zstd"}),
}
WHOLE = {
    "one compressed strip": (GREY, {"rowsperstrip": 211, "compression": "zlib"}, RANGE),
    "inverted": (GREY, {"photometric": "miniswhite"}, RANGE),
    "alpha": (np.concatenate([COLOUR, COLOUR[..., :1]], 2), {"extrasamples": ["unassalpha"]}, RANGE),
    "turned": (GREY, {"extratags": [(274, "H", 1, 6, True)]}, RANGE),
    "separate bands": (np.moveaxis(COLOUR, 2, 0), {"photometric": "rgb", "planarconfig": "separate"}, RANGE),
    "JPEG": (COLOUR, {"rowsperstrip": 16, "compression": "jpeg"}, RANGE),
    "float": (GREY.astype(np.float32) / 255, {}, Range(0, 1, "float")),
    "deep of no range": (DEEP, {}, BY_FORMAT),
}  # fmt: skip


def both(data, shape, intensity, monkeypatch):
    """Decode in part, or None, and whole."""
    monkeypatch.setattr(tiff_bands, "MIN_PIXELS", 0)
    taken = []
    part = tiff_bands.read_in_bands(data, shape, 10**6, intensity, taken.append)
    monkeypatch.setattr(decoding, "read_in_bands", lambda *_: None)
    return part, decode_for_model(data, shape, 10**6, intensity), taken


@pytest.mark.parametrize("shape", [SHAPE, ONE_ROW])
@pytest.mark.parametrize("name", IN_PART)
def test_a_part_at_a_time_gives_what_the_whole_gives(name, shape, monkeypatch):
    values, options = IN_PART[name]
    part, whole, taken = both(tiff(values, **options), shape, RANGE, monkeypatch)
    assert part is not None
    np.testing.assert_array_equal(part.pictures.crops, whole.pictures.crops)
    np.testing.assert_array_equal(part.pictures.whole, whole.pictures.whole)
    assert (part.size, part.remarks) == (whole.size, whole.remarks)
    assert len(part.remarks) == (values is DEEP)
    if shape is SHAPE:
        assert taken[0] < values.nbytes * 2 + 10 * values.shape[0] * values.shape[1] / 2


@pytest.mark.parametrize("name", WHOLE)
def test_other_files_are_decoded_whole(name, monkeypatch):
    values, options, intensity = WHOLE[name]
    part, whole, taken = both(tiff(values, **options), SHAPE, intensity, monkeypatch)
    assert part is None
    assert taken == []
    assert whole.pictures.crops is not None


def test_broken_files_say_what_whole_decoding_says(monkeypatch):
    data = tiff(GREY, rowsperstrip=16, compression="zlib")
    at = data.index(b"\x78", len(data) // 2)
    broken = data[:at] + bytes(2000) + data[at + 2000 :]
    messages = []
    for least in (0, 10**9):
        monkeypatch.setattr(tiff_bands, "MIN_PIXELS", least)
        for part in (broken, data[: len(data) // 2]):
            with pytest.raises(ImageError) as caught:
                decode_for_model(part, SHAPE, 10**6, RANGE)
            messages.append(str(caught.value))
    assert messages[:2] == messages[2:]
    monkeypatch.setattr(tiff_bands, "MIN_PIXELS", 0)
    with pytest.raises(ImageError, match="more than max_pixels 100"):
        decode_for_model(data, SHAPE, 100, RANGE)


def test_small_files_and_uncut_ones_are_left_to_whole_decoding():
    data = tiff(GREY)
    assert tiff_bands.read_in_bands(data, SHAPE, 10**6, RANGE, lambda _: None) is None
    assert tiff_bands.read_in_bands(data, InputShape((28, 42)), 10**6, RANGE, lambda _: None) is None
