"""The role of the report: writes table rows, details and pictures of images."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from PIL import Image

from musc_ray.core.crops import Box, CropLayout
from musc_ray.errors import ImageError
from musc_ray.report.data_scripts import data_script
from musc_ray.report.image_table import CHUNK_ROWS, DETAIL_ROWS, NO_THUMBNAIL, UNREADABLE, Lookup, details, table_rows
from musc_ray.report.originals import read_original
from musc_ray.report.pictures import (
    PICTURE_QUALITY,
    PICTURE_SIDE,
    SHEET_IMAGES,
    THUMBNAIL_QUALITY,
    THUMBNAIL_SIDE,
    jpeg,
    marked,
    sheet,
    thumbnail,
)
from musc_ray.report.zoom import zoom_box
from musc_ray.runtime.worker import WorkerResources
from musc_ray.settings.limits import ImageLimits
from musc_ray.sources.decoding_memory import MAX_DECODING, MAX_ORIGINALS_BYTES, DecodingMemory
from musc_ray.storage.filesystem import write_bytes, write_text
from musc_ray.storage.parquet import read_table
from musc_ray.storage.paths import OutPaths
from musc_ray.storage.schemas import SIZE_AND_PEAK

DEFECT_SCALE = 2
"""Size of the images of a repeated defect, relative to thumbnails."""


@dataclass(frozen=True)
class RowsTask:
    """CHUNK_ROWS rows of a group's table, in the order of the ranks, with their thumbnails and pictures.

    Attributes:
        table: columns of `table_rows`, SIZE_AND_PEAK among them.
        thumbnails, pictures: how many of the rows, from the first, have one.
        intensity: of the group, see `read_original`.
        crops: where the images of the group are cut; None where they are not.
    """

    group: int
    chunk: int
    table: pa.Table
    thumbnails: int
    pictures: int
    intensity: tuple[float, float] | None = None
    crops: CropLayout | None = None


@dataclass(frozen=True, eq=False)
class ImagePictures:
    """What was made of an image: its thumbnail, and the part that is shown at its own pixels, if any."""

    thumbnail: Image.Image
    zoom: Box | None


@dataclass(frozen=True)
class DetailsTask:
    """The details of one file of a group's scores.

    Attributes:
        neighbours: the file of neighbours; None without one.
        first: number of its first file of details.
        high: the upper end of the scale of the group's heat maps.
    """

    group: int
    scores: str
    neighbours: str | None
    first: int
    high: float


@dataclass(frozen=True)
class DefectTask:
    """The picture of a repeated defect: up to SHEET_COLUMNS of its images side by side, with its patches.

    Images that cannot be read are black.

    Attributes:
        patches: of each image.
        grid: (h, w) of the patches.
        intensity: of the group, see `read_original`.
    """

    group: int
    defect: int
    uris: Sequence[str]
    patches: Sequence[Sequence[int]]
    grid: tuple[int, int]
    intensity: tuple[float, float] | None = None


class SiteWriter:
    """A role of workers: writes rows, thumbnails, pictures and details of a run's images."""

    def __init__(self, out: str, run_id: str, limits: ImageLimits, plan: WorkerResources) -> None:
        self.out_paths = OutPaths.at(out)
        self.data = f"{self.out_paths.run(run_id).report}/data"
        self.limits = limits
        self.threads = ThreadPoolExecutor(MAX_DECODING)
        self.memory = DecodingMemory(MAX_ORIGINALS_BYTES)

    def rows(self, task: RowsTask) -> int:
        """Write a task's rows and pictures; return the number of unreadable images."""
        folder, first = f"{self.data}/group-{task.group}", task.chunk * CHUNK_ROWS
        images = task.table.select(["uri", *SIZE_AND_PEAK.names]).slice(0, task.thumbnails).to_pylist()
        made: list[ImagePictures | None] = []
        for start in range(0, task.thumbnails, SHEET_IMAGES):
            places = range(start, min(start + SHEET_IMAGES, task.thumbnails))
            numbers = [first + place + 1 if place < task.pictures else None for place in places]
            pictures = self.threads.map(
                lambda image, number: self._pictures(task, image, number), images[start : places.stop], numbers
            )
            made += pictures
            thumbnails = [None if each is None else each.thumbnail for each in made[start:]]
            path = f"{folder}/sheet-{(first + start) // SHEET_IMAGES:05d}.jpg"
            write_bytes(self.out_paths.fs, path, jpeg(sheet(thumbnails), THUMBNAIL_QUALITY))
        missing = len(task.table) - task.thumbnails
        sizes = [UNREADABLE if each is None else each.thumbnail.size for each in made] + [NO_THUMBNAIL] * missing
        zooms = [None if each is None else each.zoom for each in made] + [None] * missing
        key = f"group-{task.group}/rows-{task.chunk:05d}"
        write_text(self.out_paths.fs, f"{self.data}/{key}.js", data_script(key, table_rows(task.table, sizes, zooms)))
        return made.count(None)

    def details(self, task: DetailsTask, lookup: Lookup) -> int:
        """Write the details of a file of scores of the group of `lookup`; return its number of images."""
        scores = read_table(self.out_paths.fs, task.scores, ["image_id", "rank", "patch_map"])
        neighbours = None if task.neighbours is None else read_table(self.out_paths.fs, task.neighbours)
        for start in range(0, len(scores), DETAIL_ROWS):
            part = scores.slice(start, DETAIL_ROWS)
            similar = None if neighbours is None else neighbours.slice(start, DETAIL_ROWS)
            key = f"group-{task.group}/detail-{task.first + start // DETAIL_ROWS:05d}"
            content = data_script(key, details(part, similar, lookup, task.high))
            write_text(self.out_paths.fs, f"{self.data}/{key}.js", content)
        return len(scores)

    def defect(self, task: DefectTask) -> int:
        """Write the picture of a repeated defect; return the number of its unreadable images."""
        side = THUMBNAIL_SIDE * DEFECT_SCALE

        def original_of(uri: str) -> Image.Image | None:
            with self.memory.of_pixels(None):
                original = self._original(task.intensity, uri, side)
                return None if original is None else thumbnail(original, side)

        originals = list(self.threads.map(original_of, task.uris))
        shown = [
            Image.new("RGB", (side, side)) if original is None else marked(original, patches, task.grid)
            for original, patches in zip(originals, task.patches, strict=True)
        ]
        strip = Image.new("RGB", (len(shown) * side, max(picture.height for picture in shown)))
        for place, picture in enumerate(shown):
            strip.paste(picture, (place * side, 0))
        path = f"{self.data}/group-{task.group}/defect-{task.defect:03d}.jpg"
        write_bytes(self.out_paths.fs, path, jpeg(strip, PICTURE_QUALITY))
        return originals.count(None)

    def _original(self, intensity: tuple[float, float] | None, uri: str, side: int | None) -> Image.Image | None:
        """Read an original; None if it is unreadable."""
        try:
            return read_original(uri, self.limits, side, intensity)
        except ImageError:
            return None

    def _pictures(self, task: RowsTask, image: dict[str, Any], number: int | None) -> ImagePictures | None:
        """Make an image's thumbnail; of one with a number write its larger picture, too, and the part around its peak.

        The original is decoded once, and at its own size only if pixels of it are shown; None if it is unreadable.
        """
        zoom = None if number is None else zoom_box(image, task.crops)
        height, width = image["height"], image["width"]
        side = None if zoom is not None else THUMBNAIL_SIDE if number is None else PICTURE_SIDE
        with self.memory.of_pixels(None if height is None else height * width):
            original = self._original(task.intensity, image["uri"], side)
            if original is None:
                return None
            if zoom is not None and original.size != (width, height):
                zoom = None  # another image than the one that was scored
            folder, fs = f"{self.data}/group-{task.group}", self.out_paths.fs
            part = None if zoom is None else original.crop((zoom[1], zoom[0], zoom[3], zoom[2]))
            picture = None if number is None else thumbnail(original, PICTURE_SIDE)
            small = thumbnail(original, THUMBNAIL_SIDE)
            del original
        if picture is not None:
            write_bytes(fs, f"{folder}/picture-{number:05d}.jpg", jpeg(picture, PICTURE_QUALITY))
        if part is not None:
            write_bytes(fs, f"{folder}/zoom-{number:05d}.jpg", jpeg(part.convert("RGB"), PICTURE_QUALITY))
        return ImagePictures(small, zoom)


def detail_files(part_sizes: Sequence[int]) -> list[int]:
    """Number the first file of details of each file of scores, given the images per file of scores."""
    first, firsts = 0, []
    for size in part_sizes:
        firsts.append(first)
        first += -(-size // DETAIL_ROWS)
    return firsts
