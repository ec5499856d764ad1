"""Matching near the same place through whole stages: both executors, bands against loops, decisions that stay."""

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pytest
from PIL import Image

from musc_ray.runtime.executor import open_executor
from musc_ray.runtime.options import ExecutorOptions
from musc_ray.runtime.progress import Progress
from musc_ray.scoring import by_sample, matching_worker
from musc_ray.scoring import matching as matching_driver
from musc_ray.scoring.driver import score_groups
from musc_ray.scoring.matching import chosen_matching
from musc_ray.storage.shards import BrokenShardError
from tests.helpers import brute_force
from tests.helpers.generated import generated_archive, group_features
from tests.helpers.pictures import solar_cells

NOW = datetime(2026, 11, 30, tzinfo=UTC)
SPEC = {"images": 30, "grid": [4, 5], "channels": 48, "groups": 2, "shard_size": 7, "shuffled": [1]}
DEGREES = (1, 3)


def score(out: Path, executor: str = "process", **settings: object):
    """Score generated groups: of group 1 every image has its places in an order of its own."""
    given = {"degrees": "1,3", "precision": "float32", "rescoring": "none", "executor": executor, "workers": 1}
    context, groups = generated_archive(str(out), SPEC | {"settings": given | settings})
    stages = {}
    with open_executor(ExecutorOptions.of(context.settings), Progress(quiet=True)) as opened:
        _, failed = score_groups(context, opened, groups, NOW, Progress(quiet=True), stages)
    assert not failed
    return context, stages


def patch_maps(out: Path, group: int) -> np.ndarray:
    """Patch maps (N, L) of a group in the order of its ids."""
    table = ds.dataset(out / "runs" / "generated" / "scores").to_table(filter=ds.field("group") == f"group-{group}")
    table = table.sort_by("image_id")
    return np.stack(table["patch_map"].to_pylist())


def expected(group: int, radius: int | None) -> np.ndarray:
    """Patch maps by loops in float64, of the stored float16 tokens."""
    spec = {"layers": 2, "planted": 0, "shuffled": []} | SPEC
    ids, _, layers = group_features(spec, group, range(spec["images"]))
    of_layers = []
    for tokens in layers:
        for degree in DEGREES:
            z = brute_force.lnamd(tokens, spec["grid"], degree)
            minima = brute_force.mutual_minima(z) if radius is None else brute_force.near_minima(z, (4, 5), radius)
            of_layers.append(brute_force.interval_average(minima, (0.0, 0.3)))
    return np.mean(of_layers, axis=0)[np.argsort(ids)]


@pytest.mark.parametrize("executor", ["process", "ray"])
def test_near_is_that_of_the_formulas_on_both_executors(tmp_path, shared_ray, executor):
    _, stages = score(tmp_path, executor, matching="near", radius=1)
    for group in range(2):
        np.testing.assert_allclose(patch_maps(tmp_path, group), expected(group, 1), atol=1e-4)
    pairs = 2 * 2 * 30 * 29 / 2  # groups, layers
    compared = 4 * 5 * (10 / 4) * (13 / 5)
    assert stages["mutual"]["operations"] == pytest.approx(2 * pairs * compared * 48 * len(DEGREES))


def test_a_broken_shard_in_a_sample_fails_its_group_alone(tmp_path):
    given = {"degrees": "1", "rescoring": "none", "executor": "process", "matching": "auto", "radius": 1}
    context, groups = generated_archive(str(tmp_path), SPEC | {"settings": given})
    for shard in tmp_path.glob("features/generated/group=group-0/shard-*"):
        shard.write_bytes(shard.read_bytes()[:-100])
    stages = {}
    with open_executor(ExecutorOptions.of(context.settings), Progress(quiet=True)) as opened:
        figures, failed = score_groups(context, opened, groups, NOW, Progress(quiet=True), stages)
    assert list(figures) == ["group-1"]
    assert isinstance(failed["group-0"], BrokenShardError)  # so that it is extracted again
    assert list(chosen_matching(context)) == ["group-1"]


@pytest.mark.parametrize("executor", ["process", pytest.param("ray", marks=pytest.mark.slow)])
def test_auto_decides_for_each_group_and_a_resumed_run_decides_nothing_anew(
    tmp_path, shared_ray, executor, monkeypatch
):
    context, stages = score(tmp_path, executor, matching="auto", radius=1)
    chosen = chosen_matching(context)
    assert [chosen[f"group-{group}"].radius for group in range(2)] == [1, None]
    assert [chosen[f"group-{group}"].images for group in range(2)] == [30, 30]
    assert stages["matching"]["seconds"] > 0
    first = [patch_maps(tmp_path, group) for group in range(2)]
    for group, radius in ((0, 1), (1, None)):
        np.testing.assert_allclose(first[group], expected(group, radius), atol=1e-4)

    def forget(*_: object) -> None:
        raise AssertionError("it is known")

    monkeypatch.setattr(matching_worker, "choose_matching", forget)
    monkeypatch.setattr(by_sample._Stored, "read", forget)
    context.out_paths.fs.rm(context.run_paths.work, recursive=True)
    score(tmp_path, matching="auto", radius=1)  # the run's own folder
    for group in range(2):
        np.testing.assert_array_equal(patch_maps(tmp_path, group), first[group])
    monkeypatch.undo()

    monkeypatch.setattr(matching_worker, "choose_matching", forget)
    context.out_paths.fs.rm(context.run_paths.folder, recursive=True)
    again, _ = score(tmp_path, matching="auto", radius=1)  # beside the features
    assert chosen_matching(again) == chosen
    monkeypatch.undo()

    other, _ = score(tmp_path / "small", matching="auto")
    assert all("saves much" in found.reason for found in chosen_matching(other).values())


def test_a_group_of_few_images_is_matched_anywhere(tmp_path, monkeypatch):
    monkeypatch.setattr(matching_driver, "MIN_IMAGES", 31)
    context, _ = score(tmp_path, matching="auto", radius=1)
    assert {found.radius for found in chosen_matching(context).values()} == {None}
    stored = [json.loads(path.read_text()) for path in tmp_path.glob("features/*/*/_matching*")]
    assert {found["images"] for found in stored} == {0}, "decided by a sample once there are more of them"


@pytest.mark.slow
def test_repeated_defects_are_left_out_near_their_place(tmp_path):
    """Images with the same defect score it as the only one that had it."""
    spec = {"images": 40, "grid": [6, 6], "shard_size": 9, "planted": 5}
    maps = {}
    for name, defects in (("with", False), ("without", True)):
        given = {"degrees": "1", "precision": "float32", "matching": "near", "repeated_defects": defects}
        context, groups = generated_archive(str(tmp_path / name), spec | {"settings": given | {"workers": 1}})
        with open_executor(ExecutorOptions.of(context.settings), Progress(quiet=True)) as opened:
            _, failed = score_groups(context, opened, groups, NOW, Progress(quiet=True), {})
        assert not failed
        maps[name] = patch_maps(tmp_path / name, 0)
    planted = [1, 5, 9, 13, 17]
    assert (maps["without"][planted, 0] > 1.3 * maps["with"][planted, 0]).all()
    good = [2, 3, 6, 7]
    np.testing.assert_allclose(maps["without"][good], maps["with"][good], atol=1e-5)


@pytest.mark.slow
def test_runs_and_nights_say_what_was_chosen_and_keep_it(tmp_path, invoke, tiny_weights):
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    cells = solar_cells(28)

    def deliver(count: int) -> None:
        for _ in range(count):
            path = cells.pop()
            Image.open(path).save(images / path.name)

    deliver(24)
    options = ["--backbone", "timm:vit_tiny_patch16_224", "--weights", tiny_weights, "--image-size", "64"]
    options += ["--precision", "float32", "--shard-size", "5", "--set", "workers=1"]
    result = invoke("run", images, out, *options, "--matching", "auto", "--set", "radius=1")
    assert result.exit_code == 0, result.output
    manifest = json.loads(next(out.glob("runs/*/run.json")).read_text())
    (chosen,) = manifest["matching"].values()
    assert chosen["images"] == 24
    where = "near, radius 1" if chosen["radius"] else "anywhere"
    assert f"Matching: {where}" in result.stdout.replace(",  in", ",")
    assert f"patches are matched {where}, since {chosen['reason']} (matching auto)." in " ".join(manifest["notes"])

    (stored,) = out.glob("features/*/*/_matching-*.json")
    other = {"radius": None if chosen["radius"] else 1, "reason": "a person said so", "images": 24, "figures": []}
    stored.write_text(json.dumps(other))
    deliver(4)
    night = invoke("rescore", out)
    assert night.exit_code == 0, night.output
    latest = max(out.glob("runs/*/run.json"), key=lambda path: path.stat().st_mtime)
    (kept,) = json.loads(latest.read_text())["matching"].values()
    assert kept == other
