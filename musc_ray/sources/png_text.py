"""Take long texts out of a PNG file: Pillow refuses images with more than it thinks safe, and pixels need none."""

import zlib

START = b"\x89PNG\r\n\x1a\n"
TEXTS = (b"tEXt", b"zTXt", b"iTXt")
EXIF_TEXTS = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0")
"""Texts that may say how the image is turned."""

REFUSALS = ("MAX_TEXT_CHUNK", "MAX_TEXT_MEMORY", "Too much memory used in text chunks")
MAX_KEPT = 2**18
"""Bytes of a text that is kept for its orientation; it inflates to at most a thousand times as much, and is checked."""

MAX_INFLATED = 2**20
"""Pillow's limit of a compressed text or colour profile."""


def needs_less_text(data: bytes, error: ValueError) -> bool:
    """Whether Pillow refused a PNG file because of its texts."""
    return data.startswith(START) and any(words in str(error) for words in REFUSALS)


def without_text(data: bytes) -> bytes:
    """Return a PNG file without its texts, but for short ones about orientation, and without a huge colour profile."""
    parts, place = [START], len(START)
    while place + 8 <= len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4])
        name, content = data[place + 4 : place + 8], memoryview(data)[place + 8 : end - 4]
        if not _is_dropped(name, content):
            parts.append(data[place:end])
        place = end
    return b"".join(parts)


def _is_dropped(name: bytes, content: memoryview) -> bool:
    if name in TEXTS:
        short = bytes(content[:MAX_KEPT])
        return len(content) > MAX_KEPT or not short.startswith(EXIF_TEXTS) or (name != b"tEXt" and _is_huge(short))
    return name == b"iCCP" and _is_huge(bytes(content))


def _is_huge(content: bytes) -> bool:
    """Whether what is compressed behind a chunk's keyword is larger than Pillow reads."""
    start = content.find(b"\x78")
    if start < 0:
        return False
    try:
        return len(zlib.decompressobj().decompress(content[start:], MAX_INFLATED + 1)) > MAX_INFLATED
    except zlib.error:
        return False
