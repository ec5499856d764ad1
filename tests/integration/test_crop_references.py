"""Who scores whom among crops, through the mutual stage: bands against loops, decisions that stay, resume."""

import contextlib
import json
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from musc_ray.core import patch_scores
from musc_ray.features.context import RunContext
from musc_ray.features.ignored import GroupMasks
from musc_ray.runtime.executor import ResultLostError, open_executor
from musc_ray.runtime.options import ExecutorOptions
from musc_ray.runtime.progress import Progress
from musc_ray.scoring import crop_references_worker, tile_driver
from musc_ray.scoring.block_multiplier import BlockMultiplier
from musc_ray.scoring.crop_references import chosen_crop_references
from musc_ray.scoring.driver import score_groups
from musc_ray.scoring.notes import crop_notes
from musc_ray.scoring.patch_maps import set_maps_of
from musc_ray.scoring.patch_sets import patch_sets
from musc_ray.scoring.ring import GroupImages
from musc_ray.scoring.tile_driver import BandTask, TileDriver
from tests.helpers import brute_force
from tests.helpers.generated import DEFAULTS, crop_features, crop_grid, generated_archive, group_features
from tests.helpers.processes import kill, named
from tests.integration.test_nodes import figures, start

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


def mutual(
    out: Path, spec: dict, masks: Mapping[str, GroupMasks] | None = None, **settings: object
) -> tuple[RunContext, list[GroupImages], dict]:
    """Score generated groups; the bands stay. With masks, `ignore` only has to be set: they are not read from there."""
    if masks:
        settings["ignore"] = "given"
    context, groups = generated_archive(str(out), spec | {"settings": SETTINGS | settings})
    context = replace(context, masks=masks or {})
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


@pytest.mark.parametrize("executor", ["process", pytest.param("ray", marks=pytest.mark.slow)])
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


@pytest.mark.parametrize("references", [pytest.param("all", marks=pytest.mark.slow), 6])
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


@pytest.mark.parametrize("meeting", ["same", "all"])
def test_a_band_whose_parts_are_lost_is_multiplied_again(tmp_path, monkeypatch, meeting):
    spec = SPEC | {"shard_size": 1}
    wanted = expected(spec, meeting)
    handle, lost = TileDriver._handle, []

    def lose_first(self, executor, task, references, error):
        if isinstance(task, BandTask) and task.band.patch_set.number == 1 and not lost:
            lost.append(task.band.key)
            error = ResultLostError("lost with its node")
        handle(self, executor, task, references, error)

    monkeypatch.setattr(TileDriver, "_handle", lose_first)
    context, groups, stages = mutual(tmp_path, spec, crop_references=meeting, references=6)
    assert len(lost) == 1
    assert stages["mutual"]["repaired_bands"] == 1
    monkeypatch.undo()
    repaired = maps(context, groups[0], meeting)
    again, groups, _ = mutual(tmp_path / "again", spec, crop_references=meeting, references=6)
    check(repaired, maps(again, groups[0], meeting), 1e-6)
    assert repaired.keys() == wanted.keys()


def test_a_block_that_runs_out_of_memory_is_multiplied_tile_by_tile(tmp_path, monkeypatch):
    merged, failed = BlockMultiplier._multiply_merged, []

    def fail_first(self, task, shards):
        if not failed:
            failed.append(task)
            raise MemoryError("injected")
        return merged(self, task, shards)

    monkeypatch.setattr(BlockMultiplier, "_multiply_merged", fail_first)
    context, groups, stages = mutual(tmp_path, SPEC, crop_references="all")
    assert stages["mutual"]["shrunk_blocks"] == 1
    check(maps(context, groups[0], "all"), expected(SPEC, "all"))


@pytest.mark.slow
@pytest.mark.parametrize("meeting", ["same", "all"])
def test_a_killed_driver_and_a_killed_worker_change_nothing(tmp_path, meeting):
    """Of many tiles: the driver dies, and the one that continues loses a worker."""
    settings = {**SETTINGS, "executor": "ray", "workers": 2, "crop_references": meeting, "degrees": [1, 3, 5]}
    spec = {"images": 90, "grid": [8, 8], "channels": 64, "layers": 3, "shard_size": 2, "settings": settings}
    process = start(tmp_path, spec)
    wait_for_bands(tmp_path, process, 100)  # two sets and more
    process.kill()
    process.communicate()
    written = bands_of(tmp_path)
    process = start(tmp_path, spec)
    wait_for_bands(tmp_path, process, len(written) + 10)
    kill(named("WorkerProcess.call", process.pid)[0])
    stats = figures(process)["mutual"]
    assert {path: when for path, when in bands_of(tmp_path).items() if path in written} == written
    assert stats["lost_workers"] == 1
    assert stats["already_done"] > 0
    sets = 1 + (PLACES if meeting == "same" else 1)
    assert stats["tiles"] + stats["already_done"] == 3 * sets * 45 * 46 // 2
    context, groups = generated_archive(str(tmp_path), spec)  # of the features that are there
    whole, others, _ = mutual(
        tmp_path / "whole", DEFAULTS | spec | {"shard_size": 90}, crop_references=meeting, degrees=[1, 3, 5]
    )
    check(maps(context, groups[0], meeting), maps(whole, others[0], meeting), 1e-6)


def bands_of(out: Path) -> dict[Path, int]:
    """The bands that are written, and when."""
    found = {}
    for path in out.glob("runs/generated/work/bands/**/*.npy"):
        with contextlib.suppress(FileNotFoundError):
            found[path] = path.stat().st_mtime_ns
    return found


def wait_for_bands(out: Path, process: subprocess.Popen, count: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if len(bands_of(out)) >= count:
            return
        time.sleep(0.02)
    raise AssertionError(process.communicate()[1])


@pytest.mark.parametrize("meeting", ["same", "all"])
def test_summaries_of_many_references_are_within_their_bound(tmp_path, monkeypatch, meeting):
    for module in (patch_scores, tile_driver):
        monkeypatch.setattr(module, "MAX_EXACT_REFERENCES", 20)
    monkeypatch.setattr(tile_driver, "SUMMARY_CHUNK", 12)
    spec = SPEC | {"images": 30, "shard_size": 1}
    context, groups, stages = mutual(tmp_path, spec, crop_references=meeting)
    bound = stages["mutual"]["largest_summary_error"]
    assert 0 < bound < 5e-3
    check(maps(context, groups[0], meeting), expected(spec, meeting), bound)
