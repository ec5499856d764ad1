"""Known good images bound the scores of others, defective ones are nobody's reference: stages against loops."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pytest

from musc_ray.core import patch_scores
from musc_ray.features.context import RunContext
from musc_ray.features.ignored import GroupMasks
from musc_ray.features.known_good import Roles
from musc_ray.runtime.executor import open_executor
from musc_ray.runtime.options import ExecutorOptions
from musc_ray.runtime.progress import Progress
from musc_ray.scoring import tile_driver
from musc_ray.scoring.band_reducer import BandReducer
from musc_ray.scoring.driver import score_groups
from musc_ray.scoring.patch_maps import set_maps_of
from musc_ray.scoring.ring import GroupImages
from musc_ray.scoring.scored_groups import scorable_groups
from tests.helpers import brute_force
from tests.helpers.generated import DEFAULTS, crop_features, crop_grid, generated_archive, group_features
from tests.integration.test_crop_references import CROPS, DEGREES, GRID, NOW, PLACES

SPEC = {**DEFAULTS, "images": 14, "grid": [4, 5], "channels": 24, "shard_size": 3}
SETTINGS = {"degrees": "1,3", "precision": "float32", "rescoring": "none", "executor": "process", "workers": 1}
GOOD, DEFECTIVE = (0, 1, 2, 7), (4, 13)
"""Images that are known good, one shard of them whole, and that are set aside, one alone in its shard."""


def scored(
    out: Path, spec: dict = SPEC, good=GOOD, defective=DEFECTIVE, masks=None, **settings
) -> tuple[RunContext, GroupImages]:
    """Score a generated group whose images have these roles; the bands stay."""
    if masks:
        settings["ignore"] = "given"
    context, _ = generated_archive(str(out), spec | {"settings": SETTINGS | settings})
    ids = np.array(sorted(image.image_id for images in context.groups["group-0"].all.values() for image in images))
    roles = {
        name: {"group-0": frozenset(ids[list(chosen)].tolist())} if len(chosen) else {}
        for name, chosen in (("known_good", good), ("defective", defective))
    }
    context = replace(context, masks=masks or {}, roles=Roles(**roles))
    groups, failed = scorable_groups(context, [])
    assert not failed
    with open_executor(ExecutorOptions.of(context.settings), Progress(quiet=True)) as opened:
        _, failed = score_groups(context, opened, groups, NOW, Progress(quiet=True), {})
    assert not failed
    return context, groups[0]


def maps(context: RunContext, group: GroupImages, sets=None) -> dict[int, np.ndarray]:
    """Patch maps of every place by row of the sorted ids, of the scored images."""
    group = group.all_scored()
    group = replace(group, sets=sets or group.sets)
    ids = [image_id for shard in group.ring for image_id in shard.ids]
    found: dict[int, list[np.ndarray]] = {}
    for shard in group.ring:
        of_shard = set_maps_of(context.run_paths, group, shard, context.meta.layers)
        for patch_set in group.sets:
            for column, place in enumerate(patch_set.places):
                found.setdefault(place, []).append(of_shard[patch_set.number][:, column])
    return {place: np.concatenate(parts)[np.argsort(ids)].reshape(len(ids), -1) for place, parts in found.items()}


def bounded(minima: np.ndarray, good=GOOD, defective=DEFECTIVE) -> np.ndarray:
    """The formula, image by image: interval average over the mutual images, and the nearest known good one."""
    n = len(minima)
    mutual = [i for i in range(n) if i not in good and i not in defective]
    rows = []
    for i in range(n):
        if i in good:
            continue
        others = [j for j in mutual if j != i]
        k = max(1, int(0.3 * len(others)))
        average = np.sort(minima[i][:, others], axis=1)[:, :k].mean(axis=1)
        if len(good):
            nearest = minima[i][:, list(good)].min(axis=1)
            average = brute_force.with_known_good(average[None], nearest[None], len(good))[0]
        rows.append(average)
    return np.stack(rows)


def with_good_ones(minima: np.ndarray, good=GOOD, defective=DEFECTIVE) -> np.ndarray:
    """As `bounded`, the known good images scored like the others, each against the other known good ones."""
    rest, rows = [i for i in range(len(minima)) if i not in good], np.zeros(minima.shape[:2])
    rows[rest] = bounded(minima, good, defective)
    mutual = [i for i in rest if i not in defective]
    for i in good:
        average = np.sort(minima[i][:, mutual], axis=1)[:, : max(1, int(0.3 * len(mutual)))].mean(axis=1)
        nearest = minima[i][:, [j for j in good if j != i]].min(axis=1)
        rows[i] = brute_force.with_known_good(average[None], nearest[None], len(good))[0]
    return rows


def expected(
    spec: dict = SPEC, good=GOOD, defective=DEFECTIVE, minima_of=brute_force.mutual_minima, formula=bounded
) -> np.ndarray:
    ids, _, wholes = group_features(spec, 0, range(spec["images"]))
    order = np.argsort(ids)
    vectors = [brute_force.lnamd(layer[order], tuple(spec["grid"]), degree) for layer in wholes for degree in DEGREES]
    return np.mean([formula(minima_of(z), good, defective) for z in vectors], axis=0)


@pytest.mark.parametrize("executor", ["process", pytest.param("ray", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("good", "defective"), [(GOOD, DEFECTIVE), (GOOD, ()), ((), DEFECTIVE), ((), ())])
def test_scores_are_those_of_the_formula(tmp_path, shared_ray, good, defective, executor):
    context, group = scored(tmp_path, good=good, defective=defective, executor=executor)
    np.testing.assert_allclose(maps(context, group)[0], expected(good=good, defective=defective), atol=1e-5)
    table = ds.dataset(context.run_paths.scores).to_table()
    assert len(table) == SPEC["images"] - len(good)
    assert sorted(table["rank"].to_pylist()) == list(range(1, len(table) + 1))


def test_without_known_good_images_the_bands_are_those_of_before(tmp_path):
    """The minimum is taken of each degree before the mean, so that nothing is taken where there is nothing."""
    spec = SPEC | {"images": 9}
    context, group = scored(tmp_path, spec, good=(), defective=())
    tokens = group_features(spec, 0, range(9))
    layers = [layer[np.argsort(tokens[0])] for layer in tokens[2]]
    np.testing.assert_allclose(maps(context, group)[0], brute_force.patch_maps(layers, GRID, DEGREES), atol=1e-5)


def test_sixteen_known_good_images_are_all_that_counts_where_they_explain_an_image(tmp_path):
    spec, good = SPEC | {"images": 22}, tuple(range(16))
    context, group = scored(tmp_path, spec, good, ())
    found, wanted = maps(context, group)[0], expected(spec, good, ())
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_known_good_images_are_scored_where_that_is_asked_for(tmp_path):
    context, group = scored(tmp_path, score_known_good=True)
    np.testing.assert_allclose(maps(context, group)[0], expected(formula=with_good_ones), atol=1e-5)
    assert len(ds.dataset(context.run_paths.scores).to_table()) == SPEC["images"]


@pytest.mark.parametrize("shard_size", [14, 5, 1])
def test_shards_change_nothing(tmp_path, shard_size):
    context, group = scored(tmp_path, SPEC | {"shard_size": shard_size}, rescoring="rscon")
    np.testing.assert_allclose(maps(context, group)[0], expected(), atol=1e-5)


def test_near_stays_near(tmp_path):
    context, group = scored(tmp_path, matching="near", radius=1)
    near = expected(minima_of=lambda z: brute_force.near_minima(z, GRID, 1))
    np.testing.assert_allclose(maps(context, group)[0], near, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "tolerance"), [({"precision": "bfloat16"}, 1e-2), ({"precision": "int8"}, 1.5e-2)]
)
def test_low_precision_is_within_its_tolerance(tmp_path, settings, tolerance):
    context, group = scored(tmp_path, **settings)
    np.testing.assert_allclose(maps(context, group)[0], expected(), atol=tolerance)


@pytest.mark.parametrize("meeting", ["same", "all"])
def test_crops_are_bounded_by_crops(tmp_path, meeting):
    context, group = scored(tmp_path, crops=CROPS, crop_references=meeting)
    found = maps(context, group)
    np.testing.assert_allclose(found[0], expected(), atol=1e-5)
    ids = group_features(SPEC, 0, range(SPEC["images"]))[0]
    images, grid = range(SPEC["images"]), crop_grid(SPEC)
    crops = [
        layer.reshape(len(ids), PLACES, *layer.shape[1:])[np.argsort(ids)]
        for layer in crop_features(SPEC, 0, images, PLACES)
    ]
    parts = []
    for layer in crops:
        for degree in DEGREES:
            z = brute_force.lnamd(layer.reshape(-1, *layer.shape[2:]), grid, degree)
            if meeting == "all":
                parts.append(bounded(brute_force.minima_over_places(z, PLACES)))
            else:
                by_place = z.reshape(len(ids), PLACES, *z.shape[1:])
                each = [bounded(brute_force.mutual_minima(by_place[:, place])) for place in range(PLACES)]
                parts.append(np.concatenate(each, axis=1))
    wanted = np.split(np.mean(parts, axis=0), PLACES, axis=1)
    for place in range(PLACES):
        np.testing.assert_allclose(found[place + 1], wanted[place], atol=1e-5)


def test_masked_patches_of_known_good_images_do_not_count(tmp_path):
    mask = np.zeros((8, 10), bool)
    mask[:4, :5] = True
    context, group = scored(tmp_path, masks={"group-0": GroupMasks(mask, {})})
    found = maps(context, group)[0]
    kept = ~np.isnan(found[0])
    assert 0 < kept.sum() < kept.size
    wanted = expected(minima_of=lambda z: brute_force.mutual_minima(z[:, kept]))
    np.testing.assert_allclose(found[:, kept], wanted, atol=1e-5)


def test_many_references_are_summarised(tmp_path, monkeypatch):
    for module in (patch_scores, tile_driver):
        monkeypatch.setattr(module, "MAX_EXACT_REFERENCES", 8)
    spec = SPEC | {"images": 24}
    context, group = scored(tmp_path, spec, defective=())
    exact = expected(spec, defective=())
    np.testing.assert_allclose(maps(context, group)[0], exact, atol=5e-3)


def test_images_aside_are_scored_against_as_many_references_as_others(tmp_path):
    context, group = scored(tmp_path, references=4)
    everything = maps(context, group)[0]
    assert not np.isnan(everything).any()
    again = maps(*scored(tmp_path / "again", references=4))[0]
    np.testing.assert_array_equal(everything, again)
    ids, all_others = sorted(i for s in group.all_scored().ring for i in s.ids), expected()
    aside = [ids.index(i) for shard in group.aside for i in shard.ids]
    assert not np.allclose(everything[aside], all_others[aside], atol=1e-6)
    assert np.abs(everything[aside] - all_others[aside]).max() < 0.2


def test_a_stopped_run_continues_where_it_was(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("stopped")

    with monkeypatch.context() as patched:
        patched.setattr(BandReducer, "write", fail)
        with pytest.raises(AssertionError):
            scored(tmp_path)
    context, group = scored(tmp_path)
    written = sorted(Path(context.run_paths.work).glob("known_good/**/*.npy"))
    times = {path: path.stat().st_mtime_ns for path in written}
    for path in Path(context.run_paths.work).glob("bands/**/*.npy"):
        path.unlink()
    _, group = scored(tmp_path)
    assert times == {path: path.stat().st_mtime_ns for path in written}
    np.testing.assert_allclose(maps(context, group)[0], expected(), atol=1e-5)


def test_a_group_without_images_to_score_says_why(tmp_path):
    context, _ = generated_archive(str(tmp_path), SPEC | {"groups": 2, "settings": SETTINGS})
    ids = {name: [i.image_id for images in g.all.values() for i in images] for name, g in context.groups.items()}
    context = replace(context, roles=Roles({"group-0": frozenset(ids["group-0"])}))
    groups, failed = scorable_groups(context, [])
    assert [group.group for group in groups] == ["group-1"]
    assert failed["group-0"] == "All 14 readable images of group 'group-0' are known good: none is left to score."
    context = replace(context, roles=Roles({"group-0": frozenset(ids["group-0"][1:])}))
    _, failed = scorable_groups(context, [])
    assert failed["group-0"].startswith("Group 'group-0' has 1 readable image beside 13 known good ones: at least 2")
    assert json.dumps(failed)
