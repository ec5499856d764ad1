"""Masks in the layouts of known datasets: they lie beside the images, but are not images of the archive.

A mask is told by its folder only where the layout is there as a whole: `ground_truth/` beside `test/` or `train/`
(MVTec AD, BTAD, 3CAD, MPDD, KolektorSDD2 as converted), `test_public/ground_truth/` (MVTec AD 2), `Data/Masks/` beside
`Data/Images/` (VisA), `masks/<kind>/` beside `<kind>/`; and by its name, `<name>_label.bmp` (KolektorSDD) or
`<name>_GT.png` (KolektorSDD2), only beside the image `<name>.*`.
"""

import re
from collections.abc import Iterator

from musc_ray.sources.images import Entry, ListedImage, Skipped

MASK_FOLDER = re.compile(
    r"(?P<base>(?:.*/)?)(?P<folder>ground[_-]?truth|gts?|labels?|masks?)/(?P<inside>.*)", re.I | re.S
)
MASK_NAME = re.compile(r"(?P<image>.+)[_-](?:label|gt|mask)", re.I | re.S)

SPLITS = ("test", "train", "images")
"""Folders beside a folder of masks that hold the images."""


def without_masks(entries: Iterator[Entry]) -> Iterator[Entry]:
    """Yield entries, the masks among them as skipped; what may be a mask by its folder comes last."""
    in_mask_folders: list[ListedImage] = []
    folders: set[str] = set()
    folder, names = "", set[str]()
    named_as_masks: list[tuple[ListedImage, str]] = []  # of this folder: their images may come after them
    for entry in entries:
        if not isinstance(entry, ListedImage):
            yield entry
        elif MASK_FOLDER.fullmatch(entry.relative):
            in_mask_folders.append(entry)
        else:
            of_entry, _, name = entry.relative.rpartition("/")
            if of_entry != folder:
                yield from _judged_by_names(named_as_masks, names)
                folder, names, named_as_masks = of_entry, set(), []
                folders.update(_with_parents(folder))
            stem = name.rpartition(".")[0] or name
            names.add(stem)
            match = MASK_NAME.fullmatch(stem)
            if match is None:
                yield entry
            else:
                named_as_masks.append((entry, match["image"]))
    yield from _judged_by_names(named_as_masks, names)
    for entry in in_mask_folders:
        yield _judged(entry, folders)


def _judged_by_names(entries: list[tuple[ListedImage, str]], names: set[str]) -> Iterator[Entry]:
    """Yield entries that are named as masks; as skipped where the image of that name is in the same folder."""
    for entry, image in entries:
        if image in names:
            yield Skipped(entry.uri, "mask", f"It is named as the mask of the image '{image}' beside it.")
        else:
            yield entry


def _judged(entry: ListedImage, folders: set[str]) -> Entry:
    """Return an image that lies in a folder named as one of masks; skipped where the layout is there."""
    match = MASK_FOLDER.fullmatch(entry.relative)
    if match is None:
        return entry
    base, kind = match["base"], match["inside"].rpartition("/")[0]
    beside = [f"{base}{split}".lower() for split in SPLITS]
    if kind:
        beside.append(f"{base}{kind}".lower())
    if any(place in folders for place in beside):
        return Skipped(entry.uri, "mask", f"It lies in '{base}{match['folder']}' beside the images it belongs to.")
    return entry


def _with_parents(folder: str) -> Iterator[str]:
    """Yield a folder and those that hold it, in lower case."""
    parts = folder.lower().split("/")
    return ("/".join(parts[:end]) for end in range(1, len(parts) + 1))
