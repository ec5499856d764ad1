"""Stored verdicts as a report shows them: those on the images of a group, and their number."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from musc_ray.report.data_scripts import printable
from musc_ray.storage.verdicts import VERDICT_WORDS, Verdict


def verdict_columns(images: pa.Table, verdicts: Mapping[str, Verdict]) -> dict[str, list[Any]]:
    """Return what was said of the images of a group, as columns; times as the report's own marks have them.

    Args:
        images: columns image_id and rank.
        verdicts: of the OUT by image id.
    """
    pairs = zip(images["image_id"].to_pylist(), images["rank"].to_pylist(), strict=True)
    rows = [(verdicts[image_id], rank) for image_id, rank in pairs if image_id in verdicts]
    return {
        "id": [verdict.image_id for verdict, _ in rows],
        "rank": [rank for _, rank in rows],
        "verdict": [verdict.verdict for verdict, _ in rows],
        "note": [printable(verdict.note) for verdict, _ in rows],
        "who": [printable(verdict.who) for verdict, _ in rows],
        "when": [verdict.when.isoformat(timespec="milliseconds").replace("+00:00", "Z") for verdict, _ in rows],
    }


def verdict_counts(verdicts: Mapping[str, Verdict]) -> dict[str, int]:
    """Count the images of an OUT by the verdict that counts; empty without verdicts."""
    counts = Counter(verdict.verdict for verdict in verdicts.values())
    return {word: counts[word] for word in VERDICT_WORDS} if counts else {}
