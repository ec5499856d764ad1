"""Patches that are not scored in whole runs: masks of what is ignored, and the foreground, on generated images."""

import json
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pytest
from PIL import Image

import musc_ray
from musc_ray.core.kept_patches import kept_of_mask
from tests.helpers import brute_force

IMAGES, SIDE = 24, 96
GRID = (6, 6)
OPTIONS = ["--backbone", "timm:vit_tiny_patch16_224", "--image-size", f"{SIDE},{SIDE}", "--shard-size", "7", "--quiet"]
OPTIONS += ["--precision", "float32", "--model-precision", "float32", "--degrees", "1,3", "--rescoring", "none"]
OPTIONS += ["--set", "workers=1", "--set", "threads=1", "--set", "report_images=2"]
JUNK = 5
"""The image with a stamp that no other has, where images are ignored."""


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    """A grain common to all images, with noise; image 5 has a stamp in the upper left corner."""
    folder = tmp_path_factory.mktemp("archive")
    generator = np.random.default_rng(0)
    common = generator.integers(90, 160, (SIDE, SIDE, 3))
    for group in ("a/top", "b"):
        (folder / "images" / group).mkdir(parents=True)
    for number in range(IMAGES):
        image = np.clip(common + generator.normal(0, 12, common.shape), 0, 255).astype(np.uint8)
        if number == JUNK:
            image[:32, :32] = np.kron(generator.integers(0, 2, (16, 16, 3)) * 255, np.ones((2, 2, 1)))
        Image.fromarray(image).save(folder / "images" / ("a/top", "b")[number % 2] / f"{number:02d}.png")
    mask = np.zeros((48, 48), bool)
    mask[:17, :17] = True
    Image.fromarray(mask).save(folder / "mask.png")
    (folder / "masks" / "a").mkdir(parents=True)
    Image.fromarray(mask).convert("RGB").save(folder / "masks" / "a" / "top.tif")
    return folder


def scored(invoke, archive: Path, out: Path, weights: Path, *options: object) -> tuple[dict, dict[str, dict]]:
    """Run; returns run.json and the rows by name of the image."""
    result = invoke("run", archive / "images", out, "--weights", weights, *OPTIONS, *options)
    assert result.exit_code == 0, result.output
    runs = sorted((out / "runs").iterdir(), key=lambda path: path.stat().st_mtime)
    rows = ds.dataset(runs[-1] / "scores", format="parquet").to_table().to_pylist()
    return json.loads((runs[-1] / "run.json").read_text()), {Path(row["uri"]).stem: row for row in rows}


def test_what_a_mask_covers_is_neither_scored_nor_a_reference(invoke, archive, tiny_weights, tmp_path):
    plain, before = scored(invoke, archive, tmp_path, tiny_weights)
    run, rows = scored(invoke, archive, tmp_path, tiny_weights, "--ignore", archive / "mask.png")
    junk = f"{JUNK:02d}"
    assert max(before, key=lambda name: before[name]["score_raw"]) == junk  # it would be the most anomalous image
    assert max(rows, key=lambda name: rows[name]["score_raw"]) != junk
    kept = kept_of_mask(np.asarray(Image.open(archive / "mask.png")), GRID)
    assert kept.reshape(GRID)[:2, :2].sum() == 0
    assert kept.sum() == 32
    (folder,) = tmp_path.glob("features/*/group=*")
    stored = brute_force.read_features(folder)
    expected = _masked_maps([stored.layers[layer] for layer in stored.meta["layers"]], kept)
    by_id = {row["image_id"]: row for row in rows.values()}
    for image_id, wanted in zip(stored.ids, expected, strict=True):
        np.testing.assert_allclose(by_id[image_id]["patch_map"], wanted, atol=1e-4)
        filled = np.where(np.isnan(wanted), np.nanmin(wanted), wanted).reshape(GRID)
        assert by_id[image_id]["score_raw"] == pytest.approx(
            brute_force.pixel_map(filled, (SIDE, SIDE)).max(), abs=1e-4
        )
    assert run["run_id"] != plain["run_id"]
    assert "kept" not in plain
    (of_group,) = run["kept"].values()
    assert of_group["masked"]
    assert of_group["share"] == pytest.approx(32 / 36, abs=1e-3)
    assert any("11% of patches are ignored (setting ignore)." in note for note in run["notes"])
    moved = archive / "moved.bmp"
    Image.open(archive / "mask.png").save(moved)  # the same pixels elsewhere are the same run
    assert scored(invoke, archive, tmp_path, tiny_weights, "--ignore", moved)[0]["run_id"] == run["run_id"]


def _masked_maps(layers: list[np.ndarray], kept: np.ndarray) -> np.ndarray:
    """Patch maps (N, L) over kept patches alone, in float64; NaN elsewhere."""
    found = []
    for tokens in layers:
        for degree in (1, 3):
            z = brute_force.lnamd(tokens, GRID, degree)[:, kept]
            found.append(brute_force.interval_average(brute_force.mutual_minima(z), (0.0, 0.3)))
    maps = np.full((len(layers[0]), len(kept)), np.nan)
    maps[:, kept] = np.mean(found, axis=0)
    return maps


@pytest.mark.slow
def test_masks_of_groups_and_sizes(invoke, archive, tiny_weights, tmp_path):
    grouped = ["--group-by", r"(?P<group>.*)/"]
    run, rows = scored(invoke, archive, tmp_path, tiny_weights, *grouped, "--ignore", archive / "masks")
    assert set(run["kept"]) == {"a/top", "b"}
    assert {name: group.get("masked") for name, group in run["kept"].items()} == {"a/top": True, "b": False}
    assert [np.isnan(rows[name]["patch_map"]).sum() for name in ("00", "01")] == [4, 0]
    note = "Group 'b': no mask is for the group, so that nothing of it is ignored (setting ignore)."
    assert note in run["notes"]
    sizes = tmp_path / "sizes"
    sizes.mkdir()
    Image.open(archive / "mask.png").save(sizes / f"{SIDE}x{SIDE}.png")
    Image.open(archive / "mask.png").save(sizes / "640x480.png")
    run, rows = scored(invoke, archive, tmp_path, tiny_weights, *grouped, "--ignore", sizes)
    assert {int(np.isnan(row["patch_map"]).sum()) for row in rows.values()} == {4}
    for command in (["report", tmp_path], ["heatmaps", tmp_path, "--format", "png"]):
        result = invoke(*command, "--quiet")
        assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("ignore", "message"),
    [
        ("nowhere.png", "There is nothing at"),
        ("text.png", "cannot be read"),
        ("white.png", "ignores everything"),
        ("black.png", "ignores nothing"),
        ("wide.png", "has 96 x 24 pixels, an image of it 96 x 96"),
        ("empty", "holds no image"),
        ("others", "holds no mask of any group or size"),
    ],
)
def test_masks_that_make_no_sense_are_refused_in_a_sentence(invoke, archive, tiny_weights, tmp_path, ignore, message):
    (tmp_path / "text.png").write_text("no image")
    Image.new("L", (96, 96), 255).save(tmp_path / "white.png")
    Image.new("L", (96, 96), 1).save(tmp_path / "black.png")
    wide = Image.new("L", (96, 24))
    wide.paste(255, (0, 0, 10, 10))
    wide.save(tmp_path / "wide.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "others").mkdir()
    wide.save(tmp_path / "others" / "other.png")
    options = [*OPTIONS, "--weights", tiny_weights, "--ignore", tmp_path / ignore]
    result = invoke("run", archive / "images", tmp_path / "out", *options)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> Path:
    """Bright grained parts before a black ground, at slightly different places."""
    folder = tmp_path_factory.mktemp("parts")
    generator = np.random.default_rng(1)
    for number in range(IMAGES):
        image = generator.normal(6, 2, (SIDE, SIDE, 3))
        y, x = generator.integers(21, 24, 2)
        image[y : y + 51, x : x + 51] = generator.normal(190, 25, (51, 51, 3))
        Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(folder / f"{number:02d}.png")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["process", "ray"])
def test_the_background_is_left_out_where_there_is_one(invoke, archive, parts, tiny_weights, tmp_path, executor):
    options = ["--foreground", "auto", "--executor", executor]
    of_size = [*OPTIONS, "--image-size", "176,176", *options]
    result = invoke("run", parts, tmp_path / "parts", "--weights", tiny_weights, *of_size)
    assert result.exit_code == 0, result.output
    (folder,) = (tmp_path / "parts" / "runs").iterdir()
    run = json.loads((folder / "run.json").read_text())
    (kept,) = run["kept"].values()
    assert kept["foreground"], kept
    assert 0.3 < kept["share"] < 0.65
    assert any("of patches are not scored, since a part fills" in note for note in run["notes"])
    maps = ds.dataset(folder / "scores", format="parquet").to_table()["patch_map"].to_pylist()
    scored_places = ~np.isnan(maps).reshape(-1, 11, 11)
    assert scored_places[:, 4:7, 4:7].all()  # the part
    assert not scored_places[:, 0].any()
    assert scored_places.mean() == pytest.approx(kept["share"], abs=1e-3)
    table = ds.dataset(folder / "scores", format="parquet").to_table().to_pylist()
    for image in musc_ray.check(tmp_path / "parts", [table[0]["uri"], table[7]["uri"]]).images:
        row = next(row for row in table if row["uri"] == image.uri)
        assert image.score_raw == pytest.approx(row["score_raw"], abs=1e-4)
        np.testing.assert_allclose(image.patch_map.ravel(), row["patch_map"], atol=1e-4)
    texture, rows = scored(invoke, archive, tmp_path / "texture", tiny_weights, *options)
    (of_texture,) = texture["kept"].values()
    assert (of_texture["foreground"], of_texture["share"]) == (False, 1.0)
    assert not any(np.isnan(row["patch_map"]).any() for row in rows.values())
    assert any("all patches are scored, since" in note for note in texture["notes"])
    (stored,) = (tmp_path / "parts" / "features").glob("*/*/_foreground-*.json")
    assert json.loads(stored.read_text())["reason"] == kept["reason"]


@pytest.mark.slow
@pytest.mark.parametrize("meeting", ["same", "all"])
def test_crops_and_repeated_defects_leave_out_what_is_ignored(invoke, archive, tiny_weights, tmp_path, meeting):
    crops = ["--crops", "2x2", "--crop-references", meeting, "--ignore", archive / "mask.png"]
    _, rows = scored(invoke, archive, tmp_path / "crops", tiny_weights, *crops)
    for row in rows.values():
        ignored = np.isnan(row["patch_map"]).reshape(row["grid_h"], row["grid_w"])
        assert ignored[0, 0]
        assert not ignored[row["grid_h"] // 2 :].any()
        assert np.isfinite(row["score_raw"])
    assert max(rows, key=lambda name: rows[name]["score_raw"]) != f"{JUNK:02d}"
    repeated = ["--repeated-defects", "--ignore", archive / "mask.png"]
    _, rows = scored(invoke, archive, tmp_path / "repeated", tiny_weights, *repeated)
    assert {int(np.isnan(row["patch_map"]).sum()) for row in rows.values()} == {4}
