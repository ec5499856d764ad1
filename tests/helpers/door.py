"""A messy folder as people have it: every entry with what must become of it."""

import io
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

IMAGE, ERROR = "image", "error"

APPLE_DOUBLE = b"\0\5\x16\7\0\2\0\0Mac OS X        "


def picture(kind: str, mode: str = "RGB", size: tuple[int, int] = (9, 7)) -> bytes:
    """Encode a small picture of noise in one of Pillow's formats."""
    pixels = np.random.default_rng(len(kind)).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, kind)
    return buffer.getvalue()


def tar_of(members: Mapping[str, bytes | str], kind: bytes = tarfile.SYMTYPE) -> bytes:
    """Return a tar of files, given by their bytes, and of links, given by the text that they lead to."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            if isinstance(content, str):
                member.type, member.linkname = kind, content
                archive.addfile(member)
            else:
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


FILES: dict[str, tuple[bytes, str]] = {
    # every extension of the formats that are read, in any case
    **{f"ext/a{suffix}": (picture("JPEG"), IMAGE) for suffix in (".jpg", ".JPG", ".jpe", ".jfif", ".Jpeg", ".mpo")},
    **{f"ext/a{suffix}": (picture("JPEG2000"), IMAGE) for suffix in (".jp2", ".j2k", ".JPX", ".j2c")},
    **{f"ext/a{suffix}": (picture("PPM"), IMAGE) for suffix in (".pnm", ".ppm")},
    "ext/a.pgm": (picture("PPM", "L"), IMAGE),
    "ext/a.tga": (picture("TGA"), IMAGE),
    "ext/a.dib": (picture("DIB"), IMAGE),
    "ext/a.webp": (picture("WEBP"), IMAGE),
    "ext/a.avif": (picture("AVIF"), IMAGE),
    "ext/a.TIFF": (picture("TIFF"), IMAGE),
    "ext/a.sgi": (picture("SGI"), IMAGE),
    "ext/a.apng": (picture("PNG"), IMAGE),
    # without or with an unknown extension: by content
    "by content/lot 7": (picture("PNG"), IMAGE),
    "by content/cam.1": (picture("JPEG"), IMAGE),
    "by content/20261124.bak": (picture("BMP"), IMAGE),
    "by content/x.img": (picture("TIFF"), IMAGE),
    "by content/ascii": (b"P2\n# made by hand\n2 2\n255\n0 10\n20 30\n", IMAGE),
    "by content/grey.dat": (picture("PPM", "L"), IMAGE),
    "by content/README": (b"P1 is the first line of this text.\n", "text"),
    "by content/BMW": (b"BMW is a text as well.\n", "text"),
    "by content/\xfcml\xe4ut": ("h\xe4nd-written".encode(), "text"),
    "by content/utf16": ("text".encode("utf-16"), "text"),
    "by content/marker": (b"", "empty"),
    "by content/one byte": (b"\x08", ERROR),
    "by content/noise": (bytes(range(128, 256)) * 4, ERROR),
    "by content/shard": (tar_of({"a.png": picture("PNG")}), ERROR),
    "by content/photo.x1": (b"\0\0\0\x18ftypheic" + bytes(40), ERROR),
    # pictures and archives that are not read: could hold images
    "unread/a.heic": (b"", ERROR),
    "unread/a.CR2": (b"II*\0", ERROR),
    "unread/old.zip": (b"PK\3\4", ERROR),
    "unread/old.tar.gz": (b"\x1f\x8b", ERROR),
    # plainly no images
    "notes/notes.txt": (b"", "text"),
    "notes/labels.csv": (b"uri\n", "text"),
    "notes/model.onnx": (b"\x08", "other"),
    "notes/clip.MP4": (b"", "other"),
    "._a.png": (APPLE_DOUBLE, "system"),
    "ext/._a.jpg": (APPLE_DOUBLE, "system"),
    ".DS_Store": (b"\0\0\0\1Bud1", "hidden"),
    ".hidden.png": (picture("PNG"), "hidden"),
    ".thumbs/a.png": (picture("PNG"), "hidden"),
    "Thumbs.db": (b"\xd0\xcf\x11\xe0", "system"),
    "desktop.ini": (b"[x]", "system"),
    "@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg": (picture("JPEG"), "system"),
    "__MACOSX/a.png": (APPLE_DOUBLE, "system"),
    "_SUCCESS": (b"", "system"),
    "@Recycle/a.png": (picture("PNG"), "system"),
    "ext/a.png:Zone.Identifier": (b"[ZoneTransfer]", "system"),
    "ext/a.jpg_original": (picture("JPEG"), "system"),
    "ext/a.jpg~": (picture("JPEG"), "system"),
    "ext/b.jpg.part": (picture("JPEG")[:60], "system"),
    "notes/0001.ten": (b"\0\1", "other"),
    # masks of known layouts
    "bottle/test/good/000.png": (picture("PNG"), IMAGE),
    "bottle/test/broken/000.png": (picture("PNG"), IMAGE),
    "bottle/ground_truth/broken/000_mask.png": (picture("PNG", "L"), "mask"),
    "can/test_public/good/000.png": (picture("PNG"), IMAGE),
    "can/test_public/bad/000.png": (picture("PNG"), IMAGE),
    "can/test_public/ground_truth/bad/000_mask.png": (picture("PNG", "L"), "mask"),
    "capsules/Data/Images/Anomaly/000.JPG": (picture("JPEG"), IMAGE),
    "capsules/Data/Masks/Anomaly/000.png": (picture("PNG", "L"), "mask"),
    "01/train/ok/0000.bmp": (picture("BMP"), IMAGE),
    "01/test/ko/0000.bmp": (picture("BMP"), IMAGE),
    "01/ground_truth/ko/0000.png": (picture("PNG", "L"), "mask"),
    "kos01/Part0.jpg": (picture("JPEG"), IMAGE),
    "kos01/Part0_label.bmp": (picture("BMP", "1"), "mask"),
    "ksdd2/test/20000.png": (picture("PNG"), IMAGE),
    "ksdd2/test/20000_GT.png": (picture("PNG", "L"), "mask"),
    "bolts/images/1.png": (picture("PNG"), IMAGE),
    "bolts/gt/1.png": (picture("PNG", "L"), "mask"),
    "nuts/img-1.png": (picture("PNG"), IMAGE),
    "nuts/img-1-mask.png": (picture("PNG", "L"), "mask"),
    "stickers/labels/1.png": (picture("PNG"), IMAGE),
    "screws/images/1.png": (picture("PNG"), IMAGE),
    "screws/masks/1.png": (picture("PNG", "L"), "mask"),
    # names that look like those of masks, but are not
    "wear/masks/ffp2/1.png": (picture("PNG"), IMAGE),
    "wear/gloves/nitrile/1.png": (picture("PNG"), IMAGE),
    "wear/gloves/nitrile/box_label.png": (picture("PNG"), IMAGE),
}
"""Content of each file, and what becomes of it: an image, an error, or the reason for which it is skipped."""

TARS: dict[str, tuple[dict[str, bytes | str], dict[str, str]]] = {
    "shards/a.tar": (
        {
            "a/0.png": picture("PNG"),
            "a/0.cls": b"3",
            "a/._0.png": APPLE_DOUBLE,
            "a/blob": picture("JPEG"),
            "a/again.png": "0.png",
            "a/gone.png": "nowhere.png",
            "a/ring.png": "ring.png",
        },
        {
            "a/0.png": IMAGE,
            "a/0.cls": "text",
            "a/._0.png": "system",
            "a/blob": IMAGE,
            "a/again.png": "second_name",
            "a/gone.png": ERROR,
            "a/ring.png": ERROR,
        },
    ),
}
"""Members of each tar, and what becomes of them."""


def write_files(folder: Path) -> dict[str, str]:
    """Write FILES and TARS below a folder; return what must become of each entry, by its path below the folder."""
    expected = {}
    for name, (content, outcome) in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        expected[name] = outcome
    for name, (members, outcomes) in TARS.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tar_of(members))
        expected |= {f"{name}#{member}": outcome for member, outcome in outcomes.items()}
    return expected


def write_links(folder: Path, outside: Path) -> dict[str, str]:
    """Add links, rings of links and a pipe to what `write_files` wrote; return what must become of each."""
    (outside / "photos").mkdir(parents=True)
    (outside / "photos/o.png").write_bytes(picture("PNG"))
    links = folder / "links"
    links.mkdir()
    for name, target in {
        "to a file.png": "../ext/a.jpg",
        "to a file outside.png": str(outside / "photos/o.png"),
        "to a folder": str(outside / "photos"),
        "to a folder again": str(outside / "photos"),
        "to itself": "to itself",
        "up": "..",
        "nowhere.png": "nowhere",
    }.items():
        (links / name).symlink_to(target)
    os.link(folder / "ext/a.tga", links / "hard.tga")
    os.mkfifo(links / "pipe")
    return {
        "links/to a file.png": "second_name",
        "links/to a file outside.png": IMAGE,
        "links/to a folder/o.png": "second_name",
        "links/to a folder again/o.png": "second_name",
        "links/to itself": ERROR,
        "links/up": "second_name",
        "links/nowhere.png": ERROR,
        "links/hard.tga": "second_name",
        "links/pipe": "special",
    }
