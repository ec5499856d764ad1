"""Run the paper's protocol on a dataset: the test images of each category score each other, then metrics.

Scoring gets a list of URIs and groups; labels reach only the evaluation.
"""

import csv
import io
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from musc_ray.errors import MuscRayError, SettingsError
from musc_ray.evaluate.evaluation import Evaluation, evaluate_run
from musc_ray.evaluate.labels import find_labels
from musc_ray.evaluate.layouts import LAYOUTS, recognize
from musc_ray.pipeline import run_archive
from musc_ray.runtime.executor import joined_cluster
from musc_ray.runtime.options import ExecutorOptions
from musc_ray.runtime.progress import Progress
from musc_ray.scoring.result import RunResult
from musc_ray.settings.model import Settings
from musc_ray.sources.images import ListedImage
from musc_ray.sources.registry import list_source, open_source
from musc_ray.storage.filesystem import absolute, open_filesystem, write_text
from musc_ray.storage.paths import OutPaths

VISA_SPLIT = "split_csv/1cls.csv"
"""VisA's table of test images, with the columns object, split, label, image and mask."""


@dataclass(frozen=True)
class TestImage:
    """Image that the protocol scores: its URI, category, and kind (a defect, or good)."""

    uri: str
    category: str
    kind: str


def evaluate_dataset(settings: Settings, progress: Progress) -> tuple[RunResult, Evaluation]:
    """Score and evaluate a dataset, each category a group.

    Args:
        settings: source is the folder of the dataset or of one category, labels its layout or `auto`; with
            `subsets` > 1, parts of each category are scored apart and evaluated together.
        progress: shows the stages.

    Returns:
        The run, and its evaluation.

    Raises:
        SettingsError: no source or out, or folders that fit no layout.
        MuscRayError: no test images; also what a run and its evaluation raise.
    """
    if settings.source is None or settings.out is None:
        raise SettingsError("The protocol needs a dataset and an out: `musc-ray benchmark SOURCE OUT`.")
    entries = list_source(open_source(settings.source))
    uris = sorted(entry.uri for entry in entries if isinstance(entry, ListedImage))
    name = recognize(uris) if settings.labels == "auto" else settings.labels
    if name not in LAYOUTS:
        raise SettingsError(
            f"{settings.source} must be a dataset in a known layout: set labels to one of {', '.join(LAYOUTS)}."
        )
    images = _test_images(name, settings.source, uris)
    groups = _groups(images, settings.subsets, settings.seed)
    labels = find_labels(name, [image.uri for image in images], settings.image_limits)
    if settings.subsets > 1:
        category = {image.uri: image.category for image in images}
        pooled = {uri: replace(label, group=category[uri]) for uri, label in labels.by_uri.items()}
        labels = replace(labels, by_uri=pooled)
    source = _write_source(settings.out, images, groups)
    with joined_cluster(ExecutorOptions.of(settings)):
        result = run_archive(settings.model_copy(update={"source": source, "group_by": None, "column": None}), progress)
        chosen = settings.model_copy(update={"run_id": result.run.run_id})
        return result, evaluate_run(chosen, progress, labels)


def divide(kinds: Sequence[str], parts: int, seed: int) -> list[int]:
    """Assign each image to a part, from 0: images of each kind are shuffled and dealt in turn, as in MuSc's code."""
    chance = random.Random(seed)  # noqa: S311, no secret
    places: dict[str, list[int]] = defaultdict(list)
    for place, kind in enumerate(kinds):
        places[kind].append(place)
    result = [0] * len(kinds)
    for of_kind in places.values():
        chance.shuffle(of_kind)
        for turn, place in enumerate(of_kind):
            result[place] = turn % parts
    return result


def _test_images(name: str, source: str, uris: Sequence[str]) -> list[TestImage]:
    """Return the test images in the order of MuSc's loaders: by kind and name, for VisA as its table lists them.

    Raises:
        MuscRayError: no test images.
    """
    layout = LAYOUTS[name]
    found = layout.describe_all(uris)
    images = [
        TestImage(uri, label.category, label.defect)
        for uri, label in sorted(found.items(), key=lambda item: (item[1].category, item[1].defect, item[0]))
        if label.split in ("", layout.test)
    ]
    if name == "visa":
        order = {uri: place for place, uri in enumerate(_visa_test_uris(source))}
        images = sorted((image for image in images if image.uri in order), key=lambda image: order[image.uri])
    if not images:
        raise MuscRayError(f"There are no test images in {source}: it must hold categories in the layout '{name}'.")
    return images


def _visa_test_uris(source: str) -> list[str]:
    """Read the URIs of VisA's test images from its table.

    Raises:
        MuscRayError: no such table.
    """
    fs, path = open_filesystem(source)
    try:
        text = fs.cat_file(f"{path}/{VISA_SPLIT}").decode("utf-8")
    except FileNotFoundError as error:
        raise MuscRayError(
            f"{source} lacks {VISA_SPLIT}, which lists VisA's test images: use the dataset's top folder."
        ) from error
    rows = csv.DictReader(io.StringIO(text))
    return [str(fs.unstrip_protocol(f"{path}/{row['image']}")) for row in rows if row["split"] == "test"]


def _groups(images: Sequence[TestImage], subsets: int, seed: int) -> dict[str, str]:
    """Return the group of each image by URI: its category, or a part of it."""
    if subsets == 1:
        return {image.uri: image.category for image in images}
    groups: dict[str, str] = {}
    for category in sorted({image.category for image in images}):
        members = [image for image in images if image.category == category]
        parts = divide([image.kind for image in members], subsets, seed)
        groups |= {image.uri: f"{category}/{part + 1} of {subsets}" for image, part in zip(members, parts, strict=True)}
    return groups


def _write_source(out: str, images: Sequence[TestImage], groups: dict[str, str]) -> str:
    """Write the table of images that the run reads, without labels; return its URI."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["uri", "group"])
    writer.writerows([image.uri, groups[image.uri]] for image in images)
    out_paths = OutPaths.at(out)
    path = f"{out_paths.root}/images.csv"
    write_text(out_paths.fs, path, text.getvalue())
    return absolute(out_paths.uri(path))
