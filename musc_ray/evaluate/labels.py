"""Find the labels of a run's images: from their paths, as a dataset lays them out, or in a CSV."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import PurePosixPath

from musc_ray.errors import MuscRayError, SettingsError
from musc_ray.evaluate.layouts import GOOD, LAYOUTS, DatasetLayout, recognize
from musc_ray.storage.filesystem import open_filesystem, uri_beside
from musc_ray.storage.retry import with_retries

DEFECTIVE = "defective"
"""Defect of anomalous images of a CSV that does not name one."""

WORDS = {"0": 0, "good": 0, "normal": 0, "ok": 0, "1": 1, "anomalous": 1, "defective": 1, "bad": 1, "ko": 1}

CSV_MASK_LEVEL = 128


@dataclass(frozen=True, slots=True)
class Label:
    """Label of an image.

    Attributes:
        label: 0 good, 1 anomalous.
        defect: `good` for good images.
        mask: URI of its mask, if it has one.
        group: group that it is evaluated in, where that is not the group that it was scored in.
    """

    label: int
    defect: str
    mask: str | None
    group: str | None = None


@dataclass(frozen=True)
class Labels:
    """Labels by image URI, their origin, and how resized masks are read (see DatasetLayout)."""

    by_uri: Mapping[str, Label]
    origin: str
    mask_level: int


def find_labels(given: str, uris: Sequence[str]) -> Labels:
    """Find the labels of some images.

    Args:
        given: `auto`, the name of a layout, or a CSV with `uri`, `label` and optionally `mask`, `defect`, `group`.
        uris: of the images.

    Raises:
        SettingsError: an unknown layout, or no layout fits.
        MuscRayError: a CSV that cannot be used.
    """
    if given.lower().endswith(".csv"):
        return Labels(_read_csv(given), given, CSV_MASK_LEVEL)
    name = recognize(uris) if given == "auto" else given
    if name is None:
        raise SettingsError(
            f"Cannot tell good from defective images by their paths: give --labels one of "
            f"{', '.join(LAYOUTS)}, or a CSV with the columns uri, label and, if there are masks, mask."
        )
    if name not in LAYOUTS:
        raise SettingsError(f"--labels must be auto, {', '.join(LAYOUTS)} or a CSV, not '{given}'.")
    labels = _from_paths(LAYOUTS[name], uris)
    if not labels:
        raise SettingsError(f"None of the images lies in folders of the layout '{name}': give another --labels.")
    return Labels(labels, name, LAYOUTS[name].mask_level)


def _from_paths(layout: DatasetLayout, uris: Sequence[str]) -> dict[str, Label]:
    """Label the images that the layout recognizes, with their masks where the files exist."""
    files = cache(_files)  # each folder is listed once
    labels = {}
    for uri in uris:
        found = layout.describe(uri)
        if found is not None:
            there = (mask for mask in found.masks if PurePosixPath(mask).name in files(mask.rpartition("/")[0]))
            labels[uri] = Label(found.label, found.defect, next(there, None))
    return labels


def _files(folder: str) -> frozenset[str]:
    """List the names of a folder's files; empty where the folder is missing."""
    fs, path = open_filesystem(folder)
    try:
        return frozenset(
            PurePosixPath(name).name for name in with_retries(lambda: fs.ls(path, False), f"list {folder}")
        )
    except (FileNotFoundError, NotADirectoryError):
        return frozenset()


def _read_csv(table: str) -> dict[str, Label]:
    fs, path = open_filesystem(table)
    labels: dict[str, Label] = {}
    try:
        with fs.open(path, "r", encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            missing = {"uri", "label"} - set(reader.fieldnames or ())
            if missing:
                raise MuscRayError(f"The labels {table} have no column '{min(missing)}': it needs uri and label.")
            for row in reader:
                uri = uri_beside(fs, path, row["uri"])
                label = _csv_label(table, reader.line_num, row, fs, path)
                if labels.setdefault(uri, label) != label:
                    raise MuscRayError(f"The labels {table}, line {reader.line_num}: {row['uri']} has two labels.")
    except FileNotFoundError as error:
        raise MuscRayError(f"There are no labels at {table}: give an existing CSV.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise MuscRayError(
            f"Labels file {table} is not a readable UTF-8 CSV ({error}): save it as UTF-8 CSV."
        ) from error
    return labels


def _csv_label(table: str, line: int, row: Mapping[str, str | None], fs: object, path: str) -> Label:
    word = (row["label"] or "").strip().lower()
    if word not in WORDS:
        raise MuscRayError(f"The labels {table}, line {line}: label must be 0 (good) or 1 (anomalous), not '{word}'.")
    mask = row.get("mask") if WORDS[word] else None
    return Label(
        WORDS[word],
        (row.get("defect") or DEFECTIVE) if WORDS[word] else GOOD,
        uri_beside(fs, path, mask) if mask else None,
        row.get("group") or None,
    )
