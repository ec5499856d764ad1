"""The whole path on real pictures: exact against the brute force, resumable, and clear about bad input."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import Result
from safetensors.torch import save_file

from tests.helpers import brute_force
from tests.helpers.pictures import write_broken_pictures, write_odd_pictures, write_pictures

MODEL = "timm:vit_tiny_patch16_224"
TOLERANCE = {"patch_map": 1e-4, "score_raw": 1e-4, "score": 1e-3}


def musc_ray_process(*arguments: object) -> subprocess.CompletedProcess:
    """The command as a user runs it, with a Ray of its own."""
    command = [sys.executable, "-m", "musc_ray.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="session")
def musc_ray(invoke):
    """The same command in this process, on the shared Ray."""
    return invoke


@pytest.fixture(scope="session")
def options(tiny_weights) -> list[object]:
    """A small model at a small, non-square image size, in exact arithmetic."""
    return [
        "--backbone",
        MODEL,
        "--weights",
        tiny_weights,
        "--image-size",
        "64,96",
        "--precision",
        "float32",
        "--model-precision",
        "float32",
        "--set",
        "workers=1",
    ]


@pytest.fixture(scope="session")
def archive(tmp_path_factory) -> Path:
    """40 real pictures of many sizes, formats and modes, some of every odd kind."""
    folder = tmp_path_factory.mktemp("archive")
    write_pictures(folder, 28)
    write_odd_pictures(folder / "odd")
    return folder


class Runs(dict[int, Path]):
    """Where the archive is scored, by shard size; it is scored when it is first asked for."""

    def __init__(self, score: Callable[[int], Path]) -> None:
        self.score = score

    def __missing__(self, shard_size: int) -> Path:
        self[shard_size] = self.score(shard_size)
        return self[shard_size]


@pytest.fixture(scope="session")
def runs(tmp_path_factory, archive, options, musc_ray) -> Runs:
    """The archive in shards of 5, by a process of its own as a user runs it, and of 16."""

    def score(shard_size: int) -> Path:
        out = tmp_path_factory.mktemp(f"out{shard_size}")
        command = musc_ray_process if shard_size == 5 else musc_ray
        result = command("run", archive, out, *options, "--shard-size", shard_size)
        assert "40 images scored" in result.stdout, result.stderr
        return out

    return Runs(score)


each_run = pytest.mark.parametrize("shard_size", [5, pytest.param(16, marks=pytest.mark.slow)])


def only_run(out: Path) -> Path:
    (run,) = (out / "runs").iterdir()
    return run


def scores_of(out: Path) -> pa.Table:
    return ds.dataset(only_run(out) / "scores", format="parquet").to_table()


def by_id(out: Path) -> dict[str, dict]:
    return {row["image_id"]: row for row in scores_of(out).to_pylist()}


@each_run
def test_scores_equal_the_brute_force_over_the_stored_features(runs, shard_size):
    out = runs[shard_size]
    (folder,) = out.glob("features/*/group=all")
    assert len(list(folder.glob("shard-*.parquet"))) == -(-40 // shard_size)
    expected = brute_force.score_features_folder(folder)
    rows = by_id(out)
    assert set(rows) == set(expected)
    assert len(rows) == 40
    for image_id, row in rows.items():
        for name, tolerance in TOLERANCE.items():
            np.testing.assert_allclose(row[name], getattr(expected[image_id], name), atol=tolerance)


@pytest.mark.slow
def test_another_aggregation_is_another_run_on_the_same_features(runs, musc_ray, archive, options, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(runs[5], out)
    plain = only_run(out)
    command = ["run", archive, out, *options, "--shard-size", "5"]
    before = snapshot(out)
    result = musc_ray(*command, "--aggregation", "snamd")
    assert result.exit_code == 0, result.stderr
    (other,) = set((out / "runs").iterdir()) - {plain}
    run = json.loads((other / "run.json").read_text())
    assert run["settings"]["aggregation"] == "snamd"
    assert json.loads((plain / "run.json").read_text())["settings"]["aggregation"] == "lnamd"
    assert {path: snapshot(out)[path] for path in before} == before, "features are shared, the other run is as it was"
    expected = brute_force.score_features_folder(next(out.glob("features/*/group=all")), aggregation="snamd")
    rows = {row["image_id"]: row for row in ds.dataset(other / "scores", format="parquet").to_table().to_pylist()}
    assert set(rows) == set(expected)
    for image_id, row in rows.items():
        for name, tolerance in TOLERANCE.items():
            np.testing.assert_allclose(row[name], getattr(expected[image_id], name), atol=tolerance)
    assert "already complete" in musc_ray(*command, "--set", "aggregation=snamd").stdout
    assert plain.name in musc_ray(*command).stdout


@pytest.mark.slow
def test_shard_size_changes_nothing(runs):
    small, large = by_id(runs[5]), by_id(runs[16])
    for image_id, row in small.items():
        np.testing.assert_allclose(row["patch_map"], large[image_id]["patch_map"], atol=1e-6)
        np.testing.assert_allclose(row["score"], large[image_id]["score"], atol=1e-6)
        # some pictures are the same one in another mode: their scores are as good as equal, and may change places
        beaten_by = sum(other["score"] > row["score"] + 1e-6 for other in small.values())
        not_worse = sum(other["score"] >= row["score"] - 1e-6 for other in small.values())
        assert beaten_by < large[image_id]["rank"] <= not_worse


def test_the_scores_table_is_the_contract(runs):
    path = next((only_run(runs[5]) / "scores").glob("*.parquet"))
    schema = {field.name: str(field.type).replace("item", "element") for field in pq.read_schema(path)}
    assert schema == {
        "image_id": "string", "uri": "string", "group": "string", "run_id": "string",
        "scored_at": "timestamp[us, tz=UTC]", "score_raw": "float", "score": "float", "rank": "int32",
        "percentile": "float", "grid_h": "int16", "grid_w": "int16", "patch_map": "list<element: float>",
        "defect_group": "int32", "height": "int32", "width": "int32", "peak_y": "int32", "peak_x": "int32",
    }  # fmt: skip
    rows = scores_of(runs[5]).to_pylist()
    assert sorted(row["rank"] for row in rows) == list(range(1, 41))
    worst_first = sorted(rows, key=lambda row: (-row["score"], row["image_id"]))
    assert [row["rank"] for row in worst_first] == list(range(1, 41))
    assert {(row["grid_h"], row["grid_w"], len(row["patch_map"])) for row in rows} == {(4, 6, 24)}
    assert {row["run_id"] for row in rows} == {only_run(runs[5]).name}
    assert max(row["percentile"] for row in rows) == 100.0


def test_run_json_and_report_are_there_and_intermediate_results_are_not(runs):
    run = only_run(runs[5])
    content = json.loads((run / "run.json").read_text())
    assert content["counts"]["scored"] == 40
    assert content["settings"]["shard_size"] == 5
    assert content["resolved"]["layers"] == [2, 5, 8, 11]
    assert set(content["stages"]) == {"catalog", "extract", "mutual", "reduce", "rank", "report"}
    assert not (run / "work").exists()
    assert not list(run.rglob("*.partial"))
    page = (run / "report" / "index.html").read_text()
    assert run.name in page
    assert (run / "report" / "group-1.html").exists()
    assert len(list((run / "report" / "data" / "group-1").glob("picture-*.jpg"))) == 24
    assert pq.read_table(run / "errors").num_rows == 0
    assert pq.read_table(run / "catalog.parquet").num_rows == 40


@each_run
def test_neighbours_are_the_most_similar_images_by_class_token(runs, shard_size):
    """Against all cosines; of equal ones any order will do."""
    for out in (runs[shard_size],):
        (features,) = out.glob("features/*/group=all")
        tokens = {
            row["image_id"]: np.frombuffer(row["class_token"], "<f4").astype(np.float64)
            for row in ds.dataset(features, format="parquet").to_table(columns=["image_id", "class_token"]).to_pylist()
        }
        unit = {image_id: token / np.linalg.norm(token) for image_id, token in tokens.items()}
        folder = only_run(out) / "neighbours"
        assert {path.name for path in folder.iterdir()} == {path.name for path in (only_run(out) / "scores").iterdir()}
        rows = ds.dataset(folder, format="parquet").to_table().to_pylist()
        assert {row["image_id"] for row in rows} == set(unit)
        for row in rows:
            own = unit[row["image_id"]]
            others = sorted((float(own @ other) for i, other in unit.items() if i != row["image_id"]), reverse=True)
            assert len(set(row["neighbours"])) == 2
            assert row["image_id"] not in row["neighbours"]
            np.testing.assert_allclose(row["similarities"], others[:2], atol=1e-5)
            np.testing.assert_allclose([own @ unit[i] for i in row["neighbours"]], others[:2], atol=1e-5)


@pytest.mark.slow
def test_a_report_is_written_again_for_the_run_that_was_scored_last(runs, musc_ray):
    out = runs[5]
    report, run_json = only_run(out) / "report", (only_run(out) / "run.json").read_bytes()
    result = musc_ray("report", out, "--quiet", "--set", "report_images=3")
    assert result.exit_code == 0, result.stderr
    assert str(report / "index.html") in result.stdout
    assert len(list((report / "data" / "group-1").glob("picture-*.jpg"))) == 3, "nothing of the older one is left"
    assert (only_run(out) / "run.json").read_bytes() == run_json
    again = musc_ray("report", out, "--quiet", "--run-id", only_run(out).name)
    assert again.exit_code == 0, again.stderr
    assert len(list((report / "data" / "group-1").glob("picture-*.jpg"))) == 24


def test_reports_that_cannot_be_written_are_refused_in_a_sentence(runs, musc_ray, tmp_path):
    for arguments, says, code in (
        ([tmp_path / "nothing"], "There is no complete run in", 1),
        ([runs[5], "--run-id", "other"], "no complete run other", 1),
        ([runs[5], "--set", "degrees=1"], "Setting 'degrees' has no effect on `musc-ray report`", 2),
    ):
        result = musc_ray("report", *arguments, "--quiet")
        assert (result.exit_code, says in result.stderr) == (code, True), result.stderr
        assert "Traceback" not in result.stderr


def snapshot(out: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_running_again_computes_nothing_and_overwrite_everything(musc_ray, tmp_path, archive, options):
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted(archive.rglob("cell*"))[:6]:
        shutil.copy2(path, few)
    out = tmp_path / "out"
    command = ["run", few, out, *options, "--shard-size", "4"]
    assert musc_ray(*command).exit_code == 0
    first, scores = snapshot(out), by_id(out)
    again = musc_ray(*command)
    assert again.exit_code == 0
    assert "already complete" in again.stdout
    assert snapshot(out) == first
    assert musc_ray(*command, "--overwrite").exit_code == 0
    second = snapshot(out)
    assert set(second) == set(first)
    assert all(second[path] != first[path] for path in first)
    for image_id, row in by_id(out).items():
        np.testing.assert_allclose(row["score"], scores[image_id]["score"], atol=1e-6)
    # a later run with one more picture extracts only that one
    shutil.copy2(sorted(archive.rglob("cell*"))[10], few)
    assert musc_ray(*command).exit_code == 0
    kept = [path for path in second if "/features/" in path]
    assert all(snapshot(out)[path] == second[path] for path in kept)
    assert len(list(out.glob("features/*/*/shard-*.parquet"))) == len(kept) + 1
    assert "complete" in musc_ray("status", out).stdout


@pytest.mark.slow
def test_broken_images_are_rows_and_the_others_are_scored(musc_ray, tmp_path, archive, options):
    mixed = tmp_path / "mixed"
    shutil.copytree(archive, mixed)
    broken = write_broken_pictures(mixed / "broken")
    out = tmp_path / "out"
    result = musc_ray("run", mixed, out, *options, "--set", "max_error_fraction=0.1")
    assert result.exit_code == 0, result.stderr
    errors = pq.read_table(only_run(out) / "errors").to_pylist()
    assert sorted(row["uri"].rsplit("/", 1)[1] for row in errors) == [path.name for path in broken]
    assert {row["stage"] for row in errors} == {"extract"}
    assert all(row["message"] and row["error"] == "ImageError" for row in errors)
    assert len(by_id(out)) == 40
    too_many = musc_ray("run", mixed, tmp_path / "strict", *options, "--max-error-fraction", "0.01")
    assert too_many.exit_code == 1
    assert "max_error_fraction" in too_many.stderr
    assert "3 of 43" in too_many.stderr


@pytest.mark.slow
def test_groups_are_scored_apart_and_a_group_of_one_is_named(musc_ray, tmp_path, archive, options):
    grouped = tmp_path / "grouped"
    pictures = sorted(archive.rglob("cell*"))
    for name, some in {"bolts": pictures[:4], "nuts": pictures[4:7], "odd one": pictures[7:8]}.items():
        (grouped / name).mkdir(parents=True)
        for path in some:
            shutil.copy2(path, grouped / name)
    out = tmp_path / "out"
    result = musc_ray("run", grouped, out, *options, "--group-by", "{group}/**")
    assert result.exit_code == 1
    assert "Group 'odd one' has 1 readable image" in result.stderr
    rows = scores_of(out).to_pylist()
    assert {group: sum(row["group"] == group for row in rows) for group in ("bolts", "nuts")} == {"bolts": 4, "nuts": 3}
    expected = brute_force.score_features_folder(next(out.glob("features/*/group=nuts")))
    for row in rows:
        if row["group"] == "nuts":
            np.testing.assert_allclose(row["score_raw"], expected[row["image_id"]].score_raw, atol=1e-4)


def sentence(result: Result) -> str:
    """The one line that a failed command ends with."""
    assert "Traceback" not in result.stderr
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("Error: ")
    return last


def test_one_image_in_all(musc_ray, tmp_path, archive, options):
    result = musc_ray("run", sorted(archive.rglob("cell*"))[0], tmp_path / "out", *options)
    assert result.exit_code == 1
    assert "at least 2" in sentence(result)


def test_an_empty_folder(musc_ray, tmp_path, options):
    (tmp_path / "empty").mkdir()
    result = musc_ray("run", tmp_path / "empty", tmp_path / "out", *options)
    assert result.exit_code == 1
    assert f"No images found in {tmp_path / 'empty'}" in sentence(result)


def test_an_unwritable_out(musc_ray, tmp_path, archive, options):
    (tmp_path / "file").write_text("")
    result = musc_ray("run", archive, tmp_path / "file" / "out", *options)
    assert result.exit_code == 1
    assert "Cannot write to" in sentence(result)


def test_a_missing_weights_file(musc_ray, tmp_path, archive):
    result = musc_ray("run", archive, tmp_path / "out", "--backbone", MODEL, "--weights", tmp_path / "no.safetensors")
    assert result.exit_code == 1
    assert "no.safetensors" in sentence(result)


def test_weights_of_another_shape(musc_ray, tmp_path, archive, options):
    path = tmp_path / "other.safetensors"
    save_file({"cls_token": torch.zeros(1, 1, 7)}, path)
    arguments = [path if value == options[3] else value for value in options]
    result = musc_ray("run", archive, tmp_path / "out", *arguments)
    assert result.exit_code == 1
    assert "does not fit timm:vit_tiny_patch16_224" in sentence(result)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "shard_sze=3"], "did you mean 'shard_size'"),
        (["--precision", "float23"], "float32"),
        (["--backbone", "dinov2-vit-s14"], "dinov2-vit-s-14"),
        (["--image-size", "65"], "try 64 or 80"),
        (["--layers", "2,40"], "layers 0 to 11"),
        (["--degrees", "2"], "degrees"),
        (["--aggregation", "snmad"], "did you mean 'snamd'"),
    ],
)
def test_settings_errors_are_one_sentence_and_exit_code_2(musc_ray, tmp_path, archive, options, arguments, words):
    result = musc_ray("run", archive, tmp_path / "out", *options, *arguments)
    assert result.exit_code == 2
    assert words in sentence(result)
    assert not (tmp_path / "out" / "features").exists()


def test_plan_prints_the_cost_and_writes_nothing(musc_ray, tmp_path, archive):
    result = musc_ray("plan", archive, "--backbone", MODEL, "--image-size", "64", "--shard-size", "16")
    assert result.exit_code == 0, result.stderr
    assert "40 in 1 group" in result.stdout
    assert "24" in result.stdout  # 6 tiles, 4 layers
    assert "Assumed" in result.stdout
    assert "measured on 8 images" in " ".join(result.stdout.split())


@pytest.mark.slow
def test_plan_for_a_kind_of_gpu_names_what_is_assumed_and_what_does_not_fit(musc_ray, tmp_path):
    """A table of 200,000 images that are not there."""
    table = pa.table({"uri": [f"made-up://plant/{n}.png" for n in range(200_000)]})
    pq.write_table(table, tmp_path / "many.parquet")
    options = ["--backbone", "clip-vit-l-14-336", "--gpu", "h100", "--workers", "64"]
    result = musc_ray("plan", tmp_path / "many.parquet", *options)
    assert result.exit_code == 0, result.output
    words = " ".join(result.stdout.split())
    assert "200,000 in 1 group" in words
    assert "19,999,900,000 (references all)" in words
    assert "References all do not fit" in words
    assert "cannot be read" in words
    assert "64 workers" in words
    result = musc_ray("plan", tmp_path / "many.parquet", *options, "--references", "256")
    assert "25,600,000 (references 256)" in " ".join(result.stdout.split())
    assert "do not fit" not in result.stdout
    pasted = musc_ray("plan", tmp_path / "many.parquet", tmp_path / "out", *options, "--threshold", "0.3", "--json")
    assert pasted.exit_code == 0, pasted.stderr
    document = json.loads(pasted.stdout)
    assert (document["images"], document["references"], document["fits"]) == (200_000, "all", False)
    assert not (tmp_path / "out").exists()


def test_all_references_that_do_not_fit_are_refused_before_any_work(musc_ray, tmp_path, options):
    (tmp_path / "images.csv").write_text("uri\n" + "".join(f"/gone/{n}.png\n" for n in range(200_000)))
    result = musc_ray("run", tmp_path / "images.csv", tmp_path / "out", *options, "--set", "max_pending_gb=10")
    assert result.exit_code == 2
    assert "Group 'all' has 200,000 images" in sentence(result)
    assert "--references 256" in sentence(result)
    assert not list((tmp_path / "out").glob("runs/*"))


def test_status_shows_how_far_a_failed_run_came(musc_ray, tmp_path, options):
    (tmp_path / "images").mkdir()
    write_pictures(tmp_path / "images", 5)
    write_broken_pictures(tmp_path / "images")
    result = musc_ray("run", tmp_path / "images", tmp_path / "out", *options, "--set", "max_error_fraction=0.01")
    assert result.exit_code == 1
    status = musc_ray("status", tmp_path / "out")
    assert re.search(r"^extract: done after .* images", status.stdout, flags=re.MULTILINE)


@pytest.mark.parametrize("verb", ["run", "plan", "status", "evaluate", "demo"])
def test_every_verb_has_help_with_an_example(musc_ray, verb):
    result = musc_ray(verb, "--help")
    assert result.exit_code == 0
    assert "Example" in result.stdout
    assert f"musc-ray {verb}" in result.stdout


@pytest.mark.slow
def test_the_demo_finds_the_defective_cells(musc_ray, tmp_path):
    result = musc_ray("demo", tmp_path / "demo")
    assert result.exit_code == 0, result.output
    content = json.loads((only_run(tmp_path / "demo") / "run.json").read_text())
    assert content["metrics"]["image AUROC"] >= 0.90
    assert f"image AUROC: {content['metrics']['image AUROC']:.4f}" in result.stdout
    assert "The 10 most anomalous images" in result.stdout
    assert result.stdout.count("cell") >= 10
    for name in ("Scores: ", "Report: "):
        (line,) = [line for line in result.stdout.splitlines() if line.startswith(name)]
        assert Path(line.removeprefix(name)).exists()


@pytest.mark.slow
def test_extract_then_score_is_a_run(tmp_path, options, musc_ray):
    write_pictures(tmp_path / "images", 6)
    run = musc_ray("run", tmp_path / "images", tmp_path / "whole", *options)
    assert run.exit_code == 0, run.output
    early = musc_ray("score", tmp_path / "images", tmp_path / "out", *options)
    assert early.exit_code == 1
    assert "6 of 6 images have no features" in early.stderr
    start = options.index("--precision")
    of_features = options[:start] + options[start + 2 :]
    extracted = musc_ray("extract", tmp_path / "images", tmp_path / "out", *of_features)
    assert "6 images extracted, 0 already done" in extracted.stdout, extracted.output
    assert not list((tmp_path / "out").glob("runs/*/scores"))
    again = musc_ray("extract", tmp_path / "images", tmp_path / "out", *of_features)
    assert "0 images extracted, 6 already done" in again.stdout
    scored = musc_ray("score", tmp_path / "images", tmp_path / "out", *options)
    assert scored.exit_code == 0, scored.output
    expected, rows = by_id(tmp_path / "whole"), by_id(tmp_path / "out")
    assert set(rows) == set(expected)
    for image_id, row in rows.items():
        assert row["score"] == pytest.approx(expected[image_id]["score"], abs=1e-6)
