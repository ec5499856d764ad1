"""Read masks of what is ignored in images: one for all of them, or a folder of masks by group and by image size."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from musc_ray.errors import ImageError, SettingsError, reason_of
from musc_ray.settings.limits import ImageLimits
from musc_ray.sources.names import is_image_name
from musc_ray.sources.reading import read_image
from musc_ray.storage.filesystem import open_filesystem
from musc_ray.storage.listing import exists, files_below, is_file

Flags = npt.NDArray[np.bool_]

Size = tuple[int, int]
"""Height and width in pixels."""

SIZE_NAME = re.compile(r"([1-9]\d*)x([1-9]\d*)")
HALF_WHITE = 128


@dataclass(frozen=True)
class IgnoreMasks:
    """Masks at a path or URI; each is read when it is asked for.

    Attributes:
        uri: of the mask of all images, or of the folder.
        limits: of an image.
        by_name: URIs of the masks of a folder by path below it, without suffix; None where there is one mask.
    """

    uri: str
    limits: ImageLimits
    by_name: Mapping[str, str] | None = field(default=None, hash=False)

    def of_group(self, group: str) -> Flags | None:
        """Return the mask (H, W) of a group, True where images are ignored; None where the folder has none of its name.

        Raises:
            SettingsError: it cannot be read, or ignores nothing or everything.
        """
        if self.by_name is None:
            return _read_mask(self.uri, self.limits)
        uri = self.by_name.get(group)
        return None if uri is None else _read_mask(uri, self.limits)

    @property
    def by_size(self) -> dict[Size, Flags]:
        """Return the masks of images of a size, by height and width.

        Raises:
            SettingsError: as `of_group`.
        """
        named = ((SIZE_NAME.fullmatch(name), uri) for name, uri in (self.by_name or {}).items())
        return {(int(match[2]), int(match[1])): _read_mask(uri, self.limits) for match, uri in named if match}


def open_ignore_masks(uri: str, limits: ImageLimits) -> IgnoreMasks:
    """Look for a mask or a folder of masks.

    Raises:
        SettingsError: there is nothing, or a folder without an image.
    """
    fs, path = open_filesystem(uri)
    if not exists(fs, path):
        raise SettingsError(f"There is nothing at {uri} (setting ignore): give a mask image or a folder of masks.")
    if is_file(fs, path):
        return IgnoreMasks(uri, limits)
    found = sorted((str(info["name"]) for info in files_below(fs, path)), key=lambda name: not name.endswith(".png"))
    names: dict[str, str] = {}
    for name in found:
        below = name[len(path) :].lstrip("/")
        if is_image_name(below) and not below.rpartition("/")[2].startswith("."):
            names.setdefault(below.rpartition(".")[0], str(fs.unstrip_protocol(name)))
    if not names:
        raise SettingsError(
            f"The folder {uri} (setting ignore) holds no image: give it masks GROUP.png or 640x480.png."
        )
    return IgnoreMasks(uri, limits, names)


@lru_cache(maxsize=4)
def _read_mask(uri: str, limits: ImageLimits) -> Flags:
    from musc_ray.sources.decoding import decode_original  # here: commands without masks do not decode

    try:
        picture = decode_original(read_image(uri, limits.bytes), max_pixels=limits.pixels)
    except (ImageError, OSError) as error:
        raise SettingsError(f"The mask {uri} (setting ignore) cannot be read: {reason_of(error)}.") from error
    flags = np.asarray(picture.convert("L")) >= HALF_WHITE
    if flags.all():
        raise SettingsError(f"The mask {uri} (setting ignore) ignores everything: white is what is ignored.")
    if not flags.any():
        raise SettingsError(
            f"The mask {uri} (setting ignore) ignores nothing: white, at least half, is what is ignored."
        )
    flags.setflags(write=False)
    return flags
