"""The folders of the field's datasets: from an image's path alone its label, its defect and where its mask would be.

As the authors of the datasets and anomalib's data modules have them (anomalib.data.datasets.image); 3CAD's as its
authors' loader reads it.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

GOOD = "good"
"""The defect of images without one, whatever the dataset calls it."""

MASK_FOLDERS = frozenset(("ground_truth", "masks", "Masks"))


@dataclass(frozen=True)
class PathLabel:
    """What a path says of an image.

    `masks` are paths that its mask may have, the likely one first; none for good images. `category` is the product,
    `split` the folder of the part of the dataset (`test`, `train`, ...), empty where there is none.
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
    """One dataset's way to lay out its files.

    Attributes:
        pattern: of an image's whole path; groups base, split (optional), kind and stem.
        good: kinds that are good.
        masks: where a mask may lie, with {base}, {kind} and {stem}.
        mask_level: a mask resized to the model's input holds the pixels whose grey value, 0 to 255, is at least this.
            MuSc's code takes 255 for MVTec AD and BTAD (its loader casts 0..1 to whole numbers) and 1 for VisA.
        test: the split that the dataset's protocol scores.
    """

    pattern: re.Pattern[str]
    good: frozenset[str]
    masks: tuple[str, ...]
    mask_level: int = 128
    test: str = "test"

    def describe(self, path: str) -> PathLabel | None:
        """What a path says, or None where it is no image of this layout."""
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
"""By name, in the order in which `recognize` prefers them: 3CAD's folders are MVTec AD's."""


def recognize(paths: Iterable[str]) -> str | None:
    """The name of the layout that says most of these images' labels; None when the paths say nothing.

    Images of one kind alone say nothing: any folder of pictures would be a dataset of one defect.
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
