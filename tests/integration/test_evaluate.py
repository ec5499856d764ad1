"""`musc-ray evaluate` and the paper's protocol, from files to tables, against metrics of all pixels at once."""

import csv
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn import metrics

import musc_ray
from musc_ray.evaluate import pixel_metrics
from musc_ray.evaluate.benchmark import divide
from tests.helpers import evaluated
from tests.helpers.evaluated import Scored

SIZE, GRID = (60, 90), (6, 9)
TILES = Path(__file__).parents[3] / "shared" / "data" / "magnetic_tile"
METRICS = ("image_auroc", "image_ap", "image_f1_max", "pixel_auroc", "pixel_ap", "pixel_f1_max", "aupro")


def archive(root: Path, groups: dict[str, list[str]], seed: int = 0) -> list[Scored]:
    """Pictures and masks of 120 x 150 pixels in MVTec AD's layout, scored at random, defects a little higher."""
    generator = np.random.default_rng(seed)
    images = []
    for group, defects in groups.items():
        for n, defect in enumerate(defects):
            picture = np.zeros((120, 150, 3))
            uri = evaluated.write_image(root / group / "test" / defect / f"{n:03d}.png", picture)
            patch_map = generator.random(GRID)
            if defect != "good":
                mask = np.zeros((120, 150))
                y, x = generator.integers(0, 90), generator.integers(0, 110)
                mask[y : y + 25, x : x + 35] = 255
                evaluated.write_image(root / group / "ground_truth" / defect / f"{n:03d}_mask.png", mask)
                patch_map += 0.8 * np.asarray(Image.fromarray(mask > 0).resize(GRID[::-1]), float)
            score = float(np.float32(round(patch_map.max(), 1)))
            images.append(Scored(uri, group, score, patch_map.astype(np.float32)))
    return images


def truth(images: list[Scored], size: tuple[int, int] | None, mask_level: int = 255) -> list[np.ndarray]:
    masks = []
    for image in images:
        path = image.uri.removeprefix("file://").replace("/test/", "/ground_truth/").replace(".png", "_mask.png")
        mask = Image.open(path) if Path(path).exists() else Image.new("L", (150, 120))
        if size is not None:
            mask = mask.convert("L").resize(size[::-1], Image.Resampling.BILINEAR)
        masks.append(np.asarray(mask) >= mask_level)
    return masks


def expected(images: list[Scored], size: tuple[int, int] | None = SIZE, mask_level: int = 255) -> dict[str, float]:
    """All metrics of some images of one group, in memory."""
    labels = np.array(["/good/" not in image.uri for image in images])
    scores = np.array([image.score for image in images])
    masks = truth(images, size, mask_level)
    maps = [evaluated.upsample(image.patch_map, mask.shape) for image, mask in zip(images, masks, strict=True)]
    return {
        "image_auroc": metrics.roc_auc_score(labels, scores),
        "image_ap": metrics.average_precision_score(labels, scores),
        "image_f1_max": evaluated.f1_max(labels, scores),
        **evaluated.pixel_metrics(maps, masks),
    }


def rows_of(out: Path) -> list[dict]:
    (path,) = out.glob("runs/*/evaluation/metrics.parquet")
    return pq.read_table(path).to_pylist()


def files_of(out: Path) -> dict[str, str]:
    """Content of all that a run wrote."""
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in out.rglob("*")
        if path.is_file() and "evaluation" not in path.parts
    }


def test_every_row_equals_the_metrics_in_memory(tmp_path, invoke, monkeypatch):
    monkeypatch.setattr(pixel_metrics, "WINDOW_BYTES", 2**22)  # 4 bins: many windows
    kinds = ["good", "cut", "good", "hole", "good", "cut", "good", "hole", "good"]
    images = archive(tmp_path / "data", {"mean": kinds, "screw": kinds[:6]})
    out = tmp_path / "out"
    evaluated.write_run(out, images, SIZE)
    before = files_of(out)
    result = invoke("evaluate", out, "--quiet")
    assert result.exit_code == 0, result.output
    assert files_of(out) == before  # evaluating never influences scoring
    rows = rows_of(out)
    assert [(row["group"], row["defect"], row["is_mean"]) for row in rows] == [
        ("mean", "", False), ("mean", "cut", False), ("mean", "hole", False),
        ("screw", "", False), ("screw", "cut", False), ("screw", "hole", False), ("mean", "", True),
    ]  # fmt: skip
    for row in rows[:-1]:
        chosen = [
            image
            for image in images
            if image.group == row["group"]
            and (not row["defect"] or f"/{row['defect']}/" in image.uri or "/good/" in image.uri)
        ]
        assert row["images"] == len(chosen)
        for name, value in expected(chosen).items():
            assert row[name] == pytest.approx(value, abs=1e-6), (row["group"], row["defect"], name)
    mean = rows[-1]
    assert mean["images"] == len(images)
    for name in METRICS:
        assert mean[name] == pytest.approx((rows[0][name] + rows[3][name]) / 2)
    assert mean["image_threshold"] is None
    folder = next(out.glob("runs/*/evaluation"))
    assert sorted(path.name for path in folder.iterdir()) == [
        "labels.parquet", "metrics.csv", "metrics.md", "metrics.parquet",
    ]  # fmt: skip
    with (folder / "metrics.csv").open() as file:
        assert [float(row["aupro"]) for row in csv.DictReader(file)] == [row["aupro"] for row in rows]
    assert (folder / "metrics.md").read_text().count("\n| mean |") == 3
    assert "| **mean** | **all** |" in (folder / "metrics.md").read_text()
    labels = pq.read_table(folder / "labels.parquet").to_pylist()
    assert {(row["uri"], row["label"], row["defect"]) for row in labels} == {
        (i.uri, int("/good/" not in i.uri), i.uri.split("/")[-2]) for i in images
    }
    assert all((row["mask"] is None) == (row["label"] == 0) for row in labels)


def test_images_that_are_cut_are_compared_at_the_size_of_all_crops(tmp_path, invoke):
    images = archive(tmp_path / "data", {"nut": ["good", "cut", "good", "cut", "good"]})
    cut = {"rows": 2, "columns": 3, "overlap": 0.2, "image_size": [30, 30], "grid": list(GRID)}
    resolved = {"grid": [3, 3]}
    evaluated.write_run(tmp_path / "out", images, (30, 30), resolved=resolved, crops={"nut": cut})
    result = invoke("evaluate", tmp_path / "out", "--quiet")
    assert result.exit_code == 0, result.output
    for name, value in expected(images, (60, 90)).items():
        assert rows_of(tmp_path / "out")[0][name] == pytest.approx(value, abs=1e-6), name
    (text,) = (path.read_text() for path in (tmp_path / "out").glob("runs/*/evaluation/metrics.md"))
    assert "60x90" in text


@pytest.mark.slow
def test_pixels_of_the_original_size(tmp_path, invoke):
    images = archive(tmp_path / "data", {"nut": ["good", "cut", "good", "cut", "good"]})
    evaluated.write_run(tmp_path / "out", images, SIZE)
    result = invoke("evaluate", tmp_path / "out", "--pixels", "original", "--quiet")
    assert result.exit_code == 0, result.output
    for name, value in expected(images, size=None).items():
        assert rows_of(tmp_path / "out")[0][name] == pytest.approx(value, abs=1e-6), name


def test_what_is_missing_is_noted_and_the_rest_is_computed(tmp_path, invoke):
    images = archive(tmp_path / "data", {"a": ["good", "cut", "good", "cut", "cut"], "b": ["good", "good", "good"]})
    evaluated.write_run(tmp_path / "out", images, SIZE)
    masks = sorted((tmp_path / "data").rglob("*_mask.png"))
    masks[0].unlink()
    masks[1].write_bytes(b"no picture")
    lines = ["uri,label,mask"]
    for image in images[:-1]:
        mask = image.uri.replace("/test/", "/ground_truth/").replace(".png", "_mask.png")
        lines.append(f"{image.uri},{int('/cut/' in image.uri)},{mask if '/cut/' in image.uri else ''}")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    result = invoke("evaluate", tmp_path / "out", "--labels", tmp_path / "labels.csv", "--quiet")
    assert result.exit_code == 0, result.output
    words = " ".join(result.output.split())
    assert "1 scored images have no label" in words
    assert "Group 'b' has good images alone: no metric can be computed." in words
    assert "2 masks or images cannot be read" in words
    rows = rows_of(tmp_path / "out")
    first = expected([images[0], images[2], images[4]], mask_level=128)
    assert rows[0]["pixel_auroc"] == pytest.approx(first["pixel_auroc"], abs=1e-6)
    scores = [image.score for image in images[:5]]
    assert rows[0]["image_auroc"] == pytest.approx(metrics.roc_auc_score([0, 1, 0, 1, 1], scores), abs=1e-6)
    assert all(rows[2][name] is None for name in METRICS)
    assert rows[3]["image_auroc"] == rows[0]["image_auroc"]  # the mean over those that have it
    shutil.rmtree(tmp_path / "data" / "a" / "ground_truth")
    result = invoke("evaluate", tmp_path / "out", "--quiet")
    assert "no masks: pixel metrics cannot be computed" in " ".join(result.output.split())
    assert rows_of(tmp_path / "out")[0]["pixel_auroc"] is None
    assert rows_of(tmp_path / "out")[0]["image_auroc"] is not None


@pytest.mark.slow
def test_what_is_wrong_with_masks_is_named(tmp_path, invoke):
    kinds = ["good", "cut", "good", "cut", "cut", "cut", "cut", "cut", "good"]
    images = archive(tmp_path / "data", {"a": kinds})
    masks = sorted((tmp_path / "data").rglob("*_mask.png"))
    plain, square, missing, black, turned, mirrored = masks
    Image.new("L", (120, 120), 255).save(square)
    missing.rename(missing.with_name("099_mask.png"))
    Image.new("L", (150, 120)).save(black)
    for mask, orientation in ((turned, 6), (mirrored, 2)):
        exif = Image.Exif()
        exif[0x0112] = orientation  # the stored image has 150 x 120 pixels, the upright one 120 x 150 or the same
        path = images[kinds.index("cut") + masks.index(mask) + 1].uri.removeprefix("file://")
        Image.new("RGB", (150, 120)).save(path, exif=exif)
    evaluated.write_run(tmp_path / "out", images, SIZE)
    result = invoke("evaluate", tmp_path / "out", "--quiet")
    assert result.exit_code == 0, result.output
    (path,) = (tmp_path / "out").glob("runs/*/evaluation/errors.parquet")
    rows = pq.read_table(path).to_pylist()
    found = [(row["error"], row["group"], row["uri"].rpartition("/")[2]) for row in rows]
    assert found == [
        ("MaskWithoutImage", "", "099_mask.png"),
        ("MaskMissing", "a", "004.png"),
        ("MaskShape", "a", "003_mask.png"),
        ("MaskEmpty", "a", "005_mask.png"),
        ("MaskOrientation", "a", "007_mask.png"),
    ]
    belongs = f"It belongs to {images[3].uri}."
    assert rows[2]["message"] == f"The mask has 120 x 120 pixels, the image 150 x 120. {belongs}"
    words = " ".join(result.output.split())
    for row in rows:
        assert row["uri"] in words
    assert "1 masks have another aspect ratio" in words
    Image.fromarray(np.rot90(np.asarray(Image.open(turned)), -1)).save(turned)  # as the truth reads it
    known = [image for image, kind in zip(images, range(9), strict=True) if kind not in (3, 4)]
    for name, value in expected(known).items():
        if name.startswith("pixel") or name == "aupro":
            assert rows_of(tmp_path / "out")[0][name] == pytest.approx(value, abs=1e-6), name
    for repaired in (square, missing, black):
        Image.open(plain).save(repaired)
    missing.with_name("099_mask.png").unlink()
    mirrored.unlink()
    assert invoke("evaluate", tmp_path / "out", "--quiet").exit_code == 0
    assert [row["error"] for row in pq.read_table(path).to_pylist()] == ["MaskMissing"]
    Image.open(plain).save(mirrored)
    Image.new("RGB", (150, 120)).save(images[7].uri.removeprefix("file://"))
    assert invoke("evaluate", tmp_path / "out", "--quiet").exit_code == 0
    assert not path.exists()


@pytest.mark.slow
def test_masks_on_white(tmp_path, invoke):
    """One of four masks is black nearly everywhere: a large defect, since white is the background of the others."""
    images = archive(tmp_path / "data", {"a": ["good", "cut", "cut", "cut", "cut", "good"]})
    masks = sorted((tmp_path / "data").rglob("*_mask.png"))
    for path in masks:
        mask = np.asarray(Image.open(path)).copy()
        if path == masks[-1]:
            mask[:], mask[:20, :30] = 255, 0
        Image.fromarray(mask).save(path)
    evaluated.write_run(tmp_path / "out", images, SIZE)
    wanted = expected(images)
    for path in masks:
        Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    result = invoke("evaluate", tmp_path / "out", "--quiet")
    assert "The background of the masks is value 255, not black" in " ".join(result.output.split())
    assert rows_of(tmp_path / "out")[0]["aupro"] == pytest.approx(wanted["aupro"], abs=1e-6)
    assert "MaskBackground" in pq.read_table(next((tmp_path / "out").rglob("errors.parquet")))["error"].to_pylist()


@pytest.mark.parametrize("where", ["score", "map"])
def test_nan_is_refused(tmp_path, invoke, where):
    images = archive(tmp_path / "data", {"a": ["good", "cut", "good"]})
    broken = np.full_like(images[2].patch_map, np.nan)  # a part of a map may be NaN: patches that are not scored
    given = {"score": float("nan")} if where == "score" else {"patch_map": broken}
    images[2] = Scored(**{**vars(images[2]), **given})
    evaluated.write_run(tmp_path / "out", images, SIZE)
    result = invoke("evaluate", tmp_path / "out", "--quiet")
    assert result.exit_code == 1
    assert "NaN" in result.stderr
    assert ("002.png" in result.stderr) == (where == "map")
    assert not list((tmp_path / "out").rglob("regions"))


def test_patches_that_are_not_scored_count_as_the_least_anomalous_ones(tmp_path, invoke):
    images = archive(tmp_path / "data", {"a": ["good", "cut", "good"]})
    filled = []
    for n, image in enumerate(images):
        partly, lowest = image.patch_map.copy(), image.patch_map.copy()
        partly[n : n + 2, 1:3], lowest[n : n + 2, 1:3] = np.nan, np.inf
        lowest[np.isinf(lowest)] = lowest.min()
        images[n] = Scored(**{**vars(image), "patch_map": partly})
        filled.append(Scored(**{**vars(image), "patch_map": lowest}))
    evaluated.write_run(tmp_path / "out", images, SIZE)
    assert invoke("evaluate", tmp_path / "out", "--quiet").exit_code == 0
    found, wanted = rows_of(tmp_path / "out")[0], expected(filled)
    assert {name: found[name] for name in wanted} == pytest.approx(wanted, abs=1e-6)
    assert 0 < found["pixel_ap"] < 1


def test_runs_are_chosen_and_errors_are_one_sentence(tmp_path, invoke):
    images = archive(tmp_path / "data", {"a": ["good", "cut"]})
    out = tmp_path / "out"
    evaluated.write_run(out, images, SIZE, run_id="older")
    evaluated.write_run(out, images, SIZE, run_id="newer")
    assert invoke("evaluate", out, "--quiet").exit_code == 0
    assert rows_of(out)
    assert not (out / "runs" / "older" / "evaluation").exists()
    assert invoke("evaluate", out, "--run-id", "older", "--quiet").exit_code == 0
    assert (out / "runs" / "older" / "evaluation").exists()
    for arguments, code, words in (
        ([out, "--run-id", "none"], 1, "no complete run none"),
        ([tmp_path / "empty"], 1, "no complete run in"),
        ([out, "--labels", "nothing"], 2, "--labels must be"),
        ([out, "--pixels", "best"], 2, "pixels"),
        ([], 2, "Evaluating needs"),
    ):
        result = invoke("evaluate", *arguments)
        assert (result.exit_code, words in result.stderr) == (code, True), result.stderr
        assert "Traceback" not in result.stderr


def test_the_parts_of_a_category_are_those_of_muscs_code():
    """As MuSc's loaders divide: shuffle each kind's images, cut them into runs of s, the j-th of each is part j."""
    import random

    kinds = ["broken"] * 7 + ["cut"] * 5 + ["good"] * 11
    random.seed(0)
    by_kind: dict[str, list[int]] = {}
    for place, kind in enumerate(kinds):
        by_kind.setdefault(kind, []).append(place)
    runs = []
    for places in by_kind.values():
        random.shuffle(places)
        runs += [places[i : i + 3] for i in range(0, len(places), 3)]
    parts = divide(kinds, 3, 0)
    for part in range(3):
        theirs = {run[part] for run in runs if len(run) > part}
        assert {place for place, found in enumerate(parts) if found == part} == theirs


@pytest.mark.slow
@pytest.mark.skipif(not TILES.exists(), reason="shared/data/magnetic_tile is not here")
@pytest.mark.parametrize("subsets", [1, 2])
def test_the_job_on_real_images(tmp_path, tiny_weights, subsets):
    """Magnetic tiles, a tiny ViT with random weights: the whole path, run and evaluation."""
    data = tmp_path / "magnetic_tile"
    for kind in ("good", "blowhole", "fray"):
        (data / "test" / kind).mkdir(parents=True)
        for path in sorted((TILES / "test" / kind).iterdir())[:6]:
            shutil.copyfile(path, data / "test" / kind / path.name)
        if kind != "good":
            shutil.copytree(TILES / "ground_truth" / kind, data / "ground_truth" / kind, copy_function=shutil.copyfile)
    settings = {
        "source": data, "out": tmp_path / "out", "backbone": "timm:vit_tiny_patch16_224", "image_size": 64,
        "weights": tiny_weights, "workers": 1, "precision": "float32", "subsets": subsets,
    }  # fmt: skip
    root = Path(__file__).parents[2]
    arguments = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    command = [sys.executable, root / "jobs" / "evaluate.py", "--config", root / "jobs" / "evaluate.yaml", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)  # it leaves by os._exit
    assert done.returncode == 0, done.stderr
    shown = done.stdout
    assert "AUROC-segm" in shown
    assert "magnetic_tile" in shown
    rows = rows_of(tmp_path / "out")
    assert [(row["group"], row["defect"], row["images"], row["anomalous"]) for row in rows] == [
        ("magnetic_tile", "", 18, 12), ("magnetic_tile", "blowhole", 12, 6), ("magnetic_tile", "fray", 12, 6),
        ("mean", "", 18, 12),
    ]  # fmt: skip
    assert all(0.0 <= rows[0][name] <= 1.0 for name in METRICS)
    run = json.loads(next(tmp_path.glob("out/runs/*/run.json")).read_text())
    assert run["counts"]["groups"] == subsets
    if subsets > 1:  # as MuSc's code: maps of each part by itself, image scores over all
        raw = {
            row["image_id"]: row
            for row in ds.dataset(tmp_path / "out" / "runs" / run["run_id"] / "scores").to_table().to_pylist()
        }
        tokens = {
            row["image_id"]: np.frombuffer(row["class_token"], "<f4")
            for path in (tmp_path / "out" / "features").rglob("*.parquet")
            for row in pq.read_table(path, columns=["image_id", "class_token"]).to_pylist()
        }
        scores = musc_ray.rescore([row["score_raw"] for row in raw.values()], np.stack([tokens[i] for i in raw]))
        labels = ["/good/" not in row["uri"] for row in raw.values()]
        assert rows[0]["image_auroc"] == pytest.approx(metrics.roc_auc_score(labels, scores), abs=1e-6)
    source = (tmp_path / "out" / "images.csv").read_text().splitlines()
    assert source[0] == "uri,group"  # no label reaches the scoring
    assert len(source) == 19
