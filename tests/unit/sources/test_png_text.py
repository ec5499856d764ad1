"""Texts in a PNG file, however long, do not make it unreadable."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from musc_ray.errors import ImageError
from musc_ray.sources.decoding import decode_original
from musc_ray.sources.png_text import without_text

GRADIENT = Image.linear_gradient("L").resize((40, 30))


def encoded(**options) -> bytes:
    file = io.BytesIO()
    GRADIENT.save(file, "PNG", **options)
    return file.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def with_chunk(name: bytes, content: bytes, at_end: bool = False) -> bytes:
    data = encoded()
    place = len(data) - 12 if at_end else 8 + 25
    return data[:place] + chunk(name, content) + data[place:]


TEXTS = {
    "plain, 2 MB": with_chunk(b"tEXt", b"log\0" + b"x" * 2_000_000),
    "plain, 70 MB": with_chunk(b"tEXt", b"log\0" + b"x" * 70_000_000),
    "compressed": with_chunk(b"zTXt", b"log\0\0" + zlib.compress(b"x" * 2_000_000)),
    "international": with_chunk(b"iTXt", b"log\0\1\0\0\0" + zlib.compress(b"x" * 2_000_000)),
    "behind the pixels": with_chunk(b"zTXt", b"log\0\0" + zlib.compress(b"x" * 2_000_000), at_end=True),
    "a huge profile": with_chunk(b"iCCP", b"log\0\0" + zlib.compress(bytes(2_000_000))),
}


@pytest.mark.parametrize("name", TEXTS)
def test_long_texts_are_passed_over(name):
    np.testing.assert_array_equal(np.asarray(decode_original(TEXTS[name]))[..., 0], np.asarray(GRADIENT))


def test_the_orientation_is_kept():
    exif, info = Image.Exif(), PngImagePlugin.PngInfo()
    exif[0x0112] = 6
    info.add_text("log", "x" * 2_000_000, zip=True)
    assert decode_original(encoded(exif=exif, pnginfo=info)).size == (30, 40)


def test_short_texts_about_orientation_stay():
    xmp = chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<x/>")
    data = with_chunk(b"iTXt", xmp[8:-4])
    assert without_text(data) == data
    assert without_text(with_chunk(b"tEXt", b"log\0x")) == encoded()


def test_a_broken_chunk_is_still_an_error():
    data = TEXTS["compressed"]
    with pytest.raises(ImageError, match="truncated or broken"):
        decode_original(data[: len(data) // 2])
