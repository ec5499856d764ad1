"""12-bit images in 16-bit files from end to end: the scores of their 8-bit originals, in runs, nights and reports."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from PIL import Image

from tests.helpers.pictures import solar_cells
from tests.helpers.tiff_files import tiff

CELLS = [np.asarray(Image.open(path).convert("L").resize((96, 80))) for path in solar_cells(9)]


def twelve_bits(values: np.ndarray) -> bytes:
    return tiff(np.rint(values * (4095 / 255)).astype(np.uint16))


def write(folder: Path, cells: list[np.ndarray], first: int = 0) -> None:
    """The cells as deep TIFF files and as 8-bit PNG files, a group each."""
    for group in ("deep", "plain"):
        (folder / group).mkdir(parents=True, exist_ok=True)
    for number, cell in enumerate(cells, first):
        (folder / "deep" / f"{number}.tif").write_bytes(twelve_bits(cell))
        Image.fromarray(cell).save(folder / "plain" / f"{number}.png")


@pytest.fixture(scope="module")
def plant(tmp_path_factory, invoke, tiny_weights):
    """A run on three groups: deep, plain, and black ones."""
    folder = tmp_path_factory.mktemp("intensity")
    write(folder / "images", CELLS[:6])
    (folder / "images" / "black").mkdir()
    for number in range(3):
        Image.new("RGBA", (40 + number, 30)).save(folder / "images" / "black" / f"{number}.png")
    options = ["--backbone", "timm:vit_tiny_patch16_224", "--weights", tiny_weights, "--image-size", "64"]
    options += [
        "--precision",
        "float32",
        "--model-precision",
        "float32",
        "--group-by",
        "{group}/**",
        "--shard-size",
        2,
        "--set",
        "workers=1",
    ]
    result = invoke("run", folder / "images", folder / "out", *options, "--set", "max_error_fraction=0.5")
    assert "12 images scored, 3 failed" in result.output, result.output
    assert result.exit_code == 1  # a group failed
    return folder, result.output, options


def runs(folder: Path) -> list[dict]:
    found = [json.loads(path.read_text()) for path in (folder / "out" / "runs").glob("*/run.json")]
    return sorted(found, key=lambda run: run["scored_at"])


def scores(folder: Path, run: dict, group: str) -> dict[str, float]:
    table: pa.Table = ds.dataset(folder / "out" / "runs" / run["run_id"] / "scores").to_table()
    rows = table.filter(pa.compute.equal(table["group"], group)).to_pylist()
    return {Path(row["uri"]).stem: row["score_raw"] for row in rows}


def test_scores_are_those_of_the_8_bit_originals(plant):
    folder, output, _ = plant
    (run,) = runs(folder)[:1]
    assert len(scores(folder, run, "deep")) == 6
    assert scores(folder, run, "deep") == pytest.approx(scores(folder, run, "plain"), abs=1e-5)
    sentence = "Group 'deep': 16-bit images hold 12-bit data; intensity 0..4095 (setting intensity)."
    assert sentence in run["notes"]
    assert sentence in " ".join(output.split())
    assert run["intensity"] == {"deep": [0, 4095]}


def test_a_group_of_one_picture_fails_with_a_sentence(plant):
    folder, _, _ = plant
    run = runs(folder)[0]
    assert set(run["failed_groups"]) == {"black"}
    assert "same picture" in run["failed_groups"]["black"]
    assert scores(folder, run, "black") == {}


@pytest.mark.slow
def test_only_pictures_of_one_kind_are_a_failed_run(plant, invoke, tmp_path):
    folder, _, options = plant
    result = invoke("run", folder / "images" / "black", tmp_path / "out", *options[:-6], "--set", "workers=1")
    assert result.exit_code == 1
    assert "All images of group 'all' are the same picture" in " ".join(result.output.split())


@pytest.mark.slow
def test_the_report_and_heat_maps_show_the_same_pixels(plant, invoke, tmp_path):
    folder, _, _ = plant
    pages = folder / "out" / "runs" / runs(folder)[0]["run_id"] / "report" / "data"
    brightness = [
        np.mean([np.asarray(Image.open(path)).mean() for path in sorted(group.glob("picture-*.jpg"))])
        for group in sorted(pages.glob("group-*"))
    ]
    assert len(brightness) == 2
    assert brightness[0] == pytest.approx(brightness[1], abs=1)
    assert brightness[0] == pytest.approx(np.mean(CELLS[:6]), abs=5)
    result = invoke("heatmaps", folder / "out", "--format", "png", "--overlay", "--to", tmp_path, "--top", 1)
    assert result.exit_code == 0, result.output
    overlays = [np.asarray(Image.open(path)).mean() for path in sorted(tmp_path.rglob("*.png"))]
    assert overlays[0] == pytest.approx(overlays[1], abs=3)


def test_the_same_command_finds_the_run(plant, invoke):
    folder, _, options = plant
    result = invoke("run", folder / "images", folder / "out", *options, "--set", "max_error_fraction=0.5")
    assert "already complete" in result.output
    assert len(runs(folder)) == 1


@pytest.mark.slow
def test_a_night_uses_the_same_range_and_says_what_does_not_fit(plant, invoke):
    folder, _, _ = plant
    write(folder / "images", CELLS[6:8], first=6)
    bright = np.rint(CELLS[8] * (60_000 / 255)).astype(np.uint16)
    (folder / "images" / "deep" / "bright.tif").write_bytes(tiff(bright))
    (folder / "images" / "plain" / "deep.tif").write_bytes(tiff(bright))
    result = invoke("rescore", folder / "out", "--set", "workers=1")
    assert result.exit_code == 1, result.output  # the black group fails again
    run = runs(folder)[-1]
    assert run["intensity"] == {"deep": [0, 4095]}
    note = "Group 'deep', 1 image: values outside the intensity were clipped (setting intensity)."
    assert note in run["notes"]
    deep, plain = (scores(folder, run, group) for group in ("deep", "plain"))
    assert set(deep) == {"6", "7", "bright"}
    assert set(plain) == {"6", "7"}
    errors = ds.dataset(folder / "out" / "runs" / run["run_id"] / "errors").to_table().to_pylist()
    (error,) = [row for row in errors if "deep.tif" in row["uri"]]
    assert "--intensity" in error["message"]


def test_garbage_collection_keeps_the_range(plant, invoke):
    folder, _, _ = plant
    assert invoke("gc", folder / "out", "--delete").exit_code == 0
    assert len(list((folder / "out").glob("features/*/group=deep/_intensity.json"))) == 1
