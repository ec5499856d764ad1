"""Write the heat maps of checked images as files, coloured as those of their group."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from musc_ray.checking.stored_group import StoredGroup
from musc_ray.errors import MuscRayError, SettingsError
from musc_ray.report.heatmap_files import Scale, heatmap_name, write_heatmap
from musc_ray.report.originals import read_original
from musc_ray.settings.credentials import credentials_sentence, has_credentials
from musc_ray.settings.messages import shown
from musc_ray.sources.overlap import lists_out
from musc_ray.storage.filesystem import absolute, atomic_file, check_writable, open_filesystem
from musc_ray.storage.retry import PERMANENT
from musc_ray.storage.scores import map_scale, read_scores


@dataclass(frozen=True)
class HeatmapFolder:
    """A folder for the heat maps of checked images: of each the map alone and laid over the image."""

    uri: str

    @classmethod
    def at(cls, given: str, out: str, sources: Iterable[str]) -> "HeatmapFolder":
        """Return a folder that can be written; not in OUT, which a check leaves as it is, or where a run lists images.

        Raises:
            SettingsError: it lies there, or carries credentials.
            MuscRayError: it cannot be written.
        """
        if has_credentials(given):
            raise SettingsError(credentials_sentence("--maps"))
        if lists_out(absolute(out), absolute(given)):
            raise SettingsError(f"--maps {shown(given)} is inside OUT, which a check leaves as it is: choose another.")
        if any(lists_out(source, absolute(given)) for source in sources):
            raise SettingsError(f"--maps {shown(given)} is inside the source of a run: choose a folder outside it.")
        check_writable(*open_filesystem(given))
        return cls(absolute(given))

    def write(
        self, group: StoredGroup, image: tuple[str, str], patch_map: npt.NDArray[np.float32], scale: Scale
    ) -> list[str]:
        """Write the heat map of an image of a group, and the same laid over it; returns their paths or URIs.

        Args:
            group: of the image.
            image: its URI and id.
            patch_map: (h, w).
            scale: see `scale_of`.

        Raises:
            ImageError: the image cannot be read again.
            MuscRayError: the folder refuses files.
        """
        uri, image_id = image
        intensity = group.run.intensity.get(group.name)
        original = read_original(uri, group.run.settings.image_limits, intensity=intensity)
        fs, folder = open_filesystem(self.uri)
        written = []
        for extension, below in (("png", None), ("overlay.png", original)):
            path = f"{folder}/{heatmap_name(uri, image_id, extension)}"
            try:
                with atomic_file(fs, path) as partial:
                    write_heatmap(partial, patch_map, original.size, "png", scale, below)
            except PERMANENT as error:
                raise MuscRayError(f"Cannot write heat maps to {self.uri}: {error}") from error
            written.append(f"{self.uri}/{path.rpartition('/')[2]}")
        return written


def scale_of(group: StoredGroup) -> Scale:
    """Return the scale of the heat maps of a group, as those of its run have it."""
    paths = group.run_paths.parts(group.run_paths.scores, group.name)
    largest = pc.max(read_scores(group.out_paths.fs, paths, ["score_raw"])["score_raw"]).as_py()
    return map_scale(group.out_paths.fs, paths, float(largest))
