"""Nights after an archive run: what is new, the same scores as a run on the whole window, and what goes wrong."""

import csv
import json
import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from PIL import Image

from musc_ray.storage.lease import lease
from musc_ray.storage.paths import OutPaths
from tests.helpers.pictures import solar_cells

EQUAL = 1e-5
RESCORINGS = {"rscin": "RsCIN (k_list 1,2,3)", "rscon": "RsCon (k_list 1,2,3)", "none": "none (score is score_raw)"}
DAY = timedelta(days=1)


class Plant:
    """A folder that images come into, an OUT, and the commands."""

    def __init__(self, folder: Path, weights: Path, invoke) -> None:
        self.images, self.out, self.invoke = folder / "images", folder / "out", invoke
        self.cells = iter(solar_cells(60))
        self.options = ["--backbone", "timm:vit_tiny_patch16_224", "--weights", weights, "--image-size", "64"]
        self.options += [
            "--precision",
            "float32",
            "--model-precision",
            "float32",
            "--shard-size",
            "5",
            "--set",
            "workers=1",
            "--set",
            "report_images=2",
        ]

    def deliver(self, count: int, product: str = "cells", age: timedelta = timedelta()) -> list[Path]:
        """New images of a product, some days old."""
        folder = self.images / product
        folder.mkdir(parents=True, exist_ok=True)
        paths = [Path(shutil.copy(next(self.cells), folder)) for _ in range(count)]
        for path in paths:
            changed = (datetime.now(UTC) - age).timestamp()
            os.utime(path, (changed, changed))
        return paths

    def run(self, source: object, out: object, *more: object) -> str:
        result = self.invoke("run", source, out, *self.options, *more)
        assert result.exit_code == 0, result.output
        return result.stdout

    def night(self, *more: object, code: int = 0) -> str:
        result = self.invoke("rescore", self.out, "--set", "workers=1", *more)
        assert result.exit_code == code, result.output
        return " ".join((result.stdout + result.stderr).split())

    def runs(self) -> list[dict]:
        found = [json.loads(path.read_text()) for path in self.out.glob("runs/*/run.json")]
        return sorted(found, key=lambda run: run["scored_at"])

    def scores(self, run: dict | None = None) -> dict[str, dict]:
        run = run or self.runs()[-1]
        table = ds.dataset(self.out / "runs" / run["run_id"] / "scores", format="parquet").to_table()
        return {row["uri"]: row for row in table.to_pylist()}

    def window_of(self, run: dict) -> list[str]:
        table = pq.read_table(self.out / "runs" / run["run_id"] / "catalog.parquet")
        return table["uri"].to_pylist()


@pytest.fixture
def plant(tmp_path, tiny_weights, invoke) -> Plant:
    return Plant(tmp_path, tiny_weights, invoke)


def scores_of_a_whole_run(plant: Plant, uris: list[str], folder: Path) -> dict[str, dict]:
    """The scores of a run that holds just these images, from nothing."""
    table = folder / "window.csv"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([["uri"], *[[uri] for uri in uris]])
    plant.run(table, folder / "whole")
    (scores,) = (folder / "whole").glob("runs/*/scores")
    return {row["uri"]: row for row in ds.dataset(scores, format="parquet").to_table().to_pylist()}


@pytest.mark.slow
@pytest.mark.parametrize("rescoring", ["rscin", "rscon", "none"])
def test_nights_equal_a_run_on_the_whole_window(plant, tmp_path, rescoring):
    plant.options += ["--rescoring", rescoring]
    plant.deliver(14, age=3 * DAY)
    plant.run(plant.images, plant.out)
    for night in range(2):
        new = plant.deliver(4)
        text = plant.night("--references", 8)
        run, rows = plant.runs()[-1], plant.scores()
        assert f"4 new images against 8 earlier ones, drift {run['night']['all']['drift']:+.2f}" in text
        assert set(rows) == {path.as_uri() for path in new}
        assert run["stages"]["extract"]["images"] == 4
        assert run["counts"]["scored"] == 4
        assert run["settings"]["rescoring"] == rescoring
        assert f"rescoring {RESCORINGS[rescoring]}" in text
        assert (run["counts"]["listed"], run["counts"]["known"]) == (14 + 4 * (night + 1), 14 + 4 * night)
        assert sorted(row["rank"] for row in rows.values()) == [1, 2, 3, 4]
        window = plant.window_of(run)
        assert len(window) == 12
        (tmp_path / f"night{night}").mkdir()
        expected = scores_of_a_whole_run(plant, window, tmp_path / f"night{night}")
        earlier = sorted(row["score"] for uri, row in expected.items() if uri not in rows)
        for uri, row in rows.items():
            for name in ("score_raw", "score"):
                assert row[name] == pytest.approx(expected[uri][name], abs=EQUAL)
            assert row["patch_map"] == pytest.approx(expected[uri]["patch_map"], abs=EQUAL)
            lower = sum(score < row["score"] for score in earlier)
            assert row["percentile"] == pytest.approx(100 * lower / len(earlier), abs=100 * 0.5 / len(earlier) + 1e-3)
    assert len(plant.runs()) == 3


@pytest.mark.slow
def test_the_window_gets_new_scores_too(plant):
    plant.deliver(6, age=40 * DAY)
    recent = plant.deliver(6, age=10 * DAY)
    plant.run(plant.images, plant.out)
    new = plant.deliver(3)
    plant.night("--window", "30d", "--rescore-window")
    rows = plant.scores()
    assert set(rows) == {path.as_uri() for path in (*recent, *new)}
    assert sorted(row["rank"] for row in rows.values()) == list(range(1, 10))
    assert plant.runs()[-1]["night"]["all"]["window"] == 6
    counts = plant.runs()[-1]["counts"]
    assert (counts["listed"], counts["scored"], counts["known"]) == (15, 9, 6)


@pytest.mark.slow
def test_a_new_product_waits_until_there_are_two(plant):
    plant.deliver(6, "cells")
    plant.run(plant.images, plant.out, "--group-by", "{group}/**")
    first = plant.deliver(1, "tiles")
    assert "Group 'tiles': 1 new image waits for more of its kind. No new images to score." in plant.night()
    second = plant.deliver(1, "tiles")
    assert "Group tiles: 2 new images against 0 earlier ones" in plant.night()
    assert set(plant.scores()) == {path.as_uri() for path in (*first, *second)}
    assert plant.runs()[-1]["night"]["tiles"]["drift"] is None


@pytest.mark.slow
def test_nights_in_a_row(plant, monkeypatch):
    first = plant.deliver(8, age=9 * DAY)
    plant.run(plant.images, plant.out)

    # nothing came in
    assert "No new images to score." in plant.night()

    # a file that changed, one that came late, and one delivered again under another name
    shutil.copy(next(plant.cells), first[0])
    late = plant.deliver(1, age=20 * DAY)
    again = first[1].with_name("again.jpg")
    shutil.copy2(first[1], again)
    plant.night()
    assert set(plant.scores()) == {first[0].as_uri(), late[0].as_uri(), again.as_uri()}
    assert (plant.runs()[-1]["night"]["all"]["new"], plant.runs()[-1]["night"]["all"]["window"]) == (3, 7)
    assert len(plant.runs()) == 2

    # a night that fails, and leaves no lease behind
    new = plant.deliver(3)

    def broken(*_: object) -> None:
        raise OSError("the network is gone")

    with monkeypatch.context() as patch:
        patch.setattr("musc_ray.pipeline.score_all", broken)
        assert plant.invoke("rescore", plant.out, "--set", "workers=1").exit_code == 1
    out_paths = OutPaths.at(str(plant.out))
    assert not Path(out_paths.night_lease).exists()

    # two at once: the second is refused
    with lease(out_paths.fs, out_paths.night_lease, "A nightly run"):
        assert "Error: A nightly run has been at work" in plant.night(code=1)

    # the failed night is made up for, with what it extracted
    new += plant.deliver(2)
    plant.night()
    assert set(plant.scores()) == {path.as_uri() for path in new}
    assert plant.runs()[-1]["stages"]["extract"]["images"] == 2

    # what was changed since a day, scored before or not
    day = (datetime.now(UTC) - 3 * DAY).date()
    plant.night("--since", day)
    assert set(plant.scores()) == {path.as_uri() for path in (first[0], *new)}
    assert "already complete" in plant.night("--since", day)
    assert "not both" in plant.night("--since", day, "--new", code=2)
    assert "Setting 'since' must be a day" in plant.night("--since", "yesterday", code=2)

    # only a broken one
    (plant.images / "cells" / "broken.png").write_bytes(b"no image")
    assert "no new image that can be read" in plant.night("--set", "max_error_fraction=1", code=1)


@pytest.mark.slow
def test_a_night_of_noise_warns(plant):
    plant.deliver(12)
    plant.run(plant.images, plant.out)
    chance = np.random.default_rng(0)
    for path in plant.deliver(6):
        Image.fromarray(chance.integers(0, 256, (96, 96), np.uint8)).save(path)
    text = plant.night()
    night = plant.runs()[-1]["night"]["all"]
    assert night["drift_warning"]
    assert night["drift"] > 1
    assert "Group 'all' drifts: the raw scores of its 6 new images lie +" in text


@pytest.mark.slow
def test_what_a_night_refuses(plant, tmp_path):
    result = plant.invoke("rescore", tmp_path / "nothing")
    assert result.exit_code == 1
    assert "There is no complete run" in result.stderr
    plant.deliver(4)
    result = plant.invoke("run", plant.images, plant.out, *plant.options, "--set", "window=30d")
    assert result.exit_code == 2
    assert "window is for images that come later: use `musc-ray rescore OUT`." in result.stderr
    plant.run(plant.images, plant.out)
    assert "keep_features" in plant.night("--set", "keep_features=false", code=2)
    uris = pa.table({"uri": [path.as_uri() for path in plant.deliver(2)]})
    pq.write_table(uris, tmp_path / "new.parquet")
    assert "does not say when" in plant.night("--source", tmp_path / "new.parquet", "--since", "2020-01-01", code=2)


@pytest.mark.slow
def test_a_window_without_earlier_images_is_said_and_names_of_columns_are_inherited(plant, tmp_path):
    def write_table(paths: list[Path]) -> Path:
        table = pa.table({"path": [str(path) for path in paths], "line": [0] * len(paths), "note": ["x"] * len(paths)})
        pq.write_table(table, tmp_path / "list.parquet")
        return tmp_path / "list.parquet"

    first = plant.deliver(5)
    plant.run(write_table(first), plant.out, "--column", "uri=path,group=line")
    write_table([*first, *plant.deliver(4)])
    text = plant.night("--references", 4)
    assert "Group 0: 4 new images against 4 earlier ones" in text

    plant.deliver(5, "tiles", age=9 * DAY)
    plant.run(plant.images / "tiles", tmp_path / "tiles")
    plant.out = tmp_path / "tiles"
    plant.deliver(3, "tiles")
    text = plant.night("--window", "7d")
    assert "Group all: 3 new images against 0 earlier ones" in text
    assert "Group 'all': all 5 earlier images are older than the window 7d" in text
    assert "set window to 10d or more" in text or "set window to 9d or more" in text
    assert any("older than the window 7d" in note for note in plant.runs()[-1]["notes"])


@pytest.mark.slow
def test_a_night_that_shares_no_features_says_so(plant):
    plant.deliver(4, age=DAY)
    plant.run(plant.images, plant.out)
    plant.deliver(2)
    text = plant.night("--layers", 3)
    assert "all images of the source count as new" in " ".join(text.split())
    run = plant.runs()[-1]
    assert run["night"]["all"]["new"] == 6
    assert any("count as new" in note for note in run["notes"])
