"""Make the pictures of the report: thumbnails, joined in sheets so that many images are few files, and larger ones."""

import io
from collections.abc import Sequence

from PIL import Image

THUMBNAIL_SIDE = 160
"""Pixels of a cell of a sheet; a multiple of 16, the JPEG block, so that neighbours hardly bleed into each other."""

SHEET_COLUMNS = 8
SHEET_IMAGES = SHEET_COLUMNS**2
PICTURE_SIDE = 800
THUMBNAIL_QUALITY, PICTURE_QUALITY = 75, 85
MARK_COLOUR, MARK_STRENGTH = (255, 90, 20), 70
"""Colour of the patches of a repeated defect, and its opacity of 255."""


def thumbnail(picture: Image.Image, long_side: int) -> Image.Image:
    """Shrink `picture` to at most `long_side` pixels on its longer side, in RGB, at its aspect ratio; never enlarge."""
    scale = min(1.0, long_side / max(picture.size))
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    shown = picture if picture.mode == "RGB" else picture.convert("RGB")  # which copies even what is RGB
    return shown.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)


def sheet(thumbnails: Sequence[Image.Image | None]) -> Image.Image:
    """Join up to SHEET_IMAGES thumbnails row by row, each at the upper left of its cell; cells of None stay black."""
    rows = -(-len(thumbnails) // SHEET_COLUMNS)
    result = Image.new("RGB", (SHEET_COLUMNS * THUMBNAIL_SIDE, rows * THUMBNAIL_SIDE))
    for place, picture in enumerate(thumbnails):
        if picture is not None:
            row, column = divmod(place, SHEET_COLUMNS)
            result.paste(picture, (column * THUMBNAIL_SIDE, row * THUMBNAIL_SIDE))
    return result


def marked(picture: Image.Image, patches: Sequence[int], grid: tuple[int, int]) -> Image.Image:
    """Colour and frame patches of `picture`, given row-major on its (h, w) grid."""
    from PIL import ImageDraw  # here, as drivers use the constants of this module

    h, w = grid
    shade = Image.new("L", picture.size)
    draw = ImageDraw.Draw(shade)
    boxes = []
    for patch in patches:
        row, column = divmod(patch, w)
        left, right = (round(edge * picture.width / w) for edge in (column, column + 1))
        top, bottom = (round(edge * picture.height / h) for edge in (row, row + 1))
        boxes.append((left, top, right - 1, bottom - 1))
        draw.rectangle(boxes[-1], fill=MARK_STRENGTH)
    result = Image.composite(Image.new("RGB", picture.size, MARK_COLOUR), picture.convert("RGB"), shade)
    frame = ImageDraw.Draw(result)
    for box in boxes:
        frame.rectangle(box, outline=MARK_COLOUR)
    return result


def jpeg(picture: Image.Image, quality: int) -> bytes:
    """Encode an RGB picture as JPEG."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
