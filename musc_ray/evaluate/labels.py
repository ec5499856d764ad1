"""Find the labels of a run's images: from their paths, as a dataset lays them out, in a CSV, or from verdicts."""

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from fsspec import AbstractFileSystem

from musc_ray.errors import ImageError, MuscRayError, SettingsError, reason_of
from musc_ray.evaluate.layouts import GOOD, LAYOUTS, recognize
from musc_ray.evaluate.mask_files import find_masks
from musc_ray.evaluate.mask_pixels import read_mask
from musc_ray.evaluate.problems import Problem
from musc_ray.settings.limits import ImageLimits
from musc_ray.sources.csv_rows import read_csv_rows
from musc_ray.sources.reading import read_image
from musc_ray.sources.rows import check_secrets
from musc_ray.storage.filesystem import open_filesystem, uri_beside
from musc_ray.storage.verdicts import Verdict

DEFECTIVE = "defective"
"""Defect of anomalous images of a CSV that does not name one."""

WORDS = dict.fromkeys(("0", "0.0", "false", "good", "normal", "ok"), 0) | dict.fromkeys(
    ("1", "1.0", "true", "anomalous", "anomaly", "defective", "defect", "bad", "ko", "ng"), 1
)

CSV_COLUMNS = ("uri", "label", "mask", "defect", "group")

CSV_MASK_LEVEL = 128

VERDICTS = "verdicts"
"""What `labels` names verdicts."""

READERS = 8
"""Masks that are read at the same time where they tell good from anomalous images."""

DEFAULT_LIMITS = ImageLimits()


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


VERDICT_LABELS = {"good": Label(0, GOOD, None), "defective": Label(1, DEFECTIVE, None)}
"""Labels by verdict; other images are left out."""


@dataclass(frozen=True)
class Labels:
    """Labels of images.

    Attributes:
        by_uri: by image URI.
        origin: where they are from.
        mask_level: how resized masks are read (see DatasetLayout).
        masks: URIs of all files that are known to be masks.
        problems: found with them.
    """

    by_uri: Mapping[str, Label]
    origin: str
    mask_level: int
    masks: frozenset[str] = frozenset()
    problems: Sequence[Problem] = ()


def find_labels(
    given: str, uris: Sequence[str], limits: ImageLimits = DEFAULT_LIMITS, verdicts: Collection[Verdict] = ()
) -> Labels:
    """Find the labels of some images.

    Args:
        given: `auto`, the name of a layout, `verdicts`, or a CSV with `uri`, `label` and optionally `mask`, `defect`,
            `group`. `auto` takes verdicts where the paths tell nothing.
        uris: of the images.
        limits: of masks that are read because they tell good from anomalous images.
        verdicts: what counts now of each image.

    Raises:
        SettingsError: an unknown layout, no layout fits, or no image is judged good or defective.
        MuscRayError: a CSV that cannot be used.
    """
    if given.lower().endswith((".csv", ".tsv")):
        return _from_csv(given, uris)
    if given == VERDICTS:
        return _from_verdicts(verdicts, uris)
    name = recognize(uris) if given == "auto" else given
    labels = _from_paths(name, uris, limits) if name is not None and name in LAYOUTS else None
    if labels is not None and labels.by_uri:
        return labels
    if given == "auto":
        if any(verdict.verdict in VERDICT_LABELS for verdict in verdicts):
            return _from_verdicts(verdicts, uris)
        raise SettingsError(
            f"Cannot tell good from defective images by their paths: give --labels one of "
            f"{', '.join(LAYOUTS)}, or a CSV with the columns uri, label and, if there are masks, mask."
        )
    if labels is None:
        raise SettingsError(f"--labels must be auto, {', '.join(LAYOUTS)}, {VERDICTS} or a CSV, not '{given}'.")
    raise SettingsError(f"None of the images lies in folders of the layout '{name}': give another --labels.")


def _from_paths(name: str, uris: Sequence[str], limits: ImageLimits) -> Labels:
    """Label the images that the layout recognizes, with the masks that exist."""
    layout = LAYOUTS[name]
    images = layout.describe_all(uris)
    found = find_masks(images)
    problems = [
        Problem("MaskWithoutImage", mask, "No image of this run has this name.") for mask in found.without_image
    ]
    if layout.by_mask:
        labels = _by_masks(found.by_image, limits, problems)
        problems += [
            Problem("MaskMissing", uri, "Its label is unknown, too: the image is left out.")
            for uri in images
            if uri not in found.by_image
        ]
    else:
        labels = {
            uri: Label(image.label, image.defect, found.by_image.get(uri) if image.label else None)
            for uri, image in images.items()
        }
    masks = found.without_image.union(
        found.by_image.values(), (uri for uri in uris if uri not in images and layout.describe(uri))
    )
    return Labels(labels, name, layout.mask_level, masks, problems)


def _by_masks(masks: Mapping[str, str], limits: ImageLimits, problems: list[Problem]) -> dict[str, Label]:
    """Label images by their masks: anomalous unless the mask is black; append what cannot be read to `problems`."""

    def is_anomalous(mask: str) -> bool | Exception:
        try:
            return bool(read_mask(read_image(mask, limits.bytes), limits.pixels).values.any())
        except (ImageError, FileNotFoundError) as error:
            return error

    labels = {}
    with ThreadPoolExecutor(READERS) as readers:
        for (uri, mask), found in zip(masks.items(), readers.map(is_anomalous, masks.values()), strict=True):
            if isinstance(found, Exception):
                problems.append(Problem("MaskUnreadable", mask, f"{reason_of(found)}; {uri} is left out."))
            else:
                labels[uri] = Label(1, DEFECTIVE, mask) if found else Label(0, GOOD, None)
    return labels


def _from_verdicts(verdicts: Collection[Verdict], uris: Sequence[str]) -> Labels:
    """Label the images that people judged good or defective."""
    labels = {verdict.uri: VERDICT_LABELS[verdict.verdict] for verdict in verdicts if verdict.verdict in VERDICT_LABELS}
    if labels.keys().isdisjoint(uris):
        raise SettingsError(
            "No image of this run is judged good or defective: mark images in its report, and store what it downloads "
            "with `musc-ray verdicts OUT verdicts.csv`. Later runs do not score good images: give an earlier --run-id."
        )
    return Labels(labels, VERDICTS, CSV_MASK_LEVEL, problems=_not_scored(labels, uris))


def _from_csv(table: str, uris: Sequence[str]) -> Labels:
    labels = _read_csv(table)
    masks = frozenset(label.mask for label in labels.values() if label.mask)
    return Labels(labels, table, CSV_MASK_LEVEL, masks, _not_scored(labels, uris))


def _not_scored(labels: Mapping[str, Label], uris: Sequence[str]) -> list[Problem]:
    """List the labelled images that the run has not scored."""
    scored = set(uris)
    return [
        Problem("NotScored", uri, "The run has no such image.", label.group or "")
        for uri, label in labels.items()
        if uri not in scored
    ]


def _read_csv(table: str) -> dict[str, Label]:
    fs, path = open_filesystem(table)
    labels: dict[str, Label] = {}
    try:
        for line, row in read_csv_rows(fs, path, CSV_COLUMNS):
            if isinstance(row, str):
                raise MuscRayError(f"The labels {table}: {row}")
            missing = [name for name in ("uri", "label") if name not in row]
            if missing:
                raise MuscRayError(f"The labels {table} have no column '{missing[0]}': it needs uri and label.")
            if not row["uri"]:
                raise MuscRayError(f"The labels {table}, line {line}: the uri is missing.")
            for given in (row["uri"], row.get("mask")):
                check_secrets(table, given or "")
            uri = uri_beside(fs, path, row["uri"])
            label = _csv_label(table, line, row, fs, path)
            if labels.setdefault(uri, label) != label:
                raise MuscRayError(f"The labels {table}, line {line}: {row['uri']} has two labels.")
    except FileNotFoundError as error:
        raise MuscRayError(f"There are no labels at {table}: give an existing CSV.") from error
    return labels


def _csv_label(table: str, line: int, row: Mapping[str, str], fs: AbstractFileSystem, path: str) -> Label:
    word = row["label"].lower()
    if word not in WORDS:
        raise MuscRayError(f"The labels {table}, line {line}: label must be 0 (good) or 1 (anomalous), not '{word}'.")
    mask = row.get("mask") if WORDS[word] else None
    return Label(
        WORDS[word],
        (row.get("defect") or DEFECTIVE) if WORDS[word] else GOOD,
        uri_beside(fs, path, mask) if mask else None,
        row.get("group") or None,
    )
