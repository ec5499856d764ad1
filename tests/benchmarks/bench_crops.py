"""What crops find, and what they cost: whole runs with crops beside runs without, on generated and real sets.

    python tests/benchmarks/bench_crops.py [SET ...] [--cache FOLDER]

DINOv2 ViT-S/14 at 224 px, method tuned. `mosaic` and `rough` are generated (large_sets.py), the others are folders of
the shared data. Each run with crops is printed as the product chose what its maps show (`chosen`), and with the other
choice (`other`), from the same features. Mosaics are compressed to 96 directions in all rows, and with `all` have 16
references, so that comparing every crop with every other takes minutes. In percent: image AUROC, image AP, image AUROC
of score_raw, pixel AP, AUPRO (at the pixels of the originals).
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
from large_sets import write_mosaics, write_rough
from machine import describe_machine
from method_study.image_sets import DATA
from PIL import Image

from musc_ray.core.metrics.image import image_auroc
from musc_ray.core.rscin import rscin
from musc_ray.demo.dinov2_onnx import write_dinov2_weights
from musc_ray.evaluate.evaluation import evaluate_run
from musc_ray.pipeline import run_archive
from musc_ray.runtime.progress import Progress
from musc_ray.settings.loading import load_settings
from musc_ray.settings.model import Settings
from musc_ray.storage.manifest import RunManifest

GENERATED = {"mosaic": write_mosaics, "rough": write_rough}
CASES: dict[str, dict[str, dict[str, Any]]] = {
    "mosaic": {
        "whole": {"compress": "96"},
        "5x7 all": {"compress": "96", "crops": "5x7", "crop_references": "all", "references": 16},
        "7x10 all": {"compress": "96", "crops": "7x10", "crop_references": "all", "references": 16},
        "7x10 same": {"compress": "96", "crops": "7x10", "crop_references": "same"},
    },
    "rough": {
        "whole": {},
        "4x6 same": {"crops": "4x6", "crop_references": "same"},
        "overlap 0.2": {"crops": "4x6,overlap=0.2", "crop_references": "same"},
        "auto": {"crops": "auto"},
    },
    "kolektor_sdd": {"whole": {}, "auto": {"crops": "auto"}, "3x1": {"crops": "3x1"}},
    "cookies": {"whole": {}, "auto": {"crops": "auto"}, "3x2": {"crops": "3x2"}},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", metavar="SET", choices=[[], *CASES], help=", ".join(CASES))
    parser.add_argument("--cache", type=Path, help="folder of sets and runs, which are read again; default: temporary")
    arguments = parser.parse_args()
    print(describe_machine())
    with tempfile.TemporaryDirectory() as folder:
        cache = arguments.cache or Path(folder)
        for name in arguments.sets or CASES:
            images = cache / name
            if name in GENERATED and not images.exists():
                GENERATED[name](images)
            measure_set(cache, name, images if name in GENERATED else DATA / name)


def measure_set(cache: Path, name: str, images: Path) -> None:
    """Print the figures of all cases of a set."""
    print(f"\n{name}: image AUROC, AP, AUROC raw, pixel AP, AUPRO; seconds of extraction and of the mutual stage")
    if name == "rough":
        print_trial(cache, images)
    out = cache / "runs" / name
    for case, given in CASES[name].items():
        run = measure(cache, case, given | {"source": str(images), "out": str(out)})
        for group, found in run.shown_maps.items():
            print(f"{'':12}chosen: {found.shown}, since {found.reason}")
            if given.get("crop_references") == "all":
                continue  # the mutual stage takes minutes: with `same` maps of whole images are no others
            other = found.model_copy(update={"shown": {"whole": "crops", "crops": "whole"}[found.shown]})
            run_id = f"other-{case.replace(' ', '-')}"
            settled = out / "runs" / run_id / "shown_maps.json"
            settled.parent.mkdir(parents=True, exist_ok=True)
            settled.write_text(json.dumps({group: other.as_json()}))
            others = {"source": str(images), "out": str(out), "run_id": run_id}
            measure(cache, f"  {other.shown}", given | others)


def print_trial(cache: Path, images: Path) -> None:
    """Print what crops give without this product: 4 x 6 of them as images of 24 groups, the maximum over crops."""
    cut = cache / "cut"
    for path in images.glob("test/*/*.png"):
        with Image.open(path) as image:
            width, height = image.width // 6, image.height // 4
            for place in range(24):
                left, top = place % 6 * width, place // 6 * height
                target = cut / f"{place:02d}" / f"{path.parent.name}-{path.name}"
                target.parent.mkdir(parents=True, exist_ok=True)
                if not target.exists():
                    image.crop((left, top, left + width, top + height)).save(target)
    given = {"source": str(cut), "group_by": "{group}/**", "out": str(cache / "runs" / "trial"), "rescoring": "none"}
    settings = load_settings(None, common_settings(cache) | given)
    run = run_archive(settings, Progress(quiet=True)).run
    table = scores_of(settings, run.run_id)
    highest: dict[str, float] = {}
    for uri, score in zip(table["uri"].to_pylist(), table["score_raw"].to_pylist(), strict=True):
        highest[Path(uri).name] = max(score, highest.get(Path(uri).name, 0.0))
    labels = np.array([not name.startswith("good-") for name in highest], np.int8)
    found = 100 * image_auroc(labels, np.array(list(highest.values()), np.float32))
    print(f"4x6 crops as images of 24 groups, maximum over crops: image AUROC {found:.2f}", flush=True)


def scores_of(settings: Settings, run_id: str) -> pa.Table:
    """Read the scores of a run."""
    folder = Path(str(settings.out)) / "runs" / run_id / "scores"
    return ds.dataset(str(folder), exclude_invalid_files=True).to_table(["uri", "score_raw"])


def common_settings(cache: Path) -> dict[str, Any]:
    """Return what all runs have in common."""
    weights = cache / "weights.safetensors"
    if not weights.exists():
        write_dinov2_weights(weights)
    common = {"backbone": "dinov2-vit-s-14", "weights": str(weights), "image_size": 224}
    return common | {"report_images": 0, "report_thumbnails": 0}


def measure(cache: Path, case: str, given: dict[str, Any]) -> RunManifest:
    """Run, evaluate and print a case; returns its manifest."""
    labelled = {"labels": "mvtec", "pixels": "original"}
    settings = load_settings(None, common_settings(cache) | labelled | given)
    run = run_archive(settings, Progress(quiet=True)).run
    row = evaluate_run(settings.model_copy(update={"run_id": run.run_id}), Progress(quiet=True)).rows[0]
    scores = scores_of(settings, run.run_id)
    labels = np.array(["/good/" not in uri for uri in scores["uri"].to_pylist()], np.int8)
    raw = image_auroc(labels, scores["score_raw"].to_numpy())
    values = [row.image_auroc, row.image_ap, raw, row.pixel_ap, row.aupro]
    figures = " ".join(f"{np.nan if value is None else 100 * value:7.2f}" for value in values)
    seconds = run.stages["extract"]["seconds"], run.stages["mutual"]["seconds"]
    print(f"{case:12}{figures}   {seconds[0]:.1f} s, {seconds[1]:.1f} s", flush=True)
    if case.strip() == "crops" or "crops" in [shown.shown for shown in run.shown_maps.values()]:
        features = ds.dataset(str(Path(str(settings.out)) / "features" / run.features_id), exclude_invalid_files=True)
        print_class_tokens(features.to_table(["uri", "crop", "class_token"]), scores, labels)
    return run


def print_class_tokens(features: pa.Table, scores: pa.Table, labels: np.ndarray) -> None:
    """Print image AUROC after RsCIN with the class tokens of whole images, and with the means of those of crops."""
    tokens: dict[str, dict[int, np.ndarray]] = {}
    for row in features.to_pylist():
        tokens.setdefault(row["uri"], {})[row["crop"]] = np.frombuffer(row["class_token"], "<f4")
    raw, of_images = scores["score_raw"].to_numpy(), [tokens[uri] for uri in scores["uri"].to_pylist()]
    whole = np.stack([places[0] for places in of_images])
    mean = np.stack([np.mean([token for place, token in places.items() if place], axis=0) for places in of_images])
    found = [100 * image_auroc(labels, rscin(raw, vectors, (1, 2, 3))) for vectors in (whole, mean)]
    print(f"{'':12}RsCIN 1, 2, 3 instead: class tokens of whole images {found[0]:.2f}, means of crops {found[1]:.2f}")


if __name__ == "__main__":
    main()
