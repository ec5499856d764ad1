"""A whole run on a hostile archive: every file is scored or a row of the errors table, and no good image's score moves.

Then the same features, broken in storage in every way: found, extracted again, and scored as before.
"""

import io
import json
import os
import shutil
import struct
import zlib
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from PIL import Image

from musc_ray.storage.shard_writer import write_shard
from musc_ray.storage.shards import read_class_tokens, read_layer, read_meta
from tests.helpers.pictures import solar_cells, write_broken_pictures, write_odd_pictures

LAYERS = (2, 5, 8, 11)
LOCAL = fsspec.filesystem("file")


@pytest.fixture(scope="module")
def musc_ray(invoke):
    """The command in this process, on the shared Ray."""
    return invoke


@pytest.fixture(scope="module")
def options(tiny_weights) -> list[object]:
    model = ["--backbone", "timm:vit_tiny_patch16_224", "--weights", tiny_weights, "--image-size", "64"]
    sets = ["workers=1", "max_error_fraction=0.9", "report_thumbnails=0", "report_images=2", "max_image_mb=1"]
    return [
        *model,
        "--precision",
        "float32",
        "--model-precision",
        "float32",
        "--shard-size",
        "4",
        *(part for s in sets for part in ("--set", s)),
    ]


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    """Good images with names that ask for trouble, and of kinds that do."""
    folder = tmp_path_factory.mktemp("archive") / "good"
    write_odd_pictures(folder)
    cells = [path.read_bytes() for path in solar_cells(16, seed=3)]
    names = [
        "a::b.png", "simplecache::s3:x.png", "x.tar#y.png", "q?*[a].png", "new\nline.png", "'quotes\".png", "...png",
        "\N{SNOWMAN}\u202egnp.exe.png", "%2e%2e%2f.png", "a#row=1.png", "<script>alert(1)<script>.png", "$HOME.png",
        "~.png", "x.parquet#row=0.png", "wrong.jpg", "n" * 251 + ".png",
    ]  # fmt: skip
    for name, content in zip(names, cells, strict=True):
        (folder / name).write_bytes(content)
    Image.open(io.BytesIO(cells[0])).resize((60_000, 1)).save(folder / "line.png")
    deep = folder / "/".join(["d" * 200] * 5)  # a key of 1,000 characters
    deep.mkdir(parents=True)
    (deep / "deep.png").write_bytes(cells[1])
    (folder / "link.png").symlink_to("~.png")
    frames = [Image.open(io.BytesIO(cells[2])).rotate(angle) for angle in (0, 90)]
    frames[0].save(folder / "pages.tif", save_all=True, append_images=frames[1:])
    return folder


def write_hostile(folder: Path) -> list[str]:
    """Files that no image can come of, and their names."""
    write_broken_pictures(folder)
    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    (folder / "bomb.png").write_bytes(bomb + struct.pack(">I", 4) + b"IDAT" + b"\0" * 8)
    (folder / "large.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(2**20))
    (folder / "script.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(x) run\n")
    (folder / "ring1.png").symlink_to("ring2.png")
    (folder / "ring2.png").symlink_to("ring1.png")
    (folder / "dangling.png").symlink_to("gone.png")
    (folder / "itself").symlink_to(".")
    Image.new("L", (8, 8)).save(os.fsencode(str(folder)) + b"/\xff\xfe.png", "PNG")
    return sorted(path.name for path in folder.iterdir() if path.name != "itself")


def only(out: Path, run_id: str) -> dict[str, dict]:
    rows = ds.dataset(out / "runs" / run_id / "scores", format="parquet").to_table().to_pylist()
    return {row["uri"]: row for row in rows}


def differing(expected: dict[str, dict], found: dict[str, dict], tolerance: float = 0.0) -> int:
    """How many images have another score, raw score or patch map."""
    count = 0
    for uri, row in expected.items():
        same = [
            np.allclose(found[uri][name], row[name], rtol=0, atol=tolerance)
            for name in ("score", "score_raw", "patch_map")
        ]
        count += not all(same)
    return count


@pytest.fixture(scope="module")
def scored(good, options, musc_ray, tmp_path_factory) -> tuple[Path, dict[str, dict]]:
    """The good images alone."""
    out = tmp_path_factory.mktemp("out")
    result = musc_ray("run", good.parent, out, *options, "--run-id", "clean")
    assert result.exit_code == 0, result.output
    rows = only(out, "clean")
    files = [path for path in good.rglob("*") if path.is_file()]
    skipped = {
        row["uri"].rpartition("/")[2]: row["reason"] for row in pq.read_table(out / "runs/clean/skipped").to_pylist()
    }
    assert skipped == {"...png": "hidden", "link.png": "second_name"}
    assert len(rows) + len(skipped) == len(files) > 30
    return out, rows


@pytest.mark.slow
def test_a_hostile_archive_loses_no_image_and_moves_no_score(good, scored, options, musc_ray, tmp_path, figures):
    _, expected = scored
    hostile = good.parent / "hostile"
    names = write_hostile(hostile)
    try:
        again = tmp_path / "out"
        result = musc_ray("run", good.parent, again, *options, "--run-id", "hostile")
        assert result.exit_code == 0, result.output
        assert "Traceback" not in result.output
        found = only(again, "hostile")
        errors = pq.read_table(again / "runs/hostile/errors").to_pylist()
    finally:
        shutil.rmtree(hostile)
    figures["inputs fuzzed"] += len(names) + len(expected)
    figures["images lost"] += len(set(expected) - set(found))
    figures["differing scores"] += (moved := differing(expected, found, 1e-6))
    assert set(found) == set(expected)
    assert moved == 0
    assert len(errors) == len(names)
    assert all(row["message"] and "\n" not in row["message"] for row in errors)
    said = {row["uri"].rsplit("/", 1)[1]: row["message"] for row in errors}
    assert "60000 x 60000 pixels, more than max_pixels" in said["bomb.png"] or "more than" in said["bomb.png"]
    assert "max_image_mb 1" in said["large.png"]
    assert r"\udcff\udcfe.png" in said


def rewritten(path: Path, change) -> None:
    """Write a shard again with changed values, checksums and all."""
    meta = read_meta(LOCAL, str(path))
    ids = [image.image_id for image in meta.extracted]
    tokens = read_class_tokens(LOCAL, str(path), ids)
    layers = [read_layer(LOCAL, str(path), layer, ids) for layer in meta.layers]
    change(tokens, layers)
    write_shard(LOCAL, str(path), meta, tokens, layers)


def flip(path: Path, place: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= 1
    path.write_bytes(data)


def not_a_number(tokens: np.ndarray, layers: list[np.ndarray]) -> None:
    layers[1][2, 3, 4] = np.nan


def infinite(tokens: np.ndarray, layers: list[np.ndarray]) -> None:
    tokens[0, 0] = np.inf


BREAK = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-1000]),
    "cut to a half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "another schema": lambda path: pq.write_table(pa.table({"image_id": ["a"], "uri": [1.5]}), path),
    "a flipped bit in a layer": lambda path: flip(path, 0.3),
    "a flipped bit in another layer": lambda path: flip(path, 0.7),
    "NaN": lambda path: rewritten(path, not_a_number),
    "infinite": lambda path: rewritten(path, infinite),
}


@pytest.mark.slow
def test_broken_shards_are_found_and_extracted_again(good, scored, options, musc_ray, figures):
    out, expected = scored
    shards = sorted(out.glob("features/*/group=all/shard-*.parquet"))
    assert len(shards) >= len(BREAK)
    for path, damage in zip(shards, BREAK.values(), strict=False):
        damage(path)
    result = musc_ray("run", good.parent, out, *options, "--run-id", "mended")
    assert result.exit_code == 0, result.output
    found = only(out, "mended")
    figures["inputs fuzzed"] += len(BREAK)
    figures["images lost"] += len(set(expected) - set(found))
    figures["differing scores"] += (moved := differing(expected, found))
    assert set(found) == set(expected)
    assert moved == 0
    assert pq.read_table(out / "runs/mended/errors").num_rows == 0
    for path in shards:  # all are whole again
        rewritten(path, lambda tokens, layers: None)
    run = json.loads((out / "runs/mended/run.json").read_text())
    assert [note for note in run["notes"] if "4 shards of features were broken and extracted again." in note]


@pytest.mark.slow
def test_an_image_that_is_gone_when_its_shard_breaks_leaves_its_group(good, options, musc_ray, tmp_path, figures):
    """It cannot be extracted again; the others get the scores that they would have without it."""
    (tmp_path / "few").mkdir()
    paths = [Path(shutil.copy2(path, tmp_path / "few")) for path in sorted(good.glob("*.tif*"))]
    paths += [Path(shutil.copy2(path, tmp_path / "few")) for path in sorted(good.glob("*.png"))[:10]]
    table, without = tmp_path / "all.parquet", tmp_path / "without.parquet"
    uris = [f"file://{path}" for path in paths]
    pq.write_table(pa.table({"uri": uris}), table)
    assert musc_ray("run", table, tmp_path / "out", *options, "--run-id", "first").exit_code == 0
    (shard, *_) = sorted(tmp_path.glob("out/features/*/group=all/shard-*.parquet"))
    victim = read_meta(LOCAL, str(shard)).extracted[0].uri
    flip(shard, 0.5)
    Path(victim.removeprefix("file://")).unlink()
    result = musc_ray("run", table, tmp_path / "out", *options, "--run-id", "second")
    assert result.exit_code == 0, result.output
    (error,) = pq.read_table(tmp_path / "out/runs/second/errors").to_pylist()
    assert (error["uri"], error["error"]) == (victim, "FileNotFoundError")
    pq.write_table(pa.table({"uri": [uri for uri in uris if uri != victim]}), without)
    assert musc_ray("run", without, tmp_path / "other", *options, "--run-id", "third").exit_code == 0
    expected, found = only(tmp_path / "other", "third"), only(tmp_path / "out", "second")
    figures["inputs fuzzed"] += 1
    figures["differing scores"] += (moved := differing(expected, found, 1e-6))
    assert set(found) == set(expected) == set(uris) - {victim}
    assert moved == 0
