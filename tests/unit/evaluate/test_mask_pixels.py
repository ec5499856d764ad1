"""Masks of every mode, depth and convention: which of their pixels are anomalous."""

import io

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageFilter

from musc_ray.errors import ImageError
from musc_ray.evaluate.mask_pixels import (
    BLACK,
    background_of,
    background_vote,
    colour_name,
    common_background,
    read_mask,
    shades_of,
    turn,
)
from musc_ray.evaluate.masks import decode_mask

INSIDE = np.zeros((40, 60), bool)
INSIDE[10:20, 30:50] = True
IDS = np.zeros((40, 60), np.uint8)
IDS[10:20, 30:37], IDS[10:20, 37:44], IDS[10:20, 44:50] = 1, 2, 7
RED, GREEN, WHITE = (255, 0, 0), (35, 164, 54), (255, 255, 255)


def encoded(picture: Image.Image | np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def colours(inside: tuple[int, ...], outside: tuple[int, ...], kind: type = np.uint8) -> np.ndarray:
    return np.where(INSIDE[..., None], np.array(inside, kind), np.array(outside, kind))


def png_16(values: np.ndarray) -> bytes:
    return imagecodecs.png_encode(values.astype(np.uint16))


def tiff(values: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, photometric="minisblack", **options)
    return buffer.getvalue()


def palette(inside: int, outside: int, entries: dict[int, tuple[int, int, int]]) -> Image.Image:
    picture = Image.fromarray(np.where(INSIDE, inside, outside).astype(np.uint8)).convert("L")
    picture = Image.frombytes("P", picture.size, picture.tobytes())
    table = np.zeros((256, 3), np.uint8)
    for number, colour in entries.items():
        table[number] = colour
    picture.putpalette(table.ravel().tolist())
    return picture


PLAIN = {
    "0 and 1": encoded(INSIDE.astype(np.uint8)),
    "0 and 255": encoded(INSIDE.astype(np.uint8) * 255),
    "label ids": encoded(IDS),
    "label ids, TIFF": encoded(IDS, "TIFF"),
    "1 bit": encoded(INSIDE),
    "1 bit, TIFF": encoded(INSIDE, "TIFF", compression="group4"),
    "1 bit, BMP": encoded(Image.fromarray(INSIDE), "BMP"),
    "1 bit, PBM": encoded(Image.fromarray(INSIDE), "PPM"),
    "0 and 1 in 16 bits": encoded(INSIDE.astype(np.uint16)),
    "0 and 65535": encoded(INSIDE.astype(np.uint16) * 65535),
    "label ids in 16 bits": encoded(IDS.astype(np.uint16), "TIFF"),
    "0 and 1 in 32 bits": encoded(INSIDE.astype(np.int32), "TIFF"),
    "0 and 100000": encoded(INSIDE.astype(np.int32) * 100_000, "TIFF"),
    "0 and 1 in 16 bits of colour": png_16(colours((1, 1, 1), (0, 0, 0))),
    "0 and 1 in 16 bits with opacity": png_16(colours((1, 65535), (0, 65535), np.uint16)),
    "16 bits, opacity is the mask": png_16(colours((0, 65535), (0, 0), np.uint16)),
    "0 and 1 in 64 bits": tiff(INSIDE.astype(np.int64)),
    "0 and 1 in 32 unsigned bits": tiff(INSIDE.astype(np.uint32) * 2**31),
    "booleans, BigTIFF": tiff(INSIDE, bigtiff=True),
    "0 and -1": encoded(INSIDE.astype(np.int32) * -1, "TIFF"),
    "floats": encoded(INSIDE.astype(np.float32), "TIFF"),
    "colour on black": encoded(colours(RED, (0, 0, 0))),
    "blue on black": encoded(colours((0, 0, 1), (0, 0, 0)), "BMP"),
    "palette, ids on black": encoded(palette(3, 0, {3: RED})),
    "palette, black is number 5": encoded(palette(3, 5, {3: RED, 0: RED})),
    "palette, all entries black": encoded(palette(1, 0, {})),
    "palette, number 0 is white": encoded(palette(1, 0, {0: WHITE, 1: RED})),
    "palette, GIF": encoded(palette(1, 0, {1: WHITE}), "GIF"),
    "palette with a transparent number": encoded(palette(1, 0, {0: GREEN, 1: RED}), transparency=0),
    "opaque RGBA": encoded(colours((*WHITE, 255), (0, 0, 0, 255))),
    "RGBA, opacity is the mask": encoded(colours((0, 0, 0, 255), (0, 0, 0, 0))),
    "RGBA, white with opacity as the mask": encoded(colours((*WHITE, 255), (*WHITE, 0))),
    "RGBA, half transparent colour": encoded(colours((*RED, 128), (0, 0, 0, 0))),
    "RGBA, hidden": encoded(colours((*RED, 0), (0, 0, 0, 0))),
    "grey and opacity": encoded(Image.fromarray(colours((255, 255), (0, 255)), "LA")),
    "grey, opacity is the mask": encoded(Image.fromarray(colours((0, 255), (0, 0)), "LA")),
    "JPEG": encoded(INSIDE.astype(np.uint8) * 255, "JPEG", quality=60),
    "colour JPEG": encoded(colours(WHITE, (0, 0, 0)), "JPEG", quality=60),
    "lossy WebP": encoded(colours(WHITE, (0, 0, 0)), "WEBP", quality=95, method=6),
    "white background": encoded(np.where(INSIDE, 0, 255).astype(np.uint8)),
    "white background, 1 bit": encoded(~INSIDE),
    "colour on white": encoded(colours(GREEN, WHITE)),
    "background 1, no black": encoded(INSIDE.astype(np.uint8) + 1),
}


@pytest.mark.parametrize("name", PLAIN)
def test_what_is_not_background_is_anomalous(name):
    if name == "lossy WebP":  # chroma of half the resolution moves its edges by a pixel
        assert (decode_mask(PLAIN[name], None, 128) != INSIDE).mean() < 0.02
    else:
        np.testing.assert_array_equal(decode_mask(PLAIN[name], None, 128), INSIDE)


SMOOTH = {
    "blurred": lambda picture: picture.filter(ImageFilter.GaussianBlur(1.5)),
    "twice the size": lambda picture: picture.resize((120, 80), Image.Resampling.BICUBIC),
    "two thirds": lambda picture: picture.resize((40, 27), Image.Resampling.BILINEAR),
    "half the size": lambda picture: picture.resize((31, 21), Image.Resampling.BOX),
}


@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize("is_inverted", [False, True])
def test_a_mask_with_many_greys_is_cut_at_half_its_range(name, is_inverted):
    rows, columns = np.mgrid[:40, :60]
    disc = (rows - 20) ** 2 + (columns - 28) ** 2 < 11**2
    smooth = np.asarray(SMOOTH[name](Image.fromarray(np.where(disc, 255, 0).astype(np.uint8))))
    stored = 255 - smooth if is_inverted else smooth
    np.testing.assert_array_equal(decode_mask(encoded(stored), None, 128), smooth >= 128)
    deep = smooth.astype(np.uint16) * 16  # 12 bits of 16
    np.testing.assert_array_equal(decode_mask(encoded(deep), None, 128), smooth >= 128)


def test_many_label_ids_are_not_greys():
    generator = np.random.default_rng(0)
    ids = np.zeros((200, 300), np.uint8)
    for number in range(1, 120):
        y, x, height, width = *generator.integers(0, 180, 2), *generator.integers(1, 25, 2)
        ids[y : y + height, x : x + width] = number
    np.testing.assert_array_equal(decode_mask(encoded(ids), None, 128), ids > 0)
    lines = np.zeros((50, 50), np.uint8)
    lines[::5] = np.arange(1, 11)[:, None]  # one pixel wide
    np.testing.assert_array_equal(decode_mask(encoded(lines), None, 128), lines > 0)


def test_a_grey_mask_keeps_its_shades_for_the_level_of_a_protocol():
    smooth = np.asarray(SMOOTH["blurred"](Image.fromarray(INSIDE.astype(np.uint8) * 255)))
    for level in (1, 128, 255):
        resized = np.asarray(Image.fromarray(smooth).resize((36, 24), Image.Resampling.BILINEAR)) >= level
        np.testing.assert_array_equal(decode_mask(encoded(smooth), (24, 36), level), resized)


def test_a_defect_that_fills_its_image_is_not_taken_for_background():
    """One mask of three is nearly white: its background is black as that of the others."""
    filled = read_mask(encoded(np.where(np.arange(60) < 55, 255, 0).astype(np.uint8)[None].repeat(40, 0)))
    plain = read_mask(PLAIN["0 and 255"])
    assert background_vote(filled) == WHITE
    assert common_background([background_vote(mask) for mask in (filled, plain, plain)]) == BLACK
    assert (shades_of(filled, background_of(filled, BLACK)) > 0).sum() == 40 * 55
    assert common_background([background_vote(filled)] * 2 + [BLACK]) == WHITE
    assert common_background([]) == common_background([None]) == BLACK


@pytest.mark.parametrize(
    ("value", "common", "anomalous"), [(0, BLACK, 0), (255, BLACK, 255), (255, WHITE, 0), (0, WHITE, 0)]
)
def test_masks_of_one_value(value, common, anomalous):
    mask = read_mask(encoded(np.full((5, 7), value, np.uint8)))
    assert background_vote(mask) is None
    assert (shades_of(mask, background_of(mask, common)) == anomalous).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mask_is_turned_by_its_own_exif(orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    mask = read_mask(encoded(INSIDE.astype(np.uint8), kind, exif=exif))
    np.testing.assert_array_equal(mask.values > 0, turn(INSIDE.astype(np.uint8), orientation))
    assert mask.values.shape == ((60, 40) if orientation > 4 else (40, 60))
    assert mask.is_turned == (orientation > 1)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not an image"),
        (b"text", "not an image"),
        (PLAIN["JPEG"][:200], "broken"),
        (encoded(np.full((4, 4), np.nan, np.float32), "TIFF"), "NaN"),
    ],
)
def test_what_is_not_a_mask_is_refused(data, words):
    with pytest.raises(ImageError, match=words):
        read_mask(data)


def test_large_masks_are_refused():
    assert read_mask(PLAIN["0 and 1"], 2400).values.shape == (40, 60)
    with pytest.raises(ImageError, match="more than max_pixels 2399"):
        read_mask(PLAIN["0 and 1"], 2399)


def test_names_of_colours():
    assert [colour_name(colour) for colour in (BLACK, WHITE, GREEN)] == ["value 0", "value 255", "colour #23a436"]
