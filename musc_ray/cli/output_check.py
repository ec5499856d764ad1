"""Output of `check`: what it says of single images."""

import sys
from dataclasses import asdict
from typing import Any

import numpy as np

from musc_ray.checking.results import CheckedImage, CheckResult
from musc_ray.cli.output import escape, plural, print_rows, stdout_console
from musc_ray.cli.terminal import visible
from musc_ray.settings.credentials import redacted
from musc_ray.sources.containers import image_name

NUMBERS = ("score_raw", "score", "p-value", "rank", "peak x, y")


def check_document(found: CheckResult) -> dict[str, Any]:
    """Return what `musc-ray check --json` says."""
    images = []
    for image in found.images:
        document = asdict(image)
        flat = image.patch_map.ravel().tolist()
        document |= {"grid": list(image.patch_map.shape)}
        document["patch_map"] = [None if np.isnan(value) else round(value, 6) for value in flat]
        images.append(document)
    failed = [{name: redacted(text) for name, text in asdict(image).items()} for image in found.failed]
    return {"images": images, "failed": failed, "skipped": found.skipped}


def print_check(found: CheckResult) -> None:
    """Print a row an image, then what it looks like, its notes and files."""
    console = stdout_console()
    if found.images:
        print_rows([_row(image) for image in found.images], console, NUMBERS)
    for image in found.images:
        console.print(escape(f"{image.uri}:"), soft_wrap=True, highlight=False)
        for line in _lines(image):
            console.print(escape(f"  {line}"), soft_wrap=True, highlight=False)
    if any(image.score_is_approximate for image in found.images):
        console.print("Scores are approximate: the others' raw scores are those without the image.", soft_wrap=True)
    if found.skipped:
        console.print(f"{plural(found.skipped, 'other file')} left out.")


def _row(image: CheckedImage) -> dict[str, str]:
    kind = "suggested threshold" if image.threshold_is_suggested else "threshold"
    verdict = f"{'at or above' if image.is_anomalous else 'below'} the {kind} {image.threshold:.4f}"
    return {
        "image": image_name(image.uri),
        "group": image.group,
        "score_raw": f"{image.score_raw:.4f}",
        "score": f"{'about ' if image.score_is_approximate else ''}{image.score:.4f}",
        "p-value": f"{image.p_value:.4f}",
        "rank": f"{image.rank:,} of {image.among:,}",
        "score is": verdict,
        "peak x, y": "" if image.peak_y is None else f"{image.peak_x}, {image.peak_y}",
    }


def _lines(image: CheckedImage) -> list[str]:
    """Return what there is to say of an image beside its row."""
    known = f", and {plural(image.known_good, 'known good one')}" if image.known_good else ""
    similar = ", ".join(f"{other.uri} ({other.similarity:.3f})" for other in image.neighbours)
    lines = [
        f"compared with {plural(image.references, 'image')} of group '{image.group}' in run {image.run_id}{known}",
        f"most similar: {similar}",
    ]
    return [*lines, *(f"Note: {note}" for note in image.notes), *(f"Heat map: {path}" for path in image.heatmaps)]


def print_unchecked(found: CheckResult) -> None:
    """Print a sentence on standard error for each image that could not be checked."""
    for image in found.failed:
        message = image.message if image.uri in image.message else f"{image.uri}: {image.message}"
        sys.stderr.write(f"Error: {visible(redacted(message))}\n")
