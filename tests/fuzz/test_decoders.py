"""Whatever bytes come as an image: pixels of the asked size, or an ImageError of one line; never anything else."""

import io
import struct
import warnings
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps, features

from musc_ray.errors import ImageError
from musc_ray.evaluate.mask_fit import image_shape
from musc_ray.evaluate.masks import decode_mask
from musc_ray.sources.decoding import FORMATS, decode_image, decode_original, upright_size
from tests.fuzz.conftest import examples
from tests.fuzz.mutation import mutated
from tests.helpers.pictures import solar_cells

MAX_PIXELS = 400_000
CELL = Image.open(solar_cells(1)[0]).convert("L").resize((60, 45))


def encoded(picture: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def seeds() -> tuple[bytes, ...]:
    """A real picture in every format that is accepted, in several modes and compressions."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    rgb = CELL.convert("RGB")
    alpha = rgb.convert("RGBA")
    found = [encoded(rgb, kind) for kind in FORMATS if kind not in ("AVIF",) or features.check("avif")]
    found += [encoded(rgb, kind, exif=exif) for kind in ("PNG", "JPEG", "TIFF", "WEBP")]
    found += [encoded(rgb, "TIFF", compression=c) for c in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")]
    found += [encoded(CELL.convert("1"), "TIFF", compression="group4"), encoded(alpha, "PNG"), encoded(alpha, "WEBP")]
    found += [encoded(CELL.convert("P"), "PNG", transparency=0), encoded(rgb, "JPEG", progressive=True)]
    found += [encoded(Image.fromarray(np.asarray(CELL).astype(np.uint16) * 257), kind) for kind in ("PNG", "TIFF")]
    found += [encoded(CELL, "GIF", save_all=True, append_images=[CELL.rotate(90)])]
    return (*found, *deep_seeds())


def deep_seeds() -> list[bytes]:
    """The picture in the formats and compressions that Pillow does not read, or not in full."""
    values = np.asarray(CELL).astype(np.uint16) * 16
    colours = np.stack([values, values, values], axis=-1)
    compressions = (None, "lzw", "deflate", "zstd", "packbits", "lzma", "lerc", "jpeg2000")
    found = [tiff(values, compression=compression) for compression in compressions]
    found += [tiff(colours, photometric="rgb", compression=c, tile=(16, 32)) for c in ("lerc", "jpeg2000", "zstd")]
    found += [tiff(colours, compression="lzw", predictor=True), tiff(values, bigtiff=True, byteorder=">")]
    found += [tiff(values.astype(np.float32), compression="deflate", predictor=True)]
    found += [tiff(np.moveaxis(colours, -1, 0), photometric="rgb", planarconfig="separate", rowsperstrip=7)]
    found += [tiff(np.concatenate([colours, colours], axis=-1) // 16, photometric="minisblack", planarconfig="contig")]
    found += [tiff(values, photometric="miniswhite", rowsperstrip=5)]
    found += [tiff((colours // 16).astype(np.uint8), photometric="rgb", compression="jpeg", tile=(32, 32))]
    found += [tiff(values, compression="jpeg", compressionargs={"lossless": True, "bitspersample": 12})]
    found += [imagecodecs.png_encode(each) for each in (values, colours, colours[..., :2].copy())]
    found += [imagecodecs.jpeg2k_encode(each, codecformat=c) for each in (values, colours) for c in ("jp2", "j2k")]
    return [*found, b"P6 60 45 4095\n" + colours.astype(">u2").tobytes()]


def tiff(values: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, values, **options)
    return file.getvalue()


SEEDS = seeds()


def tried(data: bytes) -> None:
    """All ways to look at an image."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of every odd tag
        for look in (
            lambda: decode_image(data, (14, 28), max_pixels=MAX_PIXELS).shape == (14, 28, 3),
            lambda: decode_original(data, MAX_PIXELS, at_least=16).mode == "RGB",
            lambda: len(upright_size(data)) == 2,
            lambda: decode_mask(data, (14, 28), 128, MAX_PIXELS).shape == (14, 28),
            lambda: image_shape(data).orientation in range(1, 9),
        ):
            try:
                assert look()
            except ImageError as error:
                assert "\n" not in str(error)  # noqa: PT017
                assert len(str(error)) < 1000  # noqa: PT017


@examples(600)
@given(data=mutated(SEEDS))
def test_damaged_files_of_every_format(data: bytes, figures, no_hang) -> None:
    figures["inputs fuzzed"] += 1
    with no_hang():
        tried(data)


@examples(100)
@given(start=st.sampled_from([seed[:16] for seed in SEEDS]), data=st.binary(max_size=200))
def test_noise_behind_the_start_of_a_format(start: bytes, data: bytes, figures, no_hang) -> None:
    figures["inputs fuzzed"] += 1
    with no_hang():
        tried(start + data)


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in ((b"IHDR", header), *chunks, (b"IEND", b"")))


BOMBS = {
    "pixels": png(60_000, 60_000, (b"IDAT", zlib.compress(bytes(1000)))),
    "few pixels, much data": png(8, 8, (b"IDAT", zlib.compress(bytes(50_000_000), 9))),
    "compressed text": png(8, 8, (b"zTXt", b"k\0\0" + zlib.compress(bytes(80_000_000), 9)), (b"IDAT", b"")),
    "colour profile": png(8, 8, (b"iCCP", b"k\0\0" + zlib.compress(bytes(80_000_000), 9)), (b"IDAT", b"")),
    "netpbm": b"P5 99999999 99999999 255\n",
    "no width": b"P5 0 9 255\n",
    "gif": b"GIF89a\xff\xff\xff\xff\x00\x00\x00,\x00\x00\x00\x00\xff\xff\xff\xff\x00\x02\x00;",
    "bmp": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 2**31 - 1, 2**31 - 1, 1, 24, 0, 0, 0, 0, 0, 0),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_or_small(name, figures, no_hang):
    figures["inputs fuzzed"] += 1
    with no_hang():
        tried(BOMBS[name])


@pytest.mark.parametrize("size", [(60_000, 1), (1, 60_000), (1, 1)])
def test_lines_and_points_are_images(size, figures):
    figures["inputs fuzzed"] += 1
    picture = CELL.resize(size)
    expected = np.asarray(picture.convert("RGB").resize((28, 14), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(decode_image(encoded(picture, "PNG"), (14, 28)), expected)


@pytest.mark.parametrize("orientation", range(10))
def test_every_exif_orientation_is_applied_and_wrong_ones_are_none(orientation, figures):
    figures["inputs fuzzed"] += 1
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(CELL, "PNG", exif=exif)
    pixels = np.asarray(CELL)
    upright = {
        2: pixels[:, ::-1], 3: pixels[::-1, ::-1], 4: pixels[::-1], 5: pixels.T,
        6: np.rot90(pixels, -1), 7: pixels[::-1, ::-1].T, 8: np.rot90(pixels, 1),
    }.get(orientation, pixels)  # fmt: skip
    np.testing.assert_array_equal(np.asarray(decode_original(data))[..., 0], upright)
    assert upright_size(data) == upright.shape


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_counts(kind, figures):
    figures["inputs fuzzed"] += 1
    options = {"lossless": True} if kind == "WEBP" else {}
    frames = [CELL, ImageOps.invert(CELL), CELL.rotate(180)]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    np.testing.assert_array_equal(np.asarray(decode_original(data))[..., 0], np.asarray(CELL))


@pytest.mark.parametrize("data", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%EOF\n", b"SIMPLE  =                    T" + bytes(2850)])
def test_formats_that_run_or_unpack_what_they_like_are_not_opened(data):
    with pytest.raises(ImageError, match="not an image"):
        decode_original(data)
