"""Groups of tall and wide images from end to end: each in its own shape, in runs, nights, evaluations and reports."""

import json
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import musc_ray
from musc_ray.backbones import load_backbone
from musc_ray.backbones.names import resolve_backbone
from musc_ray.backbones.weights import fetch_weights
from musc_ray.core.pixel_map import image_scores
from musc_ray.sources.decoding import decode_image
from tests.helpers import evaluated
from tests.helpers.pictures import solar_cells

MODEL = "timm:vit_tiny_patch16_224"
LAYERS, DEGREES = (3, 7), (1, 3)
SHAPES = {"tall": (120, 60), "wide": (60, 120)}
GRIDS = {"tall": (6, 3), "wide": (3, 6)}
"""About as many patches as 4 x 4, in the ratio of the images."""

IMAGES = 7
TURNED = 1
"""The image of each group that is stored turned, as its EXIF says."""

ORIENTATION, TURNED_RIGHT = 0x0112, 6


def write(folder: Path, shapes: dict[str, tuple[int, int]], numbers: range) -> None:
    """Cells in MVTec AD's layout; every third one has a white defect and a mask."""
    for group, (height, width) in shapes.items():
        for number, cell in zip(numbers, solar_cells(len(numbers), seed=numbers.start), strict=True):
            picture = Image.open(cell).convert("L").resize((width, height))
            kind = "spot" if number % 3 == 0 else "good"
            for sub in (f"test/{kind}", "ground_truth/spot"):
                (folder / group / sub).mkdir(parents=True, exist_ok=True)
            if kind == "spot":
                mask = np.zeros((height, width), np.uint8)
                mask[height // 4 : height // 2, width // 4 : width // 2] = 255
                picture.paste(255, mask=Image.fromarray(mask))
                Image.fromarray(mask).save(folder / group / "ground_truth" / "spot" / f"{number:03d}_mask.png")
            path = folder / group / "test" / kind / f"{number:03d}.png"
            if number == TURNED:
                exif = Image.Exif()
                exif[ORIENTATION] = TURNED_RIGHT
                picture.rotate(90, expand=True).save(path, exif=exif)
            else:
                picture.save(path)


@pytest.fixture(scope="module")
def plant(tmp_path_factory, invoke, tiny_weights):
    """A run on two groups; returns its folder, output and options."""
    folder = tmp_path_factory.mktemp("shapes")
    write(folder / "images", SHAPES, range(IMAGES))
    options = ["--backbone", MODEL, "--weights", tiny_weights, "--image-size", 64, "--precision", "float32"]
    options += ["--model-precision", "float32", "--group-by", "{group}/**", "--shard-size", 3, "--executor", "process"]
    options += ["--layers", ",".join(map(str, LAYERS)), "--degrees", ",".join(map(str, DEGREES))]
    options += ["--interval", "0,0.3"]
    result = invoke("run", folder / "images", folder / "out", *options)
    assert result.exit_code == 0, result.output
    return folder, result.output, options


def runs(out: Path) -> list[dict]:
    found = [json.loads(path.read_text()) for path in out.glob("runs/*/run.json")]
    return sorted(found, key=lambda run: run["scored_at"])


def rows(out: Path, run: dict, group: str) -> dict[str, dict]:
    table = ds.dataset(out / "runs" / run["run_id"] / "scores").to_table()
    return {Path(row["uri"]).stem: row for row in table.filter(pc.equal(table["group"], group)).to_pylist()}


@pytest.mark.parametrize("group", SHAPES)
def test_scores_are_those_of_features_in_the_shape_of_the_group(plant, tiny_weights, group):
    folder, output, _ = plant
    (run,) = runs(folder / "out")[:1]
    found = rows(folder / "out", run, group)
    grid = GRIDS[group]
    size = (16 * grid[0], 16 * grid[1])
    assert run["image_sizes"][group] == list(size)
    assert run["resolved"]["image_size"] == [64, 64]
    assert f"{size[0]} x {size[1]} ({grid[0]} x {grid[1]} patches)" in " ".join(output.split())
    assert {(row["grid_h"], row["grid_w"]) for row in found.values()} == {grid}
    weights = fetch_weights(resolve_backbone(MODEL), str(tiny_weights))
    backbone = load_backbone(MODEL, image_size=size, layers=LAYERS, weights=weights)
    paths = sorted((folder / "images" / group / "test").rglob("*.png"), key=lambda path: path.stem)
    pictures = np.stack([decode_image(path.read_bytes(), size) for path in paths])
    features = [layer.half() for layer in backbone.forward(torch.from_numpy(pictures)).layers]
    maps = musc_ray.score_features(features, grid, degrees=DEGREES, interval=(0.0, 0.3), precision="float32")
    expected = image_scores(maps.view(-1, *grid), size)
    assert len(found) == len(paths) == IMAGES
    for path, patch_map, score in zip(paths, maps.numpy(), expected.tolist(), strict=True):
        np.testing.assert_allclose(found[path.stem]["patch_map"], patch_map, atol=2e-5)
        assert found[path.stem]["score_raw"] == pytest.approx(score, abs=2e-5)


def test_nothing_is_squeezed(plant):
    folder, output, _ = plant
    notes = " ".join(runs(folder / "out")[0]["notes"])
    for word in ("squeezed", "mixes images"):
        assert word not in notes
        assert word not in output


def test_the_report_has_the_grid_of_each_group(plant):
    folder, _, _ = plant
    data = folder / "out" / "runs" / runs(folder / "out")[0]["run_id"] / "report" / "data"
    for number, group in enumerate(sorted(SHAPES), start=1):
        text = (data / f"group-{number}" / "group.js").read_text()
        assert f'"grid":{list(GRIDS[group])}'.replace(" ", "") in text.replace(" ", "")


def test_heat_maps_have_the_size_of_the_images(plant, invoke, tmp_path):
    folder, _, _ = plant
    result = invoke("heatmaps", folder / "out", "--run-id", runs(folder / "out")[0]["run_id"], "--format", "png",
                    "--to", tmp_path)  # fmt: skip
    assert result.exit_code == 0, result.output
    for group, shape in SHAPES.items():
        files = (tmp_path / f"group={group}").glob("*.png")
        assert {np.asarray(Image.open(path)).shape[:2] for path in files} == {shape}


def test_masks_are_compared_at_the_size_of_the_group(plant, invoke):
    folder, _, _ = plant
    run = runs(folder / "out")[0]
    result = invoke("evaluate", folder / "out", "--run-id", run["run_id"], "--executor", "process")
    assert result.exit_code == 0, result.output
    assert "48x96, 96x48" in result.output
    table = pq.read_table(folder / "out" / "runs" / run["run_id"] / "evaluation" / "metrics.parquet").to_pylist()
    for group, grid in GRIDS.items():
        (row,) = [row for row in table if row["group"] == group and row["defect"] == ""]
        size = (16 * grid[0], 16 * grid[1])
        maps, masks = [], []
        for name, scored in rows(folder / "out", run, group).items():
            maps.append(evaluated.upsample(np.float32(scored["patch_map"]).reshape(grid), size))
            path = folder / "images" / group / "ground_truth" / "spot" / f"{name}_mask.png"
            mask = Image.open(path) if path.exists() else Image.new("L", SHAPES[group][::-1])
            masks.append(np.asarray(mask.resize(size[::-1], Image.Resampling.BILINEAR)) == 255)
        expected = evaluated.pixel_metrics(maps, masks)
        for name in ("pixel_auroc", "pixel_ap", "aupro"):
            assert row[name] == pytest.approx(expected[name], abs=1e-5), name


def test_a_run_with_other_scores_uses_the_same_features(plant, invoke):
    folder, _, options = plant
    result = invoke("run", folder / "images", folder / "out", *options, "--k-list", "1,2")
    assert result.exit_code == 0, result.output
    first, second = runs(folder / "out")[:2]
    assert first["features_id"] == second["features_id"]
    assert (second["stages"]["extract"]["already_done"], second["stages"]["extract"]["shards"]) == (2 * IMAGES, 0)
    assert "already complete" in invoke("run", folder / "images", folder / "out", *options).output


@pytest.mark.slow
def test_paper_and_a_pair_have_one_size_for_all(plant, invoke, tmp_path):
    folder, _, options = plant
    for given in (["--method", "paper"], ["--image-size", "64,64"]):
        out = tmp_path / given[1]
        result = invoke("run", folder / "images", out, *options, *given)
        assert result.exit_code == 0, result.output
        assert "Image size: 64 x 64 (4 x 4 patches)" in result.output
        (run,) = runs(out)
        assert "image_sizes" not in run
        assert any("squeezed" in note for note in run["notes"])
        for group in SHAPES:
            assert {(row["grid_h"], row["grid_w"]) for row in rows(out, run, group).values()} == {(4, 4)}


@pytest.mark.slow
def test_a_night_uses_the_stored_size_and_groups_of_one_shape_say_it_as_resolved(plant, invoke, tmp_path):
    _, _, options = plant
    images = tmp_path / "images"
    write(images, {"tall": SHAPES["tall"]}, range(4))
    assert invoke("run", images, tmp_path / "out", *options).exit_code == 0
    write(images, {"tall": SHAPES["wide"]}, range(10, 20))
    result = invoke("rescore", tmp_path / "out")
    assert result.exit_code == 0, result.output
    first, night = runs(tmp_path / "out")
    assert first["image_sizes"] == night["image_sizes"] == {"tall": [96, 48]}
    assert night["resolved"]["image_size"] == [96, 48]
    assert night["resolved"]["grid"] == [6, 3]
    scored = rows(tmp_path / "out", night, "tall").values()
    assert len(scored) == 10
    assert {(row["grid_h"], row["grid_w"]) for row in scored} == {(6, 3)}
    assert any("mixes images" in note and "all resized to 96 x 48" in note for note in night["notes"])
