"""Which rule finds the best threshold from the scores alone: F1 of each beside F1-max, which knows the labels.

    python tests/benchmarks/bench_threshold.py [MAGNETIC_TILE]

DINOv2 ViT-S/14 at 224 px, exact scores after RsCIN. Images: 180 good solar cells (ELPV) with 60 defective ones, and
with fewer (seeded samples, three each); the good magnetic tiles of a folder in MVTec AD's layout, likewise. Every
archive is scored anew: its defects are part of what the others are compared with. The rules see scores, never labels.
"""

import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from machine import describe_machine
from scipy.stats import genpareto
from sklearn.metrics import precision_recall_curve
from sklearn.mixture import GaussianMixture

import musc_ray
from musc_ray.core.pixel_map import image_scores
from musc_ray.core.threshold import MAD_TO_STD, bulk, is_anomalous, suggest_threshold
from musc_ray.demo.dinov2_onnx import write_dinov2_weights
from musc_ray.demo.elpv import mono_cells
from musc_ray.pipeline import run_archive
from musc_ray.runtime.progress import Progress
from musc_ray.settings.loading import load_settings

IMAGE_SIZE = (224, 224)
GRID = (16, 16)
SEEDS = (0, 1, 2)
DEFECTIVE = {"ELPV": (60, 45, 30, 20, 10, 4, 0), "magnetic tile": (50, 30, 15, 7, 3, 0)}
TILES = Path(__file__).parents[3] / "shared" / "data" / "magnetic_tile"


def shorth_lower_mad(scores: np.ndarray, fences: float) -> float:
    """The suggestion's rule, with another number of deviations."""
    centre, spread = bulk(scores)
    return centre + fences * MAD_TO_STD * spread


def lower_mad(scores: np.ndarray, fences: float) -> float:
    """Double MAD about the median: the spread of the lower half."""
    median = np.median(scores)
    return median + fences * MAD_TO_STD * np.median(median - scores[scores <= median])


def mirrored(scores: np.ndarray) -> float:
    """Good scores are symmetric: as far above the median as the lowest one is below."""
    return 2 * np.median(scores) - scores.min()


def least_median_of_squares(scores: np.ndarray) -> float:
    """Rousseeuw and Leroy, 1987: 2.5 robust deviations above the middle of the shortest half."""
    ordered, half = np.sort(scores), len(scores) // 2 + 1
    widths = ordered[half - 1 :] - ordered[: len(ordered) - half + 1]
    start = np.argmin(widths)
    return (ordered[start] + ordered[start + half - 1]) / 2 + 2.5 * MAD_TO_STD * widths[start] / 2


def tukey(scores: np.ndarray) -> float:
    """The upper fence of a box plot."""
    low, high = np.quantile(scores, [0.25, 0.75])
    return high + 1.5 * (high - low)


def adjusted_boxplot(scores: np.ndarray) -> float:
    """The upper fence for skewed distributions, by the medcouple (Hubert and Vandervieren, 2008)."""
    low, median, high = np.quantile(scores, [0.25, 0.5, 0.75])
    above, below = scores[scores >= median] - median, scores[scores <= median] - median
    span = above[:, None] - below[None]
    medcouple = np.median(((above[:, None] + below[None]) / np.where(span > 0, span, 1))[span > 0])
    return high + 1.5 * np.exp((3 if medcouple >= 0 else 4) * medcouple) * (high - low)


def otsu(scores: np.ndarray) -> float:
    """Two classes with the largest variance between them (Otsu, 1979)."""
    ordered, below = np.sort(scores), np.arange(1, len(scores))
    sums = np.cumsum(ordered)
    means = sums[:-1] / below - (sums[-1] - sums[:-1]) / (len(scores) - below)
    return ordered[np.argmax(means**2 * below * (len(scores) - below)) + 1]


def triangle(scores: np.ndarray) -> float:
    """The bin of the histogram farthest below the line from its peak to its upper end (Zack et al., 1977)."""
    counts, edges = np.histogram(scores, "fd")
    peak = int(np.argmax(counts))
    steps = np.arange(len(counts) - peak)
    distance = (counts[-1] - counts[peak]) * steps - steps[-1] * (counts[peak:] - counts[peak])
    return edges[peak + int(np.argmax(np.abs(distance)))]


def peaks_over_threshold(scores: np.ndarray, level: float, risk: float) -> float:
    """Generalised Pareto tail beyond a quantile, the point that a share `risk` exceeds (Siffer et al., 2017)."""
    start = np.quantile(scores, level)
    shape, _, scale = genpareto.fit(scores[scores > start] - start, floc=0)
    return start + genpareto.ppf(1 - risk / (1 - level), shape, scale=scale)


def mirrored_pareto(scores: np.ndarray) -> float:
    """The same on the lower half, mirrored at the median: one in a thousand good images."""
    median = np.median(scores)
    below = median - scores[scores <= median]
    return median + peaks_over_threshold(np.concatenate([-below, below]), 0.8, 0.001)


def mixture(scores: np.ndarray) -> float:
    """The lowest score that a mixture of two normal distributions gives to the upper one."""
    found = GaussianMixture(2, n_init=3, random_state=0).fit(scores[:, None])
    upper = found.predict(scores[:, None]) == np.argmax(found.means_)
    above = scores[upper & (scores > found.means_.min())]
    return above.min() if len(above) else np.inf


RULES: dict[str, Callable[[np.ndarray], float]] = {
    "shorth + 3.5 lower MAD (suggest_threshold)": suggest_threshold,
    "shorth + 3 lower MAD": lambda scores: shorth_lower_mad(scores, 3),
    "shorth + 4 lower MAD": lambda scores: shorth_lower_mad(scores, 4),
    "median + 2 lower MAD": lambda scores: lower_mad(scores, 2),
    "median + 3.5 lower MAD": lambda scores: lower_mad(scores, 3.5),
    "lower half mirrored at the median": mirrored,
    "generalised Pareto tail, mirrored half": mirrored_pareto,
    "peaks over threshold: 0.8, risk 0.05": lambda scores: peaks_over_threshold(scores, 0.8, 0.05),
    "peaks over threshold: 0.9, risk 0.01": lambda scores: peaks_over_threshold(scores, 0.9, 0.01),
    "least median of squares + 2.5": least_median_of_squares,
    "Tukey's fence": tukey,
    "adjusted box plot (medcouple)": adjusted_boxplot,
    "Otsu": otsu,
    "triangle": triangle,
    "two normal distributions": mixture,
}


@dataclass(frozen=True)
class Case:
    """An archive that was scored: which images, their labels (1 = defective) and their scores, both (N,)."""

    name: str
    defective: int
    labels: np.ndarray
    scores: np.ndarray


def scored_cases(folder: Path, name: str, labels: dict[str, int]) -> Iterator[Case]:
    """The archive of all good images, with all defective ones and with samples of them."""
    source = folder / "images.csv"
    source.write_text("uri\n" + "".join(f'"{uri}"\n' for uri in labels))
    weights = write_dinov2_weights(folder / "dinov2.safetensors")
    given = {"source": str(source), "out": str(folder / "out"), "backbone": "dinov2-vit-s-14", "weights": str(weights)}
    run_archive(load_settings(None, {**given, "method": "paper", "image_size": IMAGE_SIZE[0]}), Progress(quiet=True))
    uris, class_tokens, layers = stored_features(folder / "out")
    known = np.array([labels[uri] for uri in uris])
    good, bad = np.flatnonzero(known == 0), np.flatnonzero(known == 1)
    for count in DEFECTIVE[name]:
        for seed in SEEDS if 0 < count < len(bad) else SEEDS[:1]:
            sample = np.random.default_rng(seed).choice(bad, count, replace=False)
            chosen = np.sort(np.concatenate([good, sample]))
            maps = musc_ray.score_features([layer[chosen] for layer in layers], GRID, precision="float32")
            raw = image_scores(maps.reshape(-1, *GRID), IMAGE_SIZE)
            yield Case(name, count, known[chosen], np.asarray(musc_ray.rescore(raw, class_tokens[chosen])))


def stored_features(out: Path) -> tuple[list[str], np.ndarray, list[torch.Tensor]]:
    """Uris, class tokens (N, C) and tokens (N, h*w, C) of each layer of a run's images."""
    table = pq.read_table(next(out.glob("features/*/group=all")), partitioning=None)
    names = [name for name in table.column_names if name.startswith("layer_")]
    column = {name: np.frombuffer(b"".join(table[name].to_pylist()), np.float16) for name in names}
    layers = [torch.from_numpy(column[name].reshape(len(table), GRID[0] * GRID[1], -1).copy()) for name in names]
    class_tokens = np.frombuffer(b"".join(table["class_token"].to_pylist()), np.float32).reshape(len(table), -1)
    return table["uri"].to_pylist(), class_tokens, layers


def judged(case: Case, threshold: float) -> tuple[float, float, float]:
    """F1, precision and recall."""
    found = is_anomalous(case.scores, threshold)
    hits = int(found[case.labels == 1].sum())
    return 2 * hits / (found.sum() + case.labels.sum()), hits / max(1, found.sum()), hits / case.labels.sum()


def best(case: Case) -> tuple[float, float, float]:
    """F1-max, with the labels."""
    _, _, thresholds = precision_recall_curve(case.labels, case.scores)
    return max(judged(case, threshold) for threshold in thresholds)


def print_table(cases: list[Case]) -> None:
    """F1 (precision, recall) of each rule for one kind of image; means over the seeds of as many defects."""
    counts = sorted({case.defective for case in cases if case.defective}, reverse=True)
    good = next(case for case in cases if not case.defective)
    columns = "".join(f"{f'{count} defective':>19}" for count in counts)
    print(f"\n{cases[0].name}, {len(good.scores)} good: F1 (precision, recall)")
    print(f"{'':44}{columns}  of F1-max: mean, least  good alone: flagged")
    limit = {count: np.mean([best(case) for case in cases if case.defective == count], axis=0) for count in counts}
    print(f"{'F1-max, with labels':44}" + "".join(cell(limit[count]) for count in counts))
    for name, rule in RULES.items():
        values = {
            count: np.mean([judged(c, rule(c.scores.astype(float))) for c in cases if c.defective == count], axis=0)
            for count in counts
        }
        shares = [values[count][0] / limit[count][0] for count in counts]
        alarms = is_anomalous(good.scores, rule(good.scores.astype(float))).mean()
        row = "".join(cell(values[count]) for count in counts)
        print(f"{name:44}{row}  {np.mean(shares):16.2f}, {min(shares):.2f}  {alarms:19.1%}")


def cell(values: np.ndarray) -> str:
    """F1 (precision, recall)."""
    return f"  {values[0]:.2f} ({values[1]:.2f}, {values[2]:.2f})"


def main() -> None:
    tiles = Path(sys.argv[1]) if len(sys.argv) > 1 else TILES
    labels = {"ELPV": {cell.path.as_uri(): cell.label for cell in mono_cells(240)}}
    if tiles.exists():
        labels["magnetic tile"] = {path.as_uri(): int(path.parent.name != "good") for path in tiles.glob("test/*/*")}
    else:
        print(f"There is no {tiles}: solar cells alone.")
    print(describe_machine())
    for name, known in labels.items():
        with tempfile.TemporaryDirectory() as folder:
            print_table(list(scored_cases(Path(folder), name, known)))


if __name__ == "__main__":
    main()
