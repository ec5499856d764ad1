"""Find the masks of images: in the folders of a dataset that hold masks, or beside the images."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from musc_ray.evaluate.layouts import MASK_FOLDERS, UNKNOWN, PathLabel, without_ending
from musc_ray.sources.names import is_image_name
from musc_ray.storage.filesystem import open_filesystem
from musc_ray.storage.listing import MISSING, list_folder

MAX_DEPTH = 4
"""Levels of folders below a folder of masks."""


@dataclass
class Folder:
    """Names of the files and folders in a folder."""

    files: frozenset[str] = frozenset()
    folders: frozenset[str] = frozenset()

    @cached_property
    def names(self) -> tuple[Mapping[str, str], Mapping[str, str]]:
        """Return the names of images by stem: those with the ending of a mask by what is before it, then all.

        An exact stem is preferred to one in another case, and PNG, which changes no value, to other formats.
        """
        ended: dict[str, str] = {}
        plain: dict[str, str] = {}
        for fold in (str, str.casefold):
            for name in sorted(filter(_may_be_mask, self.files), key=lambda name: (not name.endswith(".png"), name)):
                stem = name.rpartition(".")[0]
                plain.setdefault(fold(stem), name)
                if without_ending(stem) != stem:
                    ended.setdefault(fold(without_ending(stem)), name)
        return ended, plain

    def find(self, stem: str, *, must_end: bool = False) -> str | None:
        """Return the name of the mask of an image; with `must_end` only one with an ending."""
        ended, plain = self.names
        for names in (ended,) if must_end else (ended, plain):
            name = names.get(stem) or names.get(stem.casefold())
            if name is not None:
                return name
        return None


@dataclass
class Folders:
    """Listings of folders by URI; each is listed once."""

    listed: dict[str, Folder] = field(default_factory=dict)

    def at(self, uri: str) -> Folder:
        """List a folder; empty where it is missing."""
        if uri not in self.listed:
            self.listed[uri] = _list(uri)
        return self.listed[uri]

    def below(self, uri: str, depth: int = MAX_DEPTH) -> Iterable[str]:
        """Yield the URIs of all images in a folder and below it."""
        folder = self.at(uri)
        yield from (f"{uri}/{name}" for name in folder.files if _may_be_mask(name))
        if depth:
            for name in folder.folders:
                yield from self.below(f"{uri}/{name}", depth - 1)

    def masks_beside(self, uri: str) -> Iterable[str]:
        """Yield the URIs of the masks in a folder of images: their names have an ending."""
        yield from (f"{uri}/{name}" for name in self.at(uri).names[0].values())

    def inside(self, uri: str, names: Iterable[str]) -> str | None:
        """Return the URI of a folder further down, its names in any case; None if it is missing."""
        for name in names:
            there = self.at(uri).folders
            fitting = name if name in there else next((n for n in sorted(there) if n.casefold() == name.casefold()), "")
            if not fitting:
                return None
            uri = f"{uri}/{fitting}"
        return uri


@dataclass(frozen=True)
class FoundMasks:
    """Masks of images by the image's URI, and masks that belong to no image."""

    by_image: Mapping[str, str]
    without_image: frozenset[str]


def find_masks(images: Mapping[str, PathLabel]) -> FoundMasks:
    """Find the masks of images by their paths.

    A mask has the stem of its image, with or without an ending such as `_mask`, and any extension. It lies in a folder
    of masks (`ground_truth`, `masks`, `label`, ...; any case) beside the image or further up, but within the dataset's
    folder of the product: in the same folders as the image, in the folder of its kind, or in no other folder. A mask
    with an ending may also lie in the folder of its image.

    Args:
        images: by URI, with what the layout says of them.
    """
    folders = Folders()
    by_folder: dict[tuple[str, str], list[str]] = defaultdict(list)
    for uri, found in images.items():
        by_folder[uri.rpartition("/")[0], found.base].append(uri)
    by_image: dict[str, str] = {}
    shared: dict[str, str] = {}
    roots: set[str] = set()
    beside = {uri.rpartition("/")[0] for uri, found in images.items() if found.defect == UNKNOWN}
    for (folder, base), uris in by_folder.items():
        mask_roots = list(_mask_roots(folders, folder, base))
        roots.update(root for root, _ in mask_roots)
        own, common = _mask_folders(folders, mask_roots)
        for uri in uris:
            stem = uri.rpartition("/")[2].rpartition(".")[0]
            if mask := _mask_in(folders, own, stem) or _mask_in(folders, [folder], stem, must_end=True):
                by_image[uri] = mask
            elif mask := _mask_in(folders, common, stem):
                shared[uri] = mask
    # two kinds of defects may number their images alike: whose mask is it then?
    claims = Counter(mask for uri, mask in shared.items() if images[uri].label)
    by_image |= {uri: mask for uri, mask in shared.items() if claims[mask] == images[uri].label}
    every = {mask for root in roots for mask in folders.below(root)}
    every |= {mask for folder in beside for mask in folders.masks_beside(folder)}
    return FoundMasks(by_image, frozenset(every - set(by_image.values())))


def _may_be_mask(name: str) -> bool:
    return is_image_name(name) and not name.startswith(".")


def _mask_roots(folders: Folders, folder: str, base: str) -> Iterable[tuple[str, list[str]]]:
    """Yield folders of masks from an image's folder up to the base, each with the names from beside it to the image."""
    names: list[str] = []
    while True:
        for name in sorted(folders.at(folder).folders):
            if name.casefold() in MASK_FOLDERS:
                yield f"{folder}/{name}", names
        if folder == base or "/" not in folder:
            return
        folder, _, name = folder.rpartition("/")
        names = [name, *names]


def _mask_folders(folders: Folders, roots: Iterable[tuple[str, list[str]]]) -> tuple[list[str], list[str]]:
    """Return the folders that may hold the masks of a folder of images: its own, and those it has in common."""
    own: dict[str, None] = {}
    common: dict[str, None] = {}
    for root, names in roots:
        for tail in (names, names[1:], names[-1:]):
            found = folders.inside(root, tail)
            if found is not None and (tail or not names):
                own[found] = None
        if names:
            common[root] = None
    return list(own), list(common)


def _mask_in(folders: Folders, places: Iterable[str], stem: str, *, must_end: bool = False) -> str | None:
    for place in places:
        if name := folders.at(place).find(stem, must_end=must_end):
            return f"{place}/{name}"
    return None


def _list(uri: str) -> Folder:
    fs, path = open_filesystem(uri)
    try:
        entries = list_folder(fs, path)
    except MISSING:
        return Folder()
    names: dict[str, set[str]] = {"file": set(), "directory": set()}
    for entry in entries:
        name = entry["name"].rstrip("/").rpartition("/")[2]
        for kind, of_kind in names.items():
            if entry["type"] in (kind, "link", "other"):  # a link may lead to either
                of_kind.add(name)
    return Folder(frozenset(names["file"]), frozenset(names["directory"]))
