"""Classify a file by its name: an image, plainly not an image, or something whose content must decide."""

from pathlib import PurePosixPath
from typing import NamedTuple


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


IMAGE_SUFFIXES = _words(
    ".apng .avif .avifs .bmp .btf .bw .dib .gif .icb .j2c .j2k .jfif .jp2 .jpc .jpe .jpeg .jpf .jpg .jpx .mpo "
    ".pbm .pfm .pgm .png .pnm .ppm .rgb .rgba .sgi .tga .tif .tiff .vda .vst .webp"
)
"""All extensions of the formats that `decoding` accepts, in lower case."""

UNSUPPORTED_SUFFIXES = _words(
    ".3fr .arw .cr2 .cr3 .cur .czi .dcm .dcx .dds .dng .emf .eps .exr .fit .fits .hdr .heic .heif .icns .ico "
    ".jxl .jxr .lif .mrw .nd2 .nef .orf .pcx .pdf .pef .ps .psb .psd .qoi .raf .ras .raw .rw2 .srw .svg .wdp "
    ".wmf .x3f .xbm .xcf .xpm"
)
PACKED_SUFFIXES = _words(".7z .bz2 .gz .lz4 .rar .tgz .tbz .txz .xz .zip .zst")

TEXT_SUFFIXES = _words(
    ".bat .cfg .conf .crc .css .csv .htm .html .ini .ipynb .js .json .jsonl .log .lst .md .md5 .names .ps1 "
    ".py .rst .sh .sha1 .sha256 .sha512 .toml .tsv .txt .xml .yaml .yml"
)
OTHER_SUFFIXES = _words(
    ".aac .avi .avro .cbor .ckpt .db .dll .doc .docx .exe .feather .flac .h5 .hdf .hdf5 .joblib .lnk .lock .m4a "
    ".m4v .mat .mdb .mkv .mov .mp3 .mp4 .mpeg .mpg .npy .npz .onnx .orc .pickle .pkl .ppt .pptx .pt .pth .pyc "
    ".mp .msg .pb .pyd .safetensors .so .sqlite .sqlite3 .tfrecord .ten .tflite .ttf .wav .webm .wmv .xls .xlsx"
)

SYSTEM_FOLDERS = frozenset(
    (
        "#recycle",
        "#snapshot",
        "$recycle.bin",
        "@eadir",
        "@recently-snapshot",
        "@recycle",
        "__macosx",
        "lost+found",
        "network trash folder",
        "recycled",
        "recycler",
        "system volume information",
        "temporary items",
        "~snapshot",
    )
)
SYSTEM_FILES = frozenset(
    (
        "thumbs.db",
        "ehthumbs.db",
        "ehthumbs_vista.db",
        "desktop.ini",
        "_success",
        "_metadata",
        "_common_metadata",
        "icon\r",
    )
)
APPLE_DOUBLE = "._"
STREAMS = (":encryptable", ":zone.identifier")
"""How names end that Windows gives to notes on a file, where another system stores them as files."""

COPIES = ("~", "_original")
"""What editors and exiftool append to the name of the copy that they keep."""

PARTIAL = (".crdownload", ".filepart", ".part")
"""Extensions of files that are still being written."""


class SkippedName(NamedTuple):
    """Why a file is plainly not an image, by its name: reason and message as in `images.Skipped`."""

    reason: str
    message: str


def skipped_part(relative: str) -> SkippedName | None:
    """Return why a file, or all in a folder, is skipped because of one part of its path below the source, if so."""
    for part in relative.split("/"):
        lower = part.lower()
        if part.startswith(APPLE_DOUBLE):
            return SkippedName("system", f"'{part}' is an AppleDouble file of macOS.")
        if lower in SYSTEM_FOLDERS or lower in SYSTEM_FILES:
            return SkippedName("system", f"'{part}' is of an operating system, NAS or tool.")
        if lower.endswith(STREAMS):
            return SkippedName("system", f"'{part}' is a note of Windows on a file.")
        if lower.endswith(COPIES) and suffix_of(lower.removesuffix("~").removesuffix("_original")) in IMAGE_SUFFIXES:
            return SkippedName("system", f"'{part}' is a copy that a tool kept.")
        if lower.endswith(PARTIAL):
            return SkippedName("system", f"'{part}' is not written to its end.")
        if part.startswith(".") and part.strip("."):
            return SkippedName("hidden", f"'{part}' is hidden.")
    return None


def suffix_of(path: str) -> str:
    """Return the extension of a path in lower case, with its dot; empty where it has none."""
    return PurePosixPath(path).suffix.lower()


def skipped_suffix(path: str) -> SkippedName | None:
    """Return why a file is skipped because of its extension, if so."""
    suffix = suffix_of(path)
    if suffix in TEXT_SUFFIXES:
        way_out = ": give a table of images as the source itself" if suffix in (".csv", ".tsv") else ""
        return SkippedName("text", f"Files named {suffix} are text{way_out}.")
    if suffix in OTHER_SUFFIXES:
        return SkippedName("other", f"Files named {suffix} are not images.")
    return None


def unsupported_suffix(path: str) -> str | None:
    """Return why a file of pictures cannot be read, by its extension; None for all others."""
    suffix = suffix_of(path)
    if suffix in UNSUPPORTED_SUFFIXES:
        return f"Files named {suffix} are not supported: convert them to PNG or TIFF."
    if suffix in PACKED_SUFFIXES:
        return f"Files named {suffix} are compressed archives: unpack them, or give uncompressed tar files."
    return None


def is_image_name(path: str) -> bool:
    """Return whether a file is an image by its extension."""
    return suffix_of(path) in IMAGE_SUFFIXES
