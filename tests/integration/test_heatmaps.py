"""`musc-ray heatmaps` on a run that lies there: sizes, scale, choice, re-running, lost originals, S3."""

import io
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pytest
import s3fs
import torch
from PIL import Image

from musc_ray.core.pixel_map import image_scores, pixel_map
from musc_ray.report.colormap import colormap
from musc_ray.report.heatmap_files import heatmap_name
from musc_ray.report.heatmap_writer import HeatmapCounts, HeatmapsOptions, HeatmapsTask, HeatmapWriter
from musc_ray.runtime.worker import WorkerResources
from musc_ray.settings.limits import ImageLimits
from musc_ray.sources.decoding import decode_original
from musc_ray.sources.images import image_id
from musc_ray.storage.filesystem import write_json
from musc_ray.storage.parquet import read_table, write_table
from musc_ray.storage.paths import OutPaths, part_prefix
from musc_ray.storage.retry import is_storage_fault
from musc_ray.storage.schemas import SCORES, SIZE_AND_PEAK
from tests.helpers.manifests import run_record, started_record
from tests.helpers.pictures import write_odd_pictures, write_pictures

GRID = (4, 6)
SHARD = 4


def write_run(
    out: str, source: str, groups: dict[str, list[str]], run_id: str = "run-1", scored_at: str = "2026-01-01"
) -> dict:
    """What a run leaves behind, with patch maps from a generator; returns the rows by uri."""
    out_paths, generator = OutPaths.at(out), np.random.default_rng(0)
    written = {}
    for group, uris in groups.items():
        maps = (0.4 + 0.2 * generator.random((len(uris), *GRID))).astype(np.float32)
        raw = image_scores(torch.from_numpy(maps), (56, 84)).numpy()
        ranks = np.argsort(np.argsort(-raw)) + 1
        rows = [
            {
                "image_id": image_id(uri), "uri": uri, "group": group, "run_id": run_id,
                "scored_at": datetime.now(UTC), "score_raw": raw[n], "score": raw[n], "rank": ranks[n],
                "percentile": 50.0, "grid_h": GRID[0], "grid_w": GRID[1], "patch_map": maps[n].ravel(),
            }
            for n, uri in enumerate(uris)
        ]  # fmt: skip
        for part, start in enumerate(range(0, len(rows), SHARD)):
            path = out_paths.run(run_id).part(out_paths.run(run_id).scores, group, part)
            write_table(out_paths.fs, path, pa.Table.from_pylist(rows[start : start + SHARD], schema=SCORES))
        written |= {row["uri"]: row for row in rows}
    started = started_record(run_id, {group: len(uris) for group, uris in groups.items()})
    write_json(out_paths.fs, out_paths.run(run_id).started_json, started)
    run = run_record(run_id, scored_at=scored_at, settings={"source": source, "max_pixels": 1_000_000})
    write_json(out_paths.fs, out_paths.run(run_id).run_json, run)
    return written


@pytest.fixture
def images(tmp_path) -> list[Path]:
    """Pictures of every mode and size, a turned one (EXIF) among them, two with the same stem, and a link."""
    folder = tmp_path / "images"
    paths = [*write_pictures(folder, 5), *write_odd_pictures(folder / "odd")]
    twin = folder / "twin" / paths[0].name
    twin.parent.mkdir()
    Image.new("RGB", (1, 1)).save(twin)
    (folder / "link").symlink_to(paths[0].parent, target_is_directory=True)
    return [*paths, twin, folder / "link" / paths[0].name]


@pytest.fixture
def run(images, tmp_path) -> dict:
    """A run of two groups, one with an odd name."""
    uris = [str(path) for path in images]
    return write_run(str(tmp_path / "out"), str(tmp_path / "images"), {"a/../b": uris[:7], "rest": uris[7:]})


@pytest.fixture
def heatmaps(invoke, tmp_path):
    """The command on that run."""
    return lambda *arguments: invoke("heatmaps", tmp_path / "out", *arguments, "--set", "workers=1")


def written(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def expected_values(row: dict) -> np.ndarray:
    width, height = decode_original(Path(row["uri"]).read_bytes()).size
    return pixel_map(torch.tensor(row["patch_map"]).reshape(1, *GRID), (height, width))[0].numpy()


@pytest.mark.parametrize(("file_format", "read"), [("npy", np.load), ("tiff", lambda p: np.asarray(Image.open(p)))])
def test_values_of_every_image_at_its_own_size(heatmaps, run, tmp_path, file_format, read):
    result = heatmaps("--format", file_format)
    assert result.exit_code == 0, result.output
    assert f"{len(run)} heat maps written" in result.stdout
    folder = tmp_path / "out" / "runs" / "run-1" / "heatmaps"
    assert len(written(folder)) == len(run)
    for uri, row in run.items():
        group = {"a/../b": "a%2F..%2Fb", "rest": "rest"}[row["group"]]
        path = folder / f"group={group}" / heatmap_name(uri, row["image_id"], file_format)
        values = read(path)
        assert values.dtype == np.float32
        np.testing.assert_array_equal(values, expected_values(row))


def test_pictures_share_the_scale_of_their_group_and_can_lie_over_the_original(heatmaps, run, tmp_path):
    assert heatmaps("--format", "png", "--group", "rest").exit_code == 0
    assert heatmaps("--format", "png", "--group", "rest", "--overlay", "--top", "2").exit_code == 0
    rows = [row for row in run.values() if row["group"] == "rest"]
    folder = tmp_path / "out" / "runs" / "run-1" / "heatmaps"
    assert len(written(folder)) == len(rows) + 2
    low = np.median([row["patch_map"] for row in rows[:SHARD]])
    high = max(row["score_raw"] for row in rows)
    for row in rows:
        picture = Image.open(folder / "group=rest" / heatmap_name(row["uri"], row["image_id"], "png")).convert("RGB")
        colours = colormap((expected_values(row) - low) / (high - low))
        assert np.abs(np.asarray(picture).astype(int) - colours).max() <= 8  # 256 colours
        over = folder / "group=rest" / heatmap_name(row["uri"], row["image_id"], "overlay.png")
        assert over.exists() == (row["rank"] <= 2)
        if over.exists():
            assert decode_original(over.read_bytes()).size == picture.size


def test_what_is_there_is_skipped_unless_it_is_to_be_overwritten(heatmaps, run, tmp_path):
    to = tmp_path / "elsewhere"
    command = ["--format", "npy", "--to", to]
    assert heatmaps(*command).exit_code == 0
    first = {path: path.stat().st_mtime_ns for path in written(to)}
    missing = written(to)[3]
    missing.unlink()
    again = heatmaps(*command)
    assert f"1 heat map written, {len(run) - 1} kept" in again.stdout
    assert {path for path in written(to) if first[path] != path.stat().st_mtime_ns} == {missing}
    assert heatmaps(*command, "--overwrite").exit_code == 0
    assert all(first[path] != path.stat().st_mtime_ns for path in written(to))


def test_lost_and_too_large_originals_are_counted_and_none_at_all_is_an_error(heatmaps, run, images, tmp_path):
    images[8].unlink()
    images[9].write_bytes(images[9].read_bytes()[:100])
    Image.new("L", (2000, 1000)).save(images[10])
    result = heatmaps("--format", "npy")
    assert result.exit_code == 0
    assert "Note: 3 originals cannot be read, the first is" in result.stdout
    assert f"{len(run) - 3} heat maps written" in result.stdout
    for path in images:
        path.unlink(missing_ok=True)
    result = heatmaps("--format", "npy", "--overwrite")
    assert result.exit_code == 1
    assert f"None of the {len(run)} originals can be read, the first is {tmp_path}" in result.stderr


def test_maps_of_images_whose_size_is_known_need_no_originals(heatmaps, run, images, tmp_path):
    """But for overlays; they are of the size that the scores say."""
    paths = OutPaths.at(str(tmp_path / "out")).run("run-1")
    for path in paths.all_parts(paths.scores):
        table = read_table(paths.fs, path)
        for field, value in zip(SIZE_AND_PEAK, (90, 120, 1, 1), strict=True):
            table = table.append_column(field, pa.array([value] * len(table), field.type))
        write_table(paths.fs, path, table)
    for path in images:
        path.unlink(missing_ok=True)
    result = heatmaps("--format", "npy", "--to", tmp_path / "maps")
    assert result.exit_code == 0, result.output
    assert f"{len(run)} heat maps written" in result.stdout
    assert {np.load(path).shape for path in written(tmp_path / "maps")} == {(90, 120)}
    assert heatmaps("--format", "png", "--overlay", "--to", tmp_path / "over").exit_code == 1


@pytest.fixture
def image_server(images, tmp_path) -> Iterator[tuple[str, dict[str, int]]]:
    """Serves the folder of images; the dict says how many of the next requests for a name get status 503."""
    failing: dict[str, int] = {}

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.rpartition("/")[2]
            if failing.get(name, 0) > 0:
                failing[name] -= 1
                self.send_error(503)
            else:
                super().do_GET()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=tmp_path / "images")) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", failing
        server.shutdown()


@pytest.mark.slow
def test_a_store_that_fails_is_no_fault_of_the_images(invoke, image_server, images, tmp_path):
    """Status 503 for one original of four: the command ends with a storage error, and resumes."""
    server, failing = image_server
    names = [quote(str(path.relative_to(tmp_path / "images"))) for path in images[:4]]
    write_run(str(tmp_path / "out"), "s3://plant/images", {"all": [f"{server}/{name}" for name in names]})
    failing[names[2].rpartition("/")[2]] = 1_000
    result = invoke("heatmaps", tmp_path / "out", "--format", "npy")
    assert result.exit_code == 1
    assert "503" in result.stderr
    assert "originals can" not in result.stdout + result.stderr
    failing.clear()
    result = invoke("heatmaps", tmp_path / "out", "--format", "npy")
    assert result.exit_code == 0, result.output
    assert len(list((tmp_path / "out").rglob("*.npy"))) == 4


@pytest.mark.parametrize("what", ["the scores", "an original"])
def test_a_store_that_is_away_reaches_the_pool_which_retries(run, tmp_path, monkeypatch, what):
    """The actor raises what the pool knows as a storage fault; nothing is counted as unreadable."""

    def away(*_: object, **__: object) -> None:
        raise ConnectionError("the store is away")

    monkeypatch.setattr("musc_ray.storage.retry.FIRST_PAUSE_SECONDS", 0.0)
    name = "heatmap_writer.read_table" if what == "the scores" else "originals.read_image"
    monkeypatch.setattr(f"musc_ray.report.{name}", away)
    paths = OutPaths.at(str(tmp_path / "out")).run("run-1")
    task = HeatmapsTask(paths.parts(paths.scores, "rest")[0], str(tmp_path / "maps"), (0.0, 1.0), SHARD)
    writer = HeatmapWriter(HeatmapsOptions("npy"), ImageLimits(1_000_000), WorkerResources(1, 1, 0, 1, "cpu"))
    with pytest.raises(ConnectionError) as raised:
        writer.write(task)
    assert is_storage_fault(raised.value)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--format", "npy", "--overlay"], 2, "use --format png"),
        (["--format", "png", "--group", "nuts"], 2, "scored no group 'nuts': its groups are 'a/../b', 'rest'."),
        (["--format", "png", "--run-id", "run-2"], 1, "no complete run run-2 in"),
        (["--format", "png", "--to", "images/maps"], 2, "is inside the source"),
        (["--format", "png", "--to", "out/runs/run-1/run.json/x"], 1, "Cannot write to"),
        (["--format", "png", "--to", "s3://key:secret@plant/maps"], 2, "--to carries credentials"),
        (["--format", "png", "--run-id", "../../out"], 2, "'run_id'"),
        (["--format", "bmp"], 2, "bmp"),
        (["--format", "png", "--top", "0"], 2, "top"),
    ],
)
def test_what_cannot_be_is_one_sentence(heatmaps, run, tmp_path, monkeypatch, arguments, code, words):
    monkeypatch.chdir(tmp_path)
    result = heatmaps(*arguments)
    assert result.exit_code == code
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_the_run_that_was_scored_last_and_none(invoke, images, tmp_path):
    for name, scored_at in (("run-b", "2026-01-02"), ("run-a", "2026-01-03"), ("run-c", "2026-01-01")):
        write_run(str(tmp_path / "out"), str(tmp_path / "images"), {"all": [str(images[0])]}, name, scored_at)
    assert invoke("heatmaps", tmp_path / "out", "--format", "npy").exit_code == 0
    assert {path.parts[-4] for path in (tmp_path / "out").rglob("*.npy")} == {"run-a"}
    empty = invoke("heatmaps", tmp_path / "nothing", "--format", "npy")
    assert empty.exit_code == 1
    assert "There is no complete run in" in empty.stderr


@pytest.mark.slow
def test_s3_like_local(images, tmp_path, s3, monkeypatch):
    fs = s3.filesystem()
    fs.mkdir("night-shift")
    names = {f"s3://night-shift/images/{path.name}": path for path in images[:5]}
    for uri, path in names.items():
        fs.put_file(str(path), uri)
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    rows = write_run("s3://night-shift/out", "s3://night-shift/images", {"all": list(names)})
    command = [sys.executable, "-m", "musc_ray.cli", "heatmaps", "s3://night-shift/out", "--format", "npy"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ)
    assert result.returncode == 0, result.stderr
    assert "5 heat maps written" in result.stdout
    assert s3.secret_key not in result.stdout + result.stderr
    for uri, row in rows.items():
        path = f"night-shift/out/runs/run-1/heatmaps/group=all/{heatmap_name(uri, row['image_id'], 'npy')}"
        values = np.load(io.BytesIO(fs.cat_file(path)))
        np.testing.assert_array_equal(values, expected_values({**row, "uri": str(names[uri])}))
    scores, folder = (
        f"s3://night-shift/out/runs/run-1/scores/{part_prefix('all')}00000.parquet",
        f"s3://{path.rpartition('/')[0]}",
    )
    writer = HeatmapWriter(HeatmapsOptions("npy"), ImageLimits(1_000_000), WorkerResources(1, 1, 0, 1, "cpu"))
    assert writer.write(HeatmapsTask(scores, folder, (0.0, 1.0), SHARD)) == HeatmapCounts(skipped=SHARD)
    s3fs.S3FileSystem.clear_instance_cache()
