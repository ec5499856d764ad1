"""Who scores whom among crops, through the mutual stage: bands against loops, decisions that stay, resume."""

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from musc_ray.features.context import RunContext
from musc_ray.runtime.executor import open_executor
from musc_ray.runtime.options import ExecutorOptions
from musc_ray.runtime.progress import Progress
from musc_ray.scoring import crop_references_worker
from musc_ray.scoring.crop_references import chosen_crop_references
from musc_ray.scoring.driver import score_groups
from musc_ray.scoring.notes import crop_notes
from musc_ray.scoring.patch_maps import set_maps_of
from musc_ray.scoring.patch_sets import patch_sets
from musc_ray.scoring.ring import GroupImages
from tests.helpers import brute_force
from tests.helpers.generated import DEFAULTS, crop_features, crop_grid, generated_archive, group_features

NOW = datetime(2026, 11, 30, tzinfo=UTC)
SPEC = {**DEFAULTS, "images": 13, "grid": [4, 5], "channels": 24, "shard_size": 3}
GRID, CROPS, PLACES, DEGREES = (4, 5), "2x2", 4, (1, 3)
SETTINGS = {
    "degrees": "1,3",
    "precision": "float32",
    "rescoring": "none",
    "executor": "process",
    "workers": 1,
    "crops": CROPS,
}


def mutual(out: Path, spec: dict, **settings: object) -> tuple[RunContext, list[GroupImages], dict]:
    """Score generated groups; the bands stay."""
    context, groups = generated_archive(str(out), spec | {"settings": SETTINGS | settings})
    stages: dict = {}
    with open_executor(ExecutorOptions.of(context.settings), Progress(quiet=True)) as opened:
        score_groups(context, opened, groups, NOW, Progress(quiet=True), stages)
    return context, groups, stages


def maps(context: RunContext, group: GroupImages, meeting: str) -> dict[int, np.ndarray]:
    """Patch maps (N, h, w) of every place, in the order of the ids."""
    sets = patch_sets(context.meta_of(group.group), meeting)
    of_sets = GroupImages(group.group, group.ring, group.window, sets)
    ids = [image_id for shard in group.ring for image_id in shard.ids]
    found: dict[int, list[np.ndarray]] = {}
    for shard in group.ring:
        of_shard = set_maps_of(context.run_paths, of_sets, shard, context.meta.layers)
        for patch_set in sets:
            for column, place in enumerate(patch_set.places):
                found.setdefault(place, []).append(of_shard[patch_set.number][:, column])
    return {place: np.concatenate(parts)[np.argsort(ids)] for place, parts in found.items()}


def expected(spec: dict, meeting: str) -> dict[int, np.ndarray]:
    """The same by loops in float64, of the stored float16 tokens."""
    images, grid = range(spec["images"]), crop_grid(spec)
    ids, _, wholes = group_features(spec, 0, images)
    crops = [layer.reshape(len(images), PLACES, *layer.shape[1:]) for layer in crop_features(spec, 0, images, PLACES)]
    order = np.argsort(ids)
    found = {0: scores([layer[order] for layer in wholes], GRID, 1)}
    if meeting == "same":
        for place in range(PLACES):
            found[place + 1] = scores([layer[order][:, place] for layer in crops], grid, 1)
        return found
    together = scores([layer[order].reshape(-1, *layer.shape[2:]) for layer in crops], grid, PLACES)
    return found | {place + 1: part for place, part in enumerate(np.split(together, PLACES, axis=1))}


def scores(layers: list[np.ndarray], grid: tuple[int, int], places: int) -> np.ndarray:
    """Patch scores (N, places * h * w)."""
    vectors = [brute_force.lnamd(tokens, grid, degree) for tokens in layers for degree in DEGREES]
    minima = [brute_force.minima_over_places(z, places) for z in vectors]
    return np.mean([brute_force.interval_average(part, (0.0, 0.3)) for part in minima], axis=0)


def check(found: dict[int, np.ndarray], wanted: dict[int, np.ndarray], tolerance: float = 1e-5) -> None:
    assert found.keys() == wanted.keys()
    for place, patch_maps in wanted.items():
        np.testing.assert_allclose(found[place].reshape(patch_maps.shape), patch_maps, atol=tolerance, rtol=0)


@pytest.mark.parametrize("executor", ["process", "ray"])
@pytest.mark.parametrize("meeting", ["same", "all"])
def test_bands_are_those_of_the_formulas(tmp_path, shared_ray, meeting, executor):
    context, groups, stages = mutual(tmp_path, SPEC, executor=executor, crop_references=meeting)
    check(maps(context, groups[0], meeting), expected(SPEC, meeting))
    layers, sets = SPEC["layers"], 1 + (PLACES if meeting == "same" else 1)
    assert stages["mutual"]["tiles"] == layers * sets * 14  # of 5 shards, the last one of a single image
    pairs = layers * SPEC["images"] * (SPEC["images"] - 1) // 2
    assert stages["mutual"]["pairs"] == sets * pairs
    compared = (GRID[0] * GRID[1]) ** 2 + (GRID[0] * (GRID[1] - 1)) ** 2 * (PLACES if meeting == "same" else PLACES**2)
    assert stages["mutual"]["operations"] == 2.0 * pairs * compared * SPEC["channels"]


@pytest.mark.parametrize("references", ["all", 6])
@pytest.mark.parametrize("meeting", ["same", "all"])
def test_shards_and_blocks_change_nothing(tmp_path, meeting, references):
    found = []
    for shard_size in (13, 5, 1):
        spec = SPEC | {"shard_size": shard_size}
        out = tmp_path / str(shard_size)
        context, groups, _ = mutual(out, spec, crop_references=meeting, references=references, seed=1)
        found.append(maps(context, groups[0], meeting))
    check(found[1], found[0], 1e-6)
    check(found[2], found[0], 1e-6)


@pytest.mark.parametrize(
    ("settings", "tolerance"), [({"precision": "int8"}, 1.5e-2), ({"precision": "bfloat16"}, 1e-2)]
)
def test_low_precision_is_within_its_tolerance(tmp_path, settings, tolerance):
    context, groups, _ = mutual(tmp_path, SPEC, crop_references="all", **settings)
    check(maps(context, groups[0], "all"), expected(SPEC, "all"), tolerance)


def test_compressed_features_are_scored_in_both_ways(tmp_path):
    """With all channels kept, compressing turns the vectors alone."""
    for meeting in ("same", "all"):
        spec = SPEC | {"images": 9}
        context, groups, _ = mutual(
            tmp_path / meeting, spec, crop_references=meeting, compress=24, feature_dtype="float16"
        )
        check(maps(context, groups[0], meeting), expected(spec, meeting), 5e-3)


def test_near_stays_within_a_place(tmp_path):
    context, groups, _ = mutual(tmp_path, SPEC, matching="near", radius=1)
    order = np.argsort(group_features(SPEC, 0, range(13))[0])
    layers = [layer[2::PLACES][order] for layer in crop_features(SPEC, 0, range(13), PLACES)]
    z = [brute_force.lnamd(layer, crop_grid(SPEC), degree) for layer in layers for degree in DEGREES]
    minima = [brute_force.near_minima(part, crop_grid(SPEC), 1) for part in z]
    wanted = np.mean([brute_force.interval_average(part, (0.0, 0.3)) for part in minima], axis=0)
    np.testing.assert_allclose(maps(context, groups[0], "same")[3].reshape(wanted.shape), wanted, atol=1e-4)


@pytest.mark.parametrize(("loose", "meeting"), [(False, "same"), (True, "all")])
def test_a_sample_says_which_crops_meet(tmp_path, monkeypatch, loose, meeting):
    spec = SPEC | {"loose": loose}
    context, groups, stages = mutual(tmp_path, spec)
    (chosen,) = chosen_crop_references(context).values()
    assert chosen.meeting == meeting
    assert chosen.images == 13
    assert (chosen.found > 0.9) == (meeting == "same")
    assert stages["crop_references"]["seconds"] > 0
    (note,) = crop_notes(chosen_crop_references(context))
    assert chosen.reason in note
    check(maps(context, groups[0], meeting), maps_of_given(tmp_path / "given", spec, meeting), 1e-6)
    (stored,) = tmp_path.glob("features/*/*/_crop_references-*.json")
    assert json.loads(stored.read_text())["meeting"] == meeting
    shutil.rmtree(tmp_path / "runs")
    monkeypatch.setattr(crop_references_worker, "crop_figures", None)  # no sample is looked at again
    again, _, _ = mutual(tmp_path, spec)
    assert chosen_crop_references(again) == chosen_crop_references(context)


def maps_of_given(out: Path, spec: dict, meeting: str) -> dict[int, np.ndarray]:
    context, groups, _ = mutual(out, spec, crop_references=meeting)
    assert chosen_crop_references(context) == {}
    return maps(context, groups[0], meeting)


def test_few_images_are_compared_with_all_crops(tmp_path):
    spec = SPEC | {"images": 5}
    context, groups, _ = mutual(tmp_path, spec)
    (chosen,) = chosen_crop_references(context).values()
    assert (chosen.meeting, chosen.images, chosen.found) == ("all", 0, None)
    check(maps(context, groups[0], "all"), expected(spec, "all"))


def test_auto_matching_within_a_place_and_anywhere_among_all(tmp_path):
    for loose, radius in ((False, 1), (True, None)):
        spec = SPEC | {"images": 24, "loose": loose}
        context, _, _ = mutual(tmp_path / str(loose), spec, matching="auto", radius=1)
        content = json.loads(Path(context.run_paths.settled("matching")).read_text())
        assert content["group-0"]["radius"] in (radius, None)
        assert ("all places" in content["group-0"]["reason"]) == loose


@pytest.mark.parametrize("meeting", ["same", "all"])
def test_a_stopped_run_continues_where_it_was(tmp_path, meeting):
    context, groups, _ = mutual(tmp_path, SPEC, crop_references=meeting)
    before = maps(context, groups[0], meeting)
    bands = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/generated/work/bands/**/*.npy")}
    assert len(bands) == SPEC["layers"] * (1 + (PLACES if meeting == "same" else 1)) * len(groups[0].ring)
    lost = [path for path in sorted(bands) if "set-0001" in str(path)][::3]
    for path in lost:
        path.unlink()
    _, _, stages = mutual(tmp_path, SPEC, crop_references=meeting)
    again = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/generated/work/bands/**/*.npy")}
    assert again.keys() == bands.keys()
    assert {path for path in bands if again[path] != bands[path]} == set(lost)
    assert 0 < stages["mutual"]["tiles"] < stages["mutual"]["already_done"]
    check(maps(context, groups[0], meeting), before, 1e-6)
