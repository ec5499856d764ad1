"""Folder layouts of known datasets: an image's path gives its label, its defect and the folder of its product.

Sources: the datasets' authors and anomalib's data modules (anomalib.data.datasets.image); for 3CAD its authors' loader.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

GOOD = "good"
"""Defect of good images, whatever the dataset calls it."""

UNKNOWN = ""
"""Defect of images of a layout whose paths do not tell good from anomalous ones: their masks do."""

MASK_FOLDERS = frozenset(
    f"{word}{plural}"
    for word in ("ground_truth", "ground-truth", "groundtruth", "gt", "mask", "label", "annotation", "segmentation")
    for plural in ("", "s")
)
"""Names of folders with masks, in lower case."""

_ENDING = re.compile(r"[-_. ]+(masks?|labels?|gt|ground[-_ ]?truth|seg|segmentation|annotation)", re.IGNORECASE)


def without_ending(stem: str) -> str:
    """Return the stem of a mask's image: without an ending such as `_mask`, `-GT` or `_label`, if there is one."""
    for match in _ENDING.finditer(stem):
        if match.end() == len(stem) and match.start():
            return stem[: match.start()]
    return stem


@dataclass(frozen=True)
class PathLabel:
    """What an image's path says.

    Attributes:
        defect: `good`, the defect, or UNKNOWN.
        base: folder of the product, which also holds its masks.
        split: part of the dataset (`test`, `train`, ...); empty where the layout has no splits.
    """

    defect: str
    base: str
    split: str

    @property
    def label(self) -> int:
        """0 good, 1 anomalous or unknown."""
        return int(self.defect != GOOD)

    @property
    def category(self) -> str:
        """The product."""
        return PurePosixPath(self.base).name


@dataclass(frozen=True)
class DatasetLayout:
    """How one dataset lays out its images; `mask_files` finds their masks.

    Attributes:
        pattern: of an image's whole path; groups base, split (optional), kind (optional) and stem.
        good: kinds that are good.
        mask_level: minimum shade, 1 to 255, of an anomalous pixel in a mask resized to the model's input.
            MuSc's code uses 255 for MVTec AD and BTAD (its loader casts 0..1 to whole numbers) and 1 for VisA.
        test: split that the dataset's protocol scores.
    """

    pattern: re.Pattern[str]
    good: frozenset[str]
    mask_level: int = 128
    test: str = "test"

    @property
    def by_mask(self) -> bool:
        """Whether an image is anomalous if its mask is not empty, since paths do not tell."""
        return "kind" not in self.pattern.groupindex

    def describe(self, path: str) -> PathLabel | None:
        """Describe an image by its path; None where the path does not fit this layout, or is that of a mask."""
        match = self.pattern.fullmatch(path)
        if match is None:
            return None
        parts = match.groupdict()
        kind = parts.get("kind") or UNKNOWN
        folders = [name.lower() for name in PurePosixPath(path).parts[:-1]]
        if kind.lower() in MASK_FOLDERS or "ground_truth" in folders:
            return None
        return PathLabel(GOOD if kind.lower() in self.good else kind, parts["base"], (parts.get("split") or "").lower())

    def describe_all(self, paths: Iterable[str]) -> dict[str, PathLabel]:
        """Describe the images among some paths; masks are not among them.

        Masks lie in a folder of masks in the folder of a product, or beside an image whose name they have, with an
        ending.
        """
        found = {path: label for path in paths if (label := self.describe(path)) is not None}
        bases = {label.base for label in found.values()}
        names = {_folder_and_stem(path) for path in found}
        return {
            path: label
            for path, label in found.items()
            if not _lies_in_masks(path, bases) and not _is_beside(path, names)
        }


def _lies_in_masks(path: str, bases: set[str]) -> bool:
    """Return whether a folder of masks in one of the bases holds a file."""
    folder, _, _ = path.rpartition("/")
    while "/" in folder:
        parent, _, name = folder.rpartition("/")
        if name.lower() in MASK_FOLDERS and parent in bases:
            return True
        folder = parent
    return False


def _is_beside(path: str, names: set[tuple[str, str]]) -> bool:
    """Return whether a file is the mask of another one in its folder."""
    folder, stem = _folder_and_stem(path)
    return without_ending(stem) != stem and (folder, without_ending(stem)) in names


def _folder_and_stem(path: str) -> tuple[str, str]:
    folder, _, name = path.rpartition("/")
    return folder, name.rpartition(".")[0].lower()


def _layout(folders: str, good: str = "", **options: int | str) -> DatasetLayout:
    pattern = re.compile(rf"(?P<base>.*)/{folders}\.[^/.]+", re.DOTALL | re.IGNORECASE)
    return DatasetLayout(pattern, frozenset(good.split()), **options)  # type: ignore[arg-type]


LAYOUTS = {
    "mvtec2": _layout(r"(?P<split>train|validation|test_public)/(?P<kind>good|bad)/[^/]+", "good", test="test_public"),
    "visa": _layout(r"Data/Images/(?P<kind>Normal|Anomaly)/[^/]+", "normal", mask_level=1),
    "btad": _layout(r"(?P<split>train|test)/(?P<kind>ok|ko)/[^/]+", "ok", mask_level=255),
    "mvtec": _layout(r"(?P<split>train|test)/(?P<kind>[^/]+)/[^/]+", "good", mask_level=255),
    "3cad": _layout(r"(?P<split>train|test)/(?P<kind>[^/]+)/[^/]+", "good"),
    "ksdd": _layout(r"kos\d+/Part\d+"),
    "ksdd2": _layout(r"(?P<split>train|test)/\d+"),
    "folder": _layout(r"(?P<kind>[^/]+)/[^/]+", "good normal ok"),
}
"""By name, in the order in which `recognize` prefers them: 3CAD and MPDD have the same folders as MVTec AD."""


def recognize(paths: Iterable[str]) -> str | None:
    """Return the name of the layout that describes most of these images; None if no layout fits.

    A layout fits if it finds good and anomalous images, since otherwise any folder of pictures would be a dataset, or
    if the masks of its images tell them apart.
    """
    paths = list(paths)
    described: dict[str, int] = {}
    for name, layout in LAYOUTS.items():
        found = layout.describe_all(paths)
        if layout.by_mask or {label.label for label in found.values()} == {0, 1}:
            described[name] = len(found)
    by_path = [name for name in described if not LAYOUTS[name].by_mask and name != "folder"]
    by_mask = [name for name in described if LAYOUTS[name].by_mask and described[name]]
    any_folder = [name for name in described if name == "folder"]  # any image lies in some folder
    return max(by_path or by_mask or any_folder, key=lambda name: described[name], default=None)
