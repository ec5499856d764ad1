"""The role that writes heat maps: the patch maps of one file of scores as files of the original images' sizes."""

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from musc_ray.errors import ImageError, MuscRayError
from musc_ray.report.heatmap_files import Format, Scale, heatmap_name, write_heatmap
from musc_ray.report.originals import read_original
from musc_ray.runtime.worker import WorkerResources
from musc_ray.settings.limits import ImageLimits
from musc_ray.storage.filesystem import atomic_file, open_filesystem
from musc_ray.storage.listing import exists
from musc_ray.storage.parquet import read_table
from musc_ray.storage.retry import PERMANENT
from musc_ray.storage.schemas import SIZE_AND_PEAK
from musc_ray.storage.scores import with_size_and_peak

COLUMNS = ("image_id", "uri", "rank", "grid_h", "grid_w", "patch_map", *SIZE_AND_PEAK.names)


@dataclass(frozen=True)
class HeatmapsOptions:
    """What to write.

    Attributes:
        file_format: of the files.
        overlay: whether a png shows the original underneath.
        top: only this many of the worst of each group; None for all.
        overwrite: whether existing files are written again.
    """

    file_format: Format
    overlay: bool = False
    top: int | None = None
    overwrite: bool = False

    @property
    def extension(self) -> str:
        """Extension of the file names; an overlay has its own, as it is not a heat map alone."""
        return f"overlay.{self.file_format}" if self.overlay else self.file_format


@dataclass(frozen=True)
class HeatmapsTask:
    """One file of a group's scores.

    Attributes:
        scores: URI of the file.
        folder: URI of the folder for its heat maps.
        scale: of the group.
        images: number of images to write.
        intensity: of the group, see `read_original`.
    """

    scores: str
    folder: str
    scale: Scale
    images: int
    intensity: tuple[float, float] | None = None


@dataclass(frozen=True)
class HeatmapCounts:
    """Images written, skipped because their file exists, and unreadable; the first unreadable one and why, or ""."""

    written: int = 0
    skipped: int = 0
    unreadable: int = 0
    first_unreadable: str = ""

    @property
    def images(self) -> int:
        """Number of images."""
        return self.written + self.skipped + self.unreadable

    def __add__(self, other: "HeatmapCounts") -> "HeatmapCounts":
        return HeatmapCounts(
            self.written + other.written,
            self.skipped + other.skipped,
            self.unreadable + other.unreadable,
            self.first_unreadable or other.first_unreadable,
        )


class HeatmapWriter:
    """A role of workers: writes the heat maps of files of scores, one image at a time."""

    def __init__(self, options: HeatmapsOptions, limits: ImageLimits, plan: WorkerResources) -> None:
        self.options, self.limits = options, limits

    def write(self, task: HeatmapsTask) -> HeatmapCounts:
        """Write the heat maps of one file of scores.

        Raises:
            MuscRayError: the folder refuses files.
            StorageError: the storage failed; OSError where it failed without retries of its own.
        """
        table = with_size_and_peak(read_table(*open_filesystem(task.scores), COLUMNS))
        if self.options.top is not None:
            table = table.filter(pc.less_equal(table["rank"], self.options.top))
        return sum((self._write_image(image, task) for image in _rows(table)), HeatmapCounts())

    def _write_image(self, image: dict[str, pa.Scalar], task: HeatmapsTask) -> HeatmapCounts:
        uri = image["uri"].as_py()
        fs, folder = open_filesystem(task.folder)
        path = f"{folder}/{heatmap_name(uri, image['image_id'].as_py(), self.options.extension)}"
        if not self.options.overwrite and exists(fs, path):
            return HeatmapCounts(skipped=1)
        size, shown = (image["width"].as_py(), image["height"].as_py()), None
        if self.options.overlay or size[0] is None:
            try:
                original = read_original(uri, self.limits, intensity=task.intensity)
            except ImageError as error:
                return HeatmapCounts(unreadable=1, first_unreadable=f"{uri}: {error}")
            size, shown = original.size, original if self.options.overlay else None
            del original
        grid = (image["grid_h"].as_py(), image["grid_w"].as_py())
        patch_map = image["patch_map"].values.to_numpy().reshape(grid)
        try:
            with atomic_file(fs, path) as partial:
                write_heatmap(partial, patch_map, size, self.options.file_format, task.scale, shown)
        except PERMANENT as error:
            raise MuscRayError(f"Cannot write heat maps to {task.folder}: {error}") from error
        return HeatmapCounts(written=1)


def _rows(table: pa.Table) -> Iterator[dict[str, pa.Scalar]]:
    """Yield rows without converting their patch maps to Python lists."""
    for row in range(len(table)):
        yield {name: table[name][row] for name in table.column_names}
