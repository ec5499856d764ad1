"""Scores and maps of cut images, through all stages: against loops that know neither matrices nor shards."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from musc_ray.features.ignored import GroupMasks
from musc_ray.scoring.notes import settled_anew_notes
from musc_ray.scoring.shown_maps import chosen_shown_maps
from tests.helpers import brute_force
from tests.helpers.generated import crop_grid
from tests.integration.test_crop_references import GRID, PLACES, SPEC, expected, mutual

ROWS = COLUMNS = 2
OVERLAP = 0.1
MANY = {**SPEC, "images": 20}


def scores_of(context) -> pa.Table:
    return ds.dataset(context.run_paths.scores).to_table().sort_by("image_id")


def spans(parts: int) -> list[tuple[float, float]]:
    side = 1 / (parts - (parts - 1) * OVERLAP)
    return [(part * side * (1 - OVERLAP), side) for part in range(parts)]


def at(crop: np.ndarray, y: float, x: float) -> float:
    """Interpolate a map between the centres of its patches, at a place inside it, 0 to 1."""
    h, w = crop.shape
    row, column = min(max(y * h - 0.5, 0), h - 1), min(max(x * w - 0.5, 0), w - 1)
    top, left = min(int(row), h - 2), min(int(column), w - 2)
    below, right = row - top, column - left
    return float(
        (1 - below) * (1 - right) * crop[top, left]
        + (1 - below) * right * crop[top, left + 1]
        + below * (1 - right) * crop[top + 1, left]
        + below * right * crop[top + 1, left + 1]
    )


def weight(inside: float, first: bool, last: bool) -> float:
    """A crop's weight at a place inside it: 0 at an edge with a neighbour, 1 where the overlap ends."""
    before = 1.0 if first else min(1.0, inside / OVERLAP)
    after = 1.0 if last else min(1.0, (1 - inside) / OVERLAP)
    return before * after


def stitched(crops: np.ndarray) -> np.ndarray:
    """Stitch the maps (P, h, w) of one image, point by point."""
    h, w = crops.shape[1:]
    height, width = (round(length * (2 - OVERLAP)) for length in (h, w))
    found = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            total = 0.0
            for row, (top, high) in enumerate(spans(ROWS)):
                for column, (left, wide) in enumerate(spans(COLUMNS)):
                    y, x = (i / (height - 1) - top) / high, (j / (width - 1) - left) / wide
                    if -1e-9 <= y <= 1 + 1e-9 and -1e-9 <= x <= 1 + 1e-9:
                        share = weight(y, row == 0, row == ROWS - 1) * weight(x, column == 0, column == COLUMNS - 1)
                        found[i, j] += share * at(crops[row * COLUMNS + column], y, x)
                        total += share
            found[i, j] /= total
    return found


def calibrated(crops: np.ndarray) -> np.ndarray:
    """Divide the maps (N, P, h, w) by the median of each patch, and give them their unit back."""
    usual = np.median(crops, axis=0)
    usual = np.maximum(usual, 0.5 * np.median(usual))
    return crops / usual * np.median(usual)


def outstanding(maps: np.ndarray) -> float:
    logs = np.log(maps.reshape(len(maps), -1).max(axis=1))
    return (np.quantile(logs, 0.95) - np.median(logs)) / (1.4826 * np.median(np.abs(logs - np.median(logs))))


@pytest.mark.parametrize("meeting", ["same", "all"])
def test_maps_are_stitched_from_calibrated_crops_or_those_of_whole_images(tmp_path, meeting):
    context, _, _ = mutual(tmp_path, MANY, crop_references=meeting)
    table = scores_of(context)
    places = expected(MANY, meeting)
    grid = crop_grid(MANY)
    whole = places[0].reshape(-1, *GRID)
    crops = calibrated(np.stack([places[place + 1].reshape(-1, *grid) for place in range(PLACES)], axis=1))
    maps = np.stack([stitched(image) for image in crops])
    usual = np.median(whole, axis=0)
    figures = outstanding(whole / np.maximum(usual, 0.5 * np.median(usual))), outstanding(maps)
    chosen = json.loads(Path(context.run_paths.settled("shown_maps")).read_text())["group-0"]
    assert chosen["whole"] == pytest.approx(figures[0], rel=1e-2)
    assert chosen["crops"] == pytest.approx(figures[1], rel=1e-2)
    assert chosen["shown"] == ("whole" if figures[0] >= figures[1] else "crops")
    found = np.array(table["patch_map"].to_pylist()).reshape(len(table), *maps.shape[1:])
    assert set(zip(table["grid_h"].to_pylist(), table["grid_w"].to_pylist(), strict=True)) == {maps.shape[1:]}
    if chosen["shown"] == "crops":
        np.testing.assert_allclose(found, maps, atol=2e-5)
        np.testing.assert_allclose(table["score_raw"].to_numpy(), maps.max(axis=(1, 2)), rtol=0.02)
    else:
        size = context.meta_of("group-0").shape.whole
        raw = [brute_force.pixel_map(image, size).max() for image in whole]
        np.testing.assert_allclose(table["score_raw"].to_numpy(), raw, atol=2e-5)


def test_scores_do_not_depend_on_shards(tmp_path):
    of_size = {}
    for shard_size in (3, 20):
        context, _, _ = mutual(tmp_path / str(shard_size), MANY | {"shard_size": shard_size}, rescoring="rscon")
        of_size[shard_size] = scores_of(context)
    for column in ("score_raw", "score"):
        np.testing.assert_allclose(of_size[3][column].to_numpy(), of_size[20][column].to_numpy(), atol=1e-5)
    first, second = (np.array(table["patch_map"].to_pylist()) for table in of_size.values())
    np.testing.assert_allclose(first, second, atol=1e-5)


def test_a_later_run_shows_what_the_first_one_chose(tmp_path):
    context, _, _ = mutual(tmp_path, MANY, crop_references="same")
    (stored,) = Path(tmp_path).glob("features/*/group=*/_shown_maps-*.json")
    content = json.loads(stored.read_text())
    other = {"whole": "crops", "crops": "whole"}[content["shown"]]
    stored.write_text(json.dumps(content | {"shown": other}))
    before = scores_of(context)["score_raw"].to_numpy()
    shutil.rmtree(context.run_paths.folder)
    again, _, _ = mutual(tmp_path, MANY, crop_references="same")
    chosen = json.loads(Path(again.run_paths.settled("shown_maps")).read_text())["group-0"]
    assert chosen["shown"] == other
    assert not np.allclose(scores_of(again)["score_raw"].to_numpy(), before)


def test_a_run_with_a_mask_chooses_for_itself(tmp_path):
    """What one run found with patches that another ignores says nothing of the other's scores."""
    mask = np.zeros((8, 10), bool)
    mask[:4, :5] = True
    alone, _, _ = mutual(tmp_path / "alone", MANY, masks={"group-0": GroupMasks(mask, {})}, crop_references="same")
    mutual(tmp_path / "after", MANY, crop_references="same")
    for folder in (tmp_path / "after").glob("runs/*"):
        shutil.rmtree(folder)
    after, _, _ = mutual(tmp_path / "after", MANY, masks={"group-0": GroupMasks(mask, {})}, crop_references="same")
    chosen = [json.loads(Path(run.run_paths.settled("shown_maps")).read_text())["group-0"] for run in (alone, after)]
    assert chosen[0] == chosen[1]
    assert len(list((tmp_path / "after").glob("features/*/group=group-0/_shown_maps-*.json"))) == 2


def test_a_mask_of_one_group_leaves_what_others_show(tmp_path):
    mask = np.zeros((8, 10), bool)
    mask[:4, :5] = True
    for masks in ({}, {"group-0": GroupMasks(mask, {})}):
        context, _, _ = mutual(tmp_path, MANY | {"groups": 2}, masks=masks, crop_references="same")
        shutil.rmtree(context.run_paths.folder)
    counts = [len(list(tmp_path.glob(f"features/*/group=group-{n}/_shown_maps-*.json"))) for n in (0, 1)]
    assert counts == [2, 1]


def test_a_group_that_has_grown_is_decided_anew_and_a_note_says_so(tmp_path):
    """What it showed as one of few images is stored, so that the change does not pass in silence."""
    context, _, _ = mutual(tmp_path, MANY, crop_references="same")
    assert settled_anew_notes({"maps are made": chosen_shown_maps(context)}) == []
    (stored,) = tmp_path.glob("features/*/group=*/_shown_maps-*.json")
    sampled = json.loads(stored.read_text())
    stored.write_text(json.dumps({"shown": "crops", "reason": "there are fewer than 16 images"}))
    shutil.rmtree(context.run_paths.folder)
    again, _, _ = mutual(tmp_path, MANY, crop_references="same")
    (chosen,) = chosen_shown_maps(again).values()
    assert (chosen.shown, chosen.images, chosen.grown) == (sampled["shown"], 20, True)
    (note,) = settled_anew_notes({"maps are made": {"group-0": chosen}})
    assert note.startswith("Group 'group-0' has grown: a sample of the images now says how maps are made")
    assert json.loads(stored.read_text()) == sampled, "the next run says no more of it"


def test_few_images_show_their_crops_as_they_are(tmp_path):
    context, _, _ = mutual(tmp_path, MANY | {"images": 6}, crop_references="same")
    (stored,) = tmp_path.glob("features/*/group=*/_shown_maps-*.json")
    assert json.loads(stored.read_text())["images"] == 0
    places, grid = expected(MANY | {"images": 6}, "same"), crop_grid(MANY)
    crops = np.stack([places[place + 1].reshape(-1, *grid) for place in range(PLACES)], axis=1)
    maps = np.stack([stitched(image) for image in crops])
    found = np.array(scores_of(context)["patch_map"].to_pylist())
    np.testing.assert_allclose(found, maps.reshape(len(maps), -1), atol=2e-5)
