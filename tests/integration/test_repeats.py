"""Repeated defects through the stages: found whole, scored again exactly, whatever the shards and resumes."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from PIL import Image

from musc_ray.report.build import write_report
from musc_ray.runtime.executor import open_executor
from musc_ray.runtime.options import ExecutorOptions
from musc_ray.runtime.progress import Progress
from musc_ray.scoring.defects.worker import ArrayCache, DefectWorker
from musc_ray.settings.loading import load_settings
from musc_ray.storage.parquet import write_table
from musc_ray.storage.paths import OutPaths
from musc_ray.storage.schemas import DEFECTS
from tests.helpers import brute_force, scored_run
from tests.helpers.generated import DEFAULTS, PLANTED_SIDE, generated_archive, group_features, score_generated

SPEC = {
    "images": 40,
    "grid": [8, 8],
    "channels": 24,
    "planted": 10,
    "settings": {"precision": "float32", "repeated_defects": True, "workers": 1},
}
PLANTED = [n for n in range(40) if n % 4 == 1]


@pytest.fixture(scope="module")
def runs(tmp_path_factory, shared_ray):
    """The archive scored in shards of 8 and of 15, and without looking for repeated defects."""
    outs = {}
    for name, changes in {
        "8": {},
        "15": {"shard_size": 15},
        "off": {"settings": {**SPEC["settings"], "repeated_defects": False}},
    }.items():
        out = str(tmp_path_factory.mktemp(f"shards-{name}"))
        stages = score_generated(out, SPEC | changes)
        assert not stages["failed"]
        outs[name] = out, stages
    return outs


def rows_of(out: str) -> list[dict]:
    """Rows of the scores table in the order of the images."""
    table = ds.dataset(f"{out}/runs/generated/scores", format="parquet").to_table()
    return sorted(table.to_pylist(), key=lambda row: row["image_id"])


@pytest.mark.slow
def test_the_images_with_the_planted_defect_are_one_group(runs):
    for name in ("8", "15"):
        out, stages = runs[name]
        groups = [row["defect_group"] for row in rows_of(out)]
        assert [n for n, group in enumerate(groups) if group == 1] == PLANTED
        assert set(groups) == {1, None}
        (found,) = stages["repeats"]["defects"]["group-0"]
        assert found["images"] == len(PLANTED)
        table = ds.dataset(f"{out}/runs/generated/defects", format="parquet").to_table().to_pylist()
        assert len(table) == len(PLANTED)
        assert sum(len(row["patches"]) for row in table) == found["patches"]
        for row in table:  # the planted square, or neighbourhoods that it is in
            assert all(max(divmod(patch, 8)) <= PLANTED_SIDE + 1 for patch in row["patches"])
    assert {row["defect_group"] for row in rows_of(runs["off"][0])} == {None}


@pytest.mark.slow
def test_shard_size_changes_nothing(runs):
    for one, other in zip(rows_of(runs["8"][0]), rows_of(runs["15"][0]), strict=True):
        np.testing.assert_allclose(one["patch_map"], other["patch_map"], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("aggregation", ["lnamd", "snamd"])
def test_scores_are_those_of_references_without_the_defects_patches(runs, tmp_path, aggregation):
    if aggregation == "lnamd":
        out, _ = runs["8"]
    else:
        out = str(tmp_path)
        score_generated(out, SPEC | {"settings": {**SPEC["settings"], "aggregation": aggregation}})
    _, (group,) = generated_archive(out, SPEC)
    _, _, features = group_features({**DEFAULTS, **SPEC}, 0, range(40))
    run_paths = OutPaths.at(out).run("generated")
    work = DefectWorker(run_paths, group, ArrayCache(run_paths.fs))
    ids = sorted(image_id for shard in group.ring for image_id in shard.ids)
    excluded, again = np.zeros((40, 64), bool), []
    for shard in group.ring:
        excluded[[ids.index(image_id) for image_id in shard.ids]] = work.excluded(shard.number)
        again += [ids.index(shard.ids[row]) for row in work.affected_images(shard.number)]
    assert excluded[PLANTED].any(axis=1).all()
    assert set(PLANTED) <= set(again) < set(range(40))
    without = expected_maps(features, excluded, aggregation)
    with_all = brute_force.patch_maps(features, (8, 8), aggregation=aggregation)
    rows = rows_of(out)
    for n in range(40):
        expected = without[n] if n in again else with_all[n]
        np.testing.assert_allclose(rows[n]["patch_map"], expected, atol=1e-4)
    assert (without[PLANTED, :3].min(axis=1) > 1.3 * with_all[PLANTED, :3].min(axis=1)).all()  # what it is all about


def expected_maps(features: list[np.ndarray], excluded: np.ndarray, aggregation: str) -> np.ndarray:
    """Patch maps (N, L) from all other images' patches that are not excluded."""
    maps = []
    for tokens in features:
        vectors = [brute_force.snamd(tokens, (8, 8), (1, 3, 5))]
        if aggregation == "lnamd":
            vectors = [brute_force.lnamd(tokens, (8, 8), degree) for degree in (1, 3, 5)]
        for z in vectors:
            minima = np.full((40, 64, 40), np.nan)
            for j in range(40):
                kept = z[j][~excluded[j]]
                for i in range(40):
                    if i != j:
                        minima[i, :, j] = np.sqrt(((z[i][:, None] - kept) ** 2).sum(axis=2)).min(axis=1)
            maps.append(brute_force.interval_average(minima, (0.0, 0.3)))
    return np.mean(maps, axis=0)


@pytest.mark.slow
def test_what_is_scored_again_is_taken_up(runs):
    out, _ = runs["15"]
    before, out_paths = rows_of(out), OutPaths.at(out)
    folder = out_paths.run("generated").rescored_bands("group-0", 1)
    kept, *lost = sorted(out_paths.written_shards(folder).values())
    for path in lost:
        out_paths.fs.rm(path)
    out_paths.fs.touch(kept, truncate=False)
    written = out_paths.fs.info(kept)["ino"]
    score_generated(out, SPEC | {"shard_size": 15})
    assert out_paths.fs.info(kept)["ino"] == written
    assert json.dumps(rows_of(out), default=str).count("null") == json.dumps(before, default=str).count("null")
    for one, other in zip(rows_of(out), before, strict=True):
        assert one["patch_map"] == other["patch_map"]


@pytest.mark.slow
def test_fewer_references_find_it_too_in_pieces_of_the_ring(tmp_path, shared_ray):
    spec = SPEC | {"settings": {**SPEC["settings"], "references": 20}}
    stages = score_generated(str(tmp_path), spec)
    found = stages["repeats"]["defects"]["group-0"]
    assert [n for n, row in enumerate(rows_of(str(tmp_path))) if row["defect_group"] is not None] == PLANTED
    assert sum(defect["images"] for defect in found) == len(PLANTED)


def test_the_report_names_the_images_and_shows_the_patches_that_they_share(tmp_path, shared_ray):
    grey, uris = (128, 128, 128), []
    for number in range(12):
        path = tmp_path / f"part <{number}>.png"
        Image.new("RGB", (400, 200), grey).save(path)
        uris.append(str(path))
    out_paths = OutPaths.at(str(tmp_path / "out"))
    run = scored_run.write_run(out_paths, {"screws": uris, "nuts": uris[:3]}, (4, 8), repeated_defects={"screws": []})
    run_paths = out_paths.run(scored_run.RUN)
    files = run_paths.parts(run_paths.scores, "screws")
    table = ds.dataset(files, format="parquet").to_table(["image_id", "uri", "group"])
    rows = [{**row, "defect_group": 1, "patches": [0, 9]} for row in table.slice(2, 10).to_pylist()]
    path = run_paths.part(run_paths.defects, "screws", 0)
    write_table(out_paths.fs, path, pa.Table.from_pylist(rows, schema=DEFECTS))
    settings = load_settings(None, {"workers": 1, "report_images": 0})
    with open_executor(ExecutorOptions.of(settings), Progress(quiet=True)) as executor:
        write_report(out_paths, run, executor, settings, Progress(quiet=True))
    folder = tmp_path / "out" / "runs" / scored_run.RUN / "report"
    nuts, screws = ((folder / f"group-{number}.html").read_text() for number in (1, 2))
    assert "None was found" in nuts
    assert "Defect 1: these 10 images share it" in screws
    assert "part &lt;7&gt;.png" in screws
    assert screws.count('<a href="image.html#2/') == 10
    strip = Image.open(folder / "data" / "group-2" / "defect-001.jpg")
    assert strip.size == (8 * 320, 160)
    for place in range(8):  # patches of 40 x 40 pixels at (0, 0) and (1, 1)
        for x, y, marked in ((20, 20, True), (60, 60, True), (60, 20, False), (300, 140, False)):
            red, _, blue = strip.getpixel((320 * place + x, y))
            assert (red - blue > 30) == marked
