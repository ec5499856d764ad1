"""Verdicts from end to end: a run, what people say of it, what the next run makes of it; and an OUT in a bucket."""

import csv
import json
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.dataset as ds
import pytest
import s3fs

from musc_ray.core.labelled_threshold import labelled_threshold
from musc_ray.storage.paths import OutPaths
from musc_ray.storage.verdicts import latest_verdicts
from tests.helpers.judged_runs import id_of, uri_of, write_scored
from tests.helpers.pictures import write_pictures


def document(invoke, *arguments: object) -> dict:
    result = invoke("verdicts", *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def write_verdicts(path: Path, rows: list[tuple[str, str]]) -> Path:
    """Write a file as the report downloads it."""
    at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image_id", "uri", "group", "verdict", "note", "who", "when"])
        writer.writerows([image_id, "", "", word, "", "", at] for image_id, word in rows)
    return path


class Plant:
    """A folder of pictures, an OUT, and the commands."""

    def __init__(self, invoke, weights: Path, folder: Path) -> None:
        self.invoke, self.folder, self.out = invoke, folder, folder / "out"
        write_pictures(folder / "images", 14)
        self.options = ["--backbone", "timm:vit_tiny_patch16_224", "--weights", weights, "--image-size", "64"]
        for setting in ("workers=1", "report_images=0", "report_thumbnails=0", "shard_size=4"):
            self.options += ["--set", setting]

    def command(self, *arguments: object) -> str:
        result = self.invoke(*arguments)
        assert result.exit_code == 0, result.output
        return " ".join(result.stdout.split())

    def run(self, *arguments: object) -> tuple[dict, dict[str, dict]]:
        """Score the pictures; returns run.json and the scores by image id."""
        self.command("run", self.folder / "images", self.out, *self.options, *arguments)
        return self.latest()

    def latest(self) -> tuple[dict, dict[str, dict]]:
        runs = [json.loads(path.read_text()) for path in self.out.glob("runs/*/run.json")]
        run = max(runs, key=lambda run: run["scored_at"])
        return run, self.scores(run["run_id"])

    def scores(self, run_id: str) -> dict[str, dict]:
        table = ds.dataset(self.out / "runs" / run_id / "scores", format="parquet").to_table()
        return {row["image_id"]: row for row in table.drop_columns(["patch_map"]).to_pylist()}


@pytest.fixture
def plant(invoke, tiny_weights, tmp_path) -> Plant:
    return Plant(invoke, tiny_weights, tmp_path)


@pytest.mark.slow
def test_what_people_say_of_a_run_gives_the_thresholds_of_this_and_the_next(plant, invoke, tmp_path):
    first, scores = plant.run()
    by_rank = sorted(scores.values(), key=lambda row: row["rank"])
    assert "is_anomalous" not in by_rank[0]
    assert first["raw_ranges"]["all"] == pytest.approx(
        [min(row["score_raw"] for row in by_rank), max(row["score_raw"] for row in by_rank)]
    )
    good, defective = by_rank[2:5], by_rank[:2]
    words = [(row["image_id"], "good") for row in good] + [(row["image_id"], "defective") for row in defective]
    table = write_verdicts(tmp_path / "verdicts.csv", words)
    assert document(invoke, plant.out, table)["imported"] == {"rows": 5, "stored": 5, "unknown": []}

    # the report marks the run that is complete
    expected = labelled_threshold([row["score"] for row in good + defective], [False] * 3 + [True] * 2)
    assert expected == pytest.approx((by_rank[1]["score"] + by_rank[2]["score"]) / 2)
    plant.command("report", plant.out)
    marked, scores = plant.latest()
    assert marked["run_id"] == first["run_id"]
    assert marked["labelled_thresholds"] == {"all": {"threshold": expected, "good": 3, "defective": 2}}
    assert {row["image_id"] for row in scores.values() if row["is_anomalous"]} == {row["image_id"] for row in defective}
    assert any("3 good, 2 defective" in note for note in marked["notes"])
    (group,) = document(invoke, plant.out)["groups"]
    assert (group["threshold"], group["threshold_source"]) == (expected, "verdicts")
    assert (group["precision"], group["recall"]) == (1.0, 1.0)

    # the next run does not score the good ones: their scores are those of the first, in its terms
    second, scores = plant.run()
    assert second["run_id"] != first["run_id"]
    assert not {row["image_id"] for row in good} & scores.keys()
    (low, high), (new_low, new_high) = first["raw_ranges"]["all"], second["raw_ranges"]["all"]
    earlier = [(low + row["score"] * (high - low) - new_low) / (new_high - new_low) for row in good]
    now = [scores[row["image_id"]]["score"] for row in defective]
    assert second["labelled_thresholds"]["all"]["good"] == 3
    assert second["thresholds"]["all"] == pytest.approx(labelled_threshold([*earlier, *now], [False] * 3 + [True] * 2))
    for row in scores.values():
        assert row["is_anomalous"] == (row["score"] >= second["thresholds"]["all"])

    # labels of the evaluation; nothing of it is garbage
    plant.command("evaluate", plant.out, "--run-id", first["run_id"], "--labels", "verdicts")
    metrics = (plant.out / "runs" / first["run_id"] / "evaluation" / "metrics.md").read_text()
    assert "verdicts" in metrics
    plant.command("gc", plant.out, "--delete")
    assert len(latest_verdicts(OutPaths.at(str(plant.out)))) == 5
    assert document(invoke, plant.out, table)["imported"]["stored"] == 0

    # a rule goes before verdicts, and no run is computed again for it
    ruled, scores = plant.run("--contamination", "0.3")
    assert ruled["run_id"] == second["run_id"]
    assert "labelled_thresholds" not in ruled
    assert sum(row["is_anomalous"] for row in scores.values()) == 3


def test_an_out_and_its_verdicts_may_lie_in_a_bucket(s3, invoke, monkeypatch):
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    s3.filesystem().mkdir("verdicts")
    out, table = "s3://verdicts/out", "s3://verdicts/verdicts.csv"
    out_paths = OutPaths.at(out)
    write_scored(out_paths, "run-1", {"a": {"w": 1.0, "x": 1.5, "z": 3.0}})
    at = "2026-03-05T12:00:00Z"
    rows = f"uri;verdict;when\n{uri_of('w')};good;{at}\n{uri_of('z')};defective;{at}\nx.png;good;{at}\n"
    s3.filesystem().pipe_file("verdicts/verdicts.csv", rows.encode())
    found = document(invoke, out, table)
    assert found["imported"] == {"rows": 3, "stored": 2, "unknown": ["x.png"]}
    assert found["groups"][0]["labelled_threshold"] == {"threshold": 0.5, "good": 1, "defective": 1}
    assert document(invoke, out, table)["imported"]["stored"] == 0
    assert set(latest_verdicts(out_paths)) == {id_of("w"), id_of("z")}
    assert [path.rpartition("/")[2][:9] for path in s3.filesystem().ls("verdicts/out/verdicts")] == ["verdicts-"]
    s3fs.S3FileSystem.clear_instance_cache()
