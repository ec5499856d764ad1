"""Every mode decodes to upright 8-bit RGB; what is no image says so."""

import io
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, features

from musc_ray.errors import ImageError
from musc_ray.sources.decoding import decode_image, decode_original, upright_size
from tests.helpers.pictures import write_broken_pictures, write_odd_pictures

GRADIENT = Image.linear_gradient("L").resize((40, 30))


def encoded(picture: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def test_every_odd_picture_decodes_to_the_asked_size(tmp_path):
    for path in write_odd_pictures(tmp_path):
        pixels = decode_image(path.read_bytes(), (28, 42))
        assert pixels.shape == (28, 42, 3), path.name
        assert pixels.dtype == np.uint8
        assert pixels.std() > 1, path.name  # there is a picture in it


def test_grey_equals_pillow():
    expected = np.asarray(GRADIENT.convert("RGB").resize((14, 28), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(decode_image(encoded(GRADIENT), (28, 14)), expected)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_clipped(kind):
    deep = np.asarray(GRADIENT).astype(np.uint16) * 257
    pixels = np.asarray(decode_original(encoded(Image.fromarray(deep), kind)))
    np.testing.assert_array_equal(pixels[..., 0], np.asarray(GRADIENT))


def test_floats_are_scaled_by_their_own_range():
    values = np.asarray(GRADIENT, np.float32) / 1000 - 5
    pixels = np.asarray(decode_original(encoded(Image.fromarray(values), "TIFF")))
    assert (pixels.min(), pixels.max()) == (0, 255)


def test_exif_rotation_is_applied():
    turned = Image.Exif()
    turned[0x0112] = 6
    assert decode_original(encoded(GRADIENT, "JPEG", exif=turned)).size == (30, 40)


def test_broken_files_are_one_sentence(tmp_path):
    for path in write_broken_pictures(tmp_path):
        with pytest.raises(ImageError) as error:
            decode_image(path.read_bytes(), (14, 14))
        assert "\n" not in str(error.value)


def test_too_many_pixels_are_refused_before_decoding():
    with pytest.raises(ImageError, match="40 x 30"):
        decode_original(encoded(GRADIENT), max_pixels=1199)
    assert decode_original(encoded(GRADIENT), max_pixels=1200).size == (40, 30)


@pytest.mark.parametrize(("side", "words"), [(11_000, "11000 x 11000 pixels"), (20_000, "more than 100000000 pixels")])
def test_a_bomb_is_refused_by_its_header_alone(side, words):
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    data = start + struct.pack(">I", 4) + b"IDAT" + b"\0" * 8  # no pixels at all: decoding would say `truncated`
    with pytest.raises(ImageError, match=words):
        decode_original(data)


def test_the_first_frame_of_an_animation_counts():
    data = encoded(GRADIENT, "GIF", save_all=True, append_images=[GRADIENT.rotate(180)])
    np.testing.assert_array_equal(np.asarray(decode_original(data))[..., 0], np.asarray(GRADIENT))


def test_one_bit_and_cmyk_keep_their_picture():
    bits = GRADIENT.convert("1")
    np.testing.assert_array_equal(np.asarray(decode_original(encoded(bits)))[..., 0], np.asarray(bits) * 255)
    inks = decode_original(encoded(GRADIENT.convert("CMYK"), "TIFF"))
    np.testing.assert_array_equal(np.asarray(inks)[..., 0], np.asarray(GRADIENT))


def test_big_endian_sixteen_bits_are_the_same_picture():
    deep = (np.asarray(GRADIENT).astype(">u2") * 257).astype(">u2")
    data = encoded(Image.frombytes("I;16B", GRADIENT.size, deep.tobytes()), "TIFF")
    assert Image.open(io.BytesIO(data)).mode == "I;16B"
    np.testing.assert_array_equal(np.asarray(decode_original(data))[..., 0], np.asarray(GRADIENT))


@pytest.mark.parametrize(("factor", "brightest"), [(257, 255), (16, 255 * 16 / 257), (100_000, 255)])
def test_integers_are_scaled_as_sixteen_bits_or_by_their_own_range(factor, brightest):
    ramp = np.arange(256, dtype=np.int32).reshape(16, 16)
    pixels = np.asarray(decode_original(encoded(Image.fromarray(ramp * factor), "TIFF")))[..., 0]
    np.testing.assert_array_equal(pixels, np.rint(ramp * (brightest / 255)))


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow warns of every odd EXIF tag
def test_damaged_exif_raises_nothing_but_image_errors():
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x829A] = 6, "maker", 1.5
    whole = np.frombuffer(exif.tobytes(), np.uint8)
    generator = np.random.default_rng(0)
    for _ in range(1000):
        data = whole.copy()
        data[generator.integers(6, len(data), size=2)] = generator.integers(0, 256, size=2)
        picture = encoded(GRADIENT, "PNG", exif=data.tobytes())
        try:
            assert sorted(decode_original(picture).size) == [30, 40]
        except ImageError as error:
            assert str(error).startswith("The image is truncated or broken")  # noqa: PT017


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow warns of every odd TIFF tag
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP", "GIF", "BMP", "JPEG2000", "AVIF"])
def test_damaged_files_raise_nothing_but_image_errors(kind):
    """Pillow's AVIF decoder, for one, raises RuntimeError."""
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x829A] = 6, "maker", 1.5
    options = {"exif": exif} if kind in ("PNG", "JPEG", "TIFF", "WEBP", "AVIF") else {}
    whole = np.frombuffer(encoded(GRADIENT.convert("RGB"), kind, **options), np.uint8)
    generator = np.random.default_rng(0)
    refused = []
    for attempt in range(400):
        data = whole.copy()
        places = generator.integers(0, len(data), size=1 + attempt % 3)
        data[places] = generator.integers(0, 256, size=len(places))
        data = data[: generator.integers(1, len(data))] if attempt % 4 == 0 else data
        try:
            assert decode_image(data.tobytes(), (14, 14), max_pixels=1_000_000).shape == (14, 14, 3)
        except ImageError as error:
            refused.append(str(error))
    assert len(refused) > 10
    assert not [message for message in refused if "\n" in message]


def test_postscript_is_no_image():
    data = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"
    with pytest.raises(ImageError, match="not an image"):
        decode_original(data)


def test_pixels_of_plain_images_are_those_of_pillow():
    """Whatever is done for deep pixels, profiles and texts."""
    rgb = Image.merge("RGB", (GRADIENT, GRADIENT.rotate(180), GRADIENT.transpose(Image.Transpose.FLIP_LEFT_RIGHT)))
    for picture in (GRADIENT, rgb, rgb.quantize(), GRADIENT.convert("1"), rgb.convert("CMYK")):
        for kind in ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "JPEG2000"):
            try:
                data = encoded(picture, kind)
            except (OSError, ValueError):  # a mode that the format does not have
                continue
            expected = Image.open(io.BytesIO(data)).convert("RGB")
            np.testing.assert_array_equal(np.asarray(decode_original(data)), np.asarray(expected))
            small = expected.resize((14, 28), Image.Resampling.BICUBIC)
            np.testing.assert_array_equal(decode_image(data, (28, 14)), np.asarray(small))


def test_more_pixels_than_pillow_allows_are_read_where_max_pixels_does(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with ThreadPoolExecutor(4) as pool:
        data = [encoded(GRADIENT)] * 20
        sizes = {picture.size for picture in pool.map(lambda each: decode_original(each, 1200), data)}
    assert sizes == {(40, 30)}
    with pytest.raises(ImageError, match="max_pixels"):
        decode_original(encoded(GRADIENT), 1199)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_deep_images_are_upright_as_others_are(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    deep = Image.fromarray(np.asarray(GRADIENT).astype(np.uint16) * 257)
    expected = decode_original(encoded(GRADIENT, kind, exif=exif))
    data = encoded(deep, kind, exif=exif)
    np.testing.assert_array_equal(np.asarray(decode_original(data)), np.asarray(expected))
    assert upright_size(data) == expected.size[::-1]
    assert upright_size(encoded(GRADIENT, kind, exif=exif)) == expected.size[::-1]


def test_alpha_that_a_tga_does_not_declare_is_not_alpha():
    picture = Image.new("RGBA", (9, 7), (200, 100, 50, 0))
    picture.putpixel((0, 0), (200, 100, 50, 7))
    data = bytearray(encoded(picture, "TGA"))
    assert data[17] & 0x0F == 8
    assert decode_original(bytes(data)).getpixel((1, 1)) == (0, 0, 0), "declared: composited over black"
    data[17] &= 0xF0
    assert decode_original(bytes(data)).getpixel((1, 1)) == (200, 100, 50)
