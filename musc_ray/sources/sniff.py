"""Classify a file by the first bytes of its content, where its name does not say."""

import io
import re
import struct
from typing import Literal

import fsspec
from PIL import Image

from musc_ray.storage.retry import with_retries

HEAD_BYTES = 1024
ASCII_PICTURE = re.compile(rb"P[1-6f]\s")
CONTROL = bytes(set(range(32)) - set(b"\t\n\r\f\x1b"))

Content = Literal["image", "text", "empty", "packed", "container", "unsupported", "unknown"]

PACKED = (
    b"PK\x03\x04",
    b"PK\x05\x06",
    b"\x1f\x8b",
    b"BZh",
    b"\xfd7zXZ\0",
    b"7z\xbc\xaf\x27\x1c",
    b"Rar!",
    b"\x28\xb5\x2f\xfd",
)
UNSUPPORTED = (
    b"8BPS",
    b"qoif",
    b"%PDF",
    b"%!PS",
    b"v/1\x01",
    b"SIMPLE  =",
    b"\xff\x0a",
    b"\0\0\0\x0cJXL ",
    b"FUJIFILM",
)
HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")
DICOM = slice(128, 132)
TAR = slice(257, 262)

MESSAGES: dict[Content, str] = {
    "packed": "The file is a compressed archive: unpack it, or give an uncompressed tar file.",
    "container": "The file is a tar or Parquet file by its content: give it the extension .tar or .parquet.",
    "unsupported": "The file is a picture of a format that is not supported: convert it to PNG or TIFF.",
    "unknown": "The file has no extension that is known and is not an image in a known format.",
}
"""Why a file that could hold images cannot be read."""


def read_head(fs: fsspec.AbstractFileSystem, path: str) -> bytes:
    """Read the first HEAD_BYTES bytes of a file.

    Raises:
        OSError, StorageError: it cannot be read.
    """

    def read() -> bytes:
        with fs.open(path, "rb", block_size=HEAD_BYTES, cache_type="none") as file:
            return bytes(file.read(HEAD_BYTES))

    return with_retries(read, f"read {path}")


def content_kind(head: bytes) -> Content:
    """Classify a file by its first bytes."""
    if not head:
        return "empty"
    if _is_image(head):
        return "image"
    if head.startswith(b"PAR1") or head[TAR] == b"ustar":
        return "container"
    if head.startswith(PACKED):
        return "packed"
    if head.startswith(UNSUPPORTED) or head[DICOM] == b"DICM" or (head[4:8] == b"ftyp" and head[8:12] in HEIF_BRANDS):
        return "unsupported"
    return "text" if _is_text(head) else "unknown"


def _is_image(head: bytes) -> bool:
    """Ask Pillow's formats, in the order in which it tries them; TGA has no signature."""
    from musc_ray.sources.decoding import FORMATS  # here: it loads all of Pillow; names tell most files

    if _is_text(head):
        return ASCII_PICTURE.match(head) is not None and _opens(head, ["PPM"])
    for name in FORMATS:
        if _accepts(name, head):
            return name not in ("PPM", "DIB", "BMP", "SGI") or _opens(head, [name])  # two letters are a weak signature
    return False


def _accepts(name: str, head: bytes) -> bool:
    accept = Image.OPEN[name][1]
    try:
        return accept is not None and accept(head[:16]) is True
    except (struct.error, IndexError):  # fewer bytes than it looks at
        return False


def _opens(head: bytes, formats: list[str]) -> bool:
    try:
        with Image.open(io.BytesIO(head), formats=formats):
            return True
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False


def _is_text(head: bytes) -> bool:
    """Return whether bytes are text in UTF-8, or in UTF-16 with its mark; a character may be cut at the end."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return True
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3 or len(head) < HEAD_BYTES:
            return False
    return not set(head) & set(CONTROL)
