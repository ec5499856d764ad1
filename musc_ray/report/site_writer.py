"""The role of the report: writes table rows, details and pictures of images."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
from PIL import Image

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
from musc_ray.runtime.worker import WorkerResources
from musc_ray.settings.limits import ImageLimits
from musc_ray.storage.filesystem import write_bytes, write_text
from musc_ray.storage.parquet import read_table
from musc_ray.storage.paths import OutPaths

DEFECT_SCALE = 2
"""Size of the images of a repeated defect, relative to thumbnails."""

MAX_DECODING = 4
"""Originals that are read and decoded at the same time; their size is not known before."""


@dataclass(frozen=True)
class RowsTask:
    """CHUNK_ROWS rows of a group's table, in the order of the ranks, with their thumbnails and pictures.

    Attributes:
        table: columns of `table_rows`.
        thumbnails, pictures: how many of the rows, from the first, have one.
        intensity: of the group, see `read_original`.
    """

    group: int
    chunk: int
    table: pa.Table
    thumbnails: int
    pictures: int
    intensity: tuple[float, float] | None = None


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

    def rows(self, task: RowsTask) -> int:
        """Write a task's rows and pictures; return the number of unreadable images."""
        folder, first = f"{self.data}/group-{task.group}", task.chunk * CHUNK_ROWS
        uris = task.table["uri"].to_pylist()
        sizes = []
        for start in range(0, task.thumbnails, SHEET_IMAGES):
            places = range(start, min(start + SHEET_IMAGES, task.thumbnails))
            pictures = [
                f"{folder}/picture-{first + place + 1:05d}.jpg" if place < task.pictures else None for place in places
            ]
            thumbnail_of = partial(self._thumbnail, task.intensity)
            made = list(self.threads.map(thumbnail_of, [uris[place] for place in places], pictures))
            sizes += [UNREADABLE if picture is None else picture.size for picture in made]
            path = f"{folder}/sheet-{(first + start) // SHEET_IMAGES:05d}.jpg"
            write_bytes(self.out_paths.fs, path, jpeg(sheet(made), THUMBNAIL_QUALITY))
        unreadable = sizes.count(UNREADABLE)
        sizes += [NO_THUMBNAIL] * (len(uris) - task.thumbnails)
        key = f"group-{task.group}/rows-{task.chunk:05d}"
        write_text(self.out_paths.fs, f"{self.data}/{key}.js", data_script(key, table_rows(task.table, sizes)))
        return unreadable

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
        originals = list(self.threads.map(lambda uri: self._original(task.intensity, uri, side), task.uris))
        shown = [
            Image.new("RGB", (side, side))
            if original is None
            else marked(thumbnail(original, side), patches, task.grid)
            for original, patches in zip(originals, task.patches, strict=True)
        ]
        strip = Image.new("RGB", (len(shown) * side, max(picture.height for picture in shown)))
        for place, picture in enumerate(shown):
            strip.paste(picture, (place * side, 0))
        path = f"{self.data}/group-{task.group}/defect-{task.defect:03d}.jpg"
        write_bytes(self.out_paths.fs, path, jpeg(strip, PICTURE_QUALITY))
        return originals.count(None)

    def _original(self, intensity: tuple[float, float] | None, uri: str, side: int) -> Image.Image | None:
        """Read an original; None if it is unreadable."""
        try:
            return read_original(uri, self.limits, side, intensity)
        except ImageError:
            return None

    def _thumbnail(
        self, intensity: tuple[float, float] | None, uri: str, picture_path: str | None
    ) -> Image.Image | None:
        """Make an image's thumbnail, and write its larger picture if requested; None if it is unreadable."""
        side = THUMBNAIL_SIDE if picture_path is None else PICTURE_SIDE
        original = self._original(intensity, uri, side)
        if original is None:
            return None
        if picture_path is not None:
            write_bytes(self.out_paths.fs, picture_path, jpeg(thumbnail(original, side), PICTURE_QUALITY))
        return thumbnail(original, THUMBNAIL_SIDE)


def detail_files(part_sizes: Sequence[int]) -> list[int]:
    """Number the first file of details of each file of scores, given the images per file of scores."""
    first, firsts = 0, []
    for size in part_sizes:
        firsts.append(first)
        first += -(-size // DETAIL_ROWS)
    return firsts
