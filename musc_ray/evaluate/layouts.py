"""Folder layouts of known datasets: an image's path gives its label, its defect and the path of its mask.

Sources: the datasets' authors and anomalib's data modules (anomalib.data.datasets.image); for 3CAD its authors' loader.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

GOOD = "good"
"""Defect of good images, whatever the dataset calls it."""

MASK_FOLDERS = frozenset(("ground_truth", "masks", "Masks"))


@dataclass(frozen=True)
class PathLabel:
    """What an image's path says.

    Attributes:
        defect: `good`, or the defect.
        masks: possible paths of its mask, the most likely first; empty for good images.
        category: the product.
        split: part of the dataset (`test`, `train`, ...); empty where the layout has no splits.
    """

    defect: str
    masks: tuple[str, ...]
    category: str
    split: str

    @property
    def label(self) -> int:
        """0 good, 1 anomalous."""
        return int(self.defect != GOOD)


@dataclass(frozen=True)
class DatasetLayout:
    """How one dataset lays out its files.

    Attributes:
        pattern: of an image's whole path; groups base, split (optional), kind and stem.
        good: kinds that are good.
        masks: possible paths of a mask, with {base}, {kind} and {stem}.
        mask_level: minimum grey value, 0 to 255, of an anomalous pixel in a mask resized to the model's input.
            MuSc's code uses 255 for MVTec AD and BTAD (its loader casts 0..1 to whole numbers) and 1 for VisA.
        test: split that the dataset's protocol scores.
    """

    pattern: re.Pattern[str]
    good: frozenset[str]
    masks: tuple[str, ...]
    mask_level: int = 128
    test: str = "test"

    def describe(self, path: str) -> PathLabel | None:
        """Describe an image by its path; None where the path does not fit this layout."""
        match = self.pattern.fullmatch(path)
        if match is None or MASK_FOLDERS & set(PurePosixPath(path).parts[:-1]):
            return None
        parts = match.groupdict()
        defect = GOOD if parts["kind"].lower() in self.good else parts["kind"]
        places = () if defect == GOOD else tuple(place.format(**parts) for place in self.masks)
        return PathLabel(defect, places, PurePosixPath(parts["base"]).name, parts.get("split") or "")


def _layout(folders: str, good: str, masks: tuple[str, ...], **options: int | str) -> DatasetLayout:
    pattern = re.compile(rf"(?P<base>.*)/{folders}/(?P<stem>[^/]+)\.[^/.]+", re.DOTALL)
    return DatasetLayout(pattern, frozenset(good.split()), masks, **options)  # type: ignore[arg-type]


LAYOUTS = {
    "mvtec2": _layout(
        r"(?P<split>train|validation|test_public)/(?P<kind>good|bad)",
        "good",
        ("{base}/test_public/ground_truth/{kind}/{stem}_mask.png",),
        test="test_public",
    ),
    "visa": _layout(
        r"Data/Images/(?P<kind>Normal|Anomaly)",
        "normal",
        ("{base}/Data/Masks/{kind}/{stem}.png",),
        mask_level=1,
    ),
    "btad": _layout(
        r"(?P<split>train|test)/(?P<kind>ok|ko)",
        "ok",
        ("{base}/ground_truth/{kind}/{stem}.png", "{base}/ground_truth/{kind}/{stem}.bmp"),
        mask_level=255,
    ),
    "mvtec": _layout(
        r"(?P<split>train|test)/(?P<kind>[^/]+)",
        "good",
        ("{base}/ground_truth/{kind}/{stem}_mask.png", "{base}/ground_truth/{kind}/{stem}.png"),
        mask_level=255,
    ),
    "3cad": _layout(
        r"(?P<split>train|test)/(?P<kind>[^/]+)",
        "good",
        ("{base}/ground_truth/{kind}/{stem}.png", "{base}/ground_truth/{kind}/{stem}_mask.png"),
    ),
    "folder": _layout(
        r"(?P<kind>[^/]+)",
        "good normal ok",
        tuple(
            f"{{base}}/{folder}/{{kind}}/{{stem}}{end}.png"
            for folder in ("ground_truth", "masks")
            for end in ("", "_mask")
        ),
    ),
}
"""By name, in the order in which `recognize` prefers them: 3CAD has the same folders as MVTec AD."""


def recognize(paths: Iterable[str]) -> str | None:
    """Return the name of the layout that describes most of these images; None if no layout fits.

    A layout fits if it finds good and anomalous images: otherwise any folder of pictures would be a dataset.
    """
    described: Counter[str] = Counter()
    kinds: dict[str, set[int]] = {name: set() for name in LAYOUTS}
    for path in paths:
        for name, layout in LAYOUTS.items():
            if (found := layout.describe(path)) is not None:
                described[name] += 1
                kinds[name].add(found.label)
    usable = [name for name in LAYOUTS if kinds[name] == {0, 1}]
    of_datasets = [name for name in usable if name != "folder"]  # any image lies in some folder
    return max(of_datasets or usable, key=lambda name: described[name], default=None)
