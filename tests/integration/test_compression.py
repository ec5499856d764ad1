"""Compressed features from end to end: scores against formulas over what is stored, nights, resuming, broken files."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from PIL import Image

from musc_ray.errors import SettingsError
from musc_ray.evaluate.pooled import pooled_scores
from musc_ray.features import extractor, group_bases
from musc_ray.planning.plan import list_archive
from musc_ray.scoring import run_manifest
from musc_ray.scoring.scorer import Scorer
from musc_ray.settings.loading import load_settings
from musc_ray.storage.layer_columns import LayerTokens
from musc_ray.storage.manifest import RunManifest
from musc_ray.storage.paths import OutPaths
from musc_ray.storage.shard_writer import write_shard
from musc_ray.storage.shards import read_class_tokens, read_layer, read_meta, read_norms
from tests.helpers import brute_force
from tests.helpers.pictures import write_pictures

CHANNELS, K, IMAGES = 192, 32, 9
OPTIONS = ["--backbone", "timm:vit_tiny_patch16_224", "--image-size", "64", "--shard-size", "4", "--method", "paper"]
OPTIONS += ["--precision", "float32", "--model-precision", "float32", "--executor", "process", "--layers", "5,8"]
OPTIONS += ["--degrees", "1,3", "--set", "report_images=0", "--set", "report_thumbnails=0"]


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    write_pictures(folder, IMAGES)
    return folder


@pytest.fixture
def run(tiny_weights, invoke):
    """The command on a folder of images; its output, and the run that it wrote last."""

    def started(images: Path, out: Path, *options: object, verb: str = "run") -> tuple[str, dict]:
        result = invoke(verb, *([images] if verb == "run" else []), out, "--weights", tiny_weights, *OPTIONS, *options)
        assert result.exit_code == 0, result.output
        found = [json.loads(path.read_text()) for path in out.glob("runs/*/run.json")]
        return result.output, max(found, key=lambda record: record["scored_at"])

    return started


def rows_of(out: Path, record: dict) -> dict[str, dict]:
    table = ds.dataset(out / "runs" / record["run_id"] / "scores").to_table()
    return {row["image_id"]: row for row in table.to_pylist()}


def folder_of(out: Path, group: str = "all") -> Path:
    (folder,) = out.glob(f"features/*/group={group}")
    return folder


def check(out: Path, record: dict, group: str = "all", **formula) -> None:
    """Compare a group's scores with the brute force over its stored features."""
    expected = brute_force.score_features_folder(folder_of(out, group), (1, 3), **formula)
    rows = rows_of(out, record)
    for image_id, scored in expected.items():
        np.testing.assert_allclose(rows[image_id]["patch_map"], scored.patch_map, atol=1e-4)
        assert rows[image_id]["score_raw"] == pytest.approx(scored.score_raw, abs=1e-4)
        assert rows[image_id]["score"] == pytest.approx(scored.score, abs=1e-4)


@pytest.mark.parametrize(
    ("options", "formula"),
    [
        ([], {}),
        (["--feature-dtype", "float16", "--rescoring", "rscon"], {"rescoring": "rscon"}),
        (["--aggregation", "snamd"], {"aggregation": "snamd"}),
    ],
    ids=["int8", "float16-rscon", "snamd"],
)
def test_scores_are_those_of_the_formulas_over_the_stored_features(tmp_path, images, run, options, formula):
    out = tmp_path / "out"
    output, record = run(images, out, "--compress", K, *options)
    check(out, record, **formula)
    dtype = "float16" if "float16" in options else "int8"
    assert f"Features: {K} of {CHANNELS} channels, {dtype}, " in output
    stored = brute_force.read_features(folder_of(out))
    assert (stored.meta["channels"], stored.meta["dtype"]) == (K, dtype)
    assert (stored.meta["original_channels"], stored.meta["grid"]) == (CHANNELS, [4, 4])
    found = record["compression"]["all"]
    assert (found["channels"], found["dtype"], found["sample"]) == (K, dtype, IMAGES)
    assert found["basis_sha256"] == stored.meta["basis_sha256"]
    assert len(found["energy"]) == len(found["outside"]) == 2
    # the sample is the whole group, and each image counts alike
    np.testing.assert_allclose(np.add(found["energy"], found["outside"]), 1, atol=1e-5)
    assert found["full_bytes"] == IMAGES * 2 * 16 * CHANNELS * 2
    assert found["bytes"] == IMAGES * 2 * (16 * (K * 2 if dtype == "float16" else K + 4) + 8)


@pytest.mark.slow
def test_what_is_stored_are_the_tokens_on_the_basis(tmp_path, images, run):
    """Against raw features of the same model, in float64: z V with z of the raw tokens, lengthened to |z|, turned."""
    run(images, tmp_path / "full")
    run(images, tmp_path / "few", "--compress", K)
    full, few = (brute_force.read_features(folder_of(tmp_path / name)) for name in ("full", "few"))
    assert full.ids == few.ids
    (basis,) = folder_of(tmp_path / "few").glob("_basis-*.npz")
    tail = K * 3 // 8
    for layer, tokens in full.layers.items():
        vectors = np.load(basis)[f"layer_{layer:02d}"].astype(np.float64)
        z = np.stack([(x - x.mean()) / np.sqrt(x.var() + 1e-5) for x in tokens])
        y = z @ vectors
        missing = (z**2).sum(axis=2) - (y**2).sum(axis=2)
        y[..., -tail:] *= np.sqrt(1 + missing / (y[..., -tail:] ** 2).sum(axis=2))[..., None]
        found = few.layers[layer]
        steps = np.abs(found).max(axis=2, keepdims=True) / 127
        off = np.abs(found - y @ brute_force.rotation(K)) / steps
        assert float(off.max()) < 0.75  # half a step, and float16 of the raw tokens
        energies = np.linalg.eigvalsh(np.einsum("alc,ald->cd", z, z))
        kept = energies[-K:].sum() / energies.sum()
        assert np.linalg.norm(z @ vectors) ** 2 / np.linalg.norm(z) ** 2 == pytest.approx(kept, abs=1e-4)
        assert np.abs(vectors.T @ vectors - np.eye(K)).max() < 1e-5


def test_groups_that_keep_their_shape_have_the_backbones_channels_in_the_summary(tmp_path, images, run):
    output, record = run(images, tmp_path / "out", "--compress", K, "--method", "tuned")
    assert record["image_sizes"]
    assert record["resolved"]["channels"] == CHANNELS
    assert f"Features: {K} of {CHANNELS} channels, int8, " in output


def test_int8_without_compression(tmp_path, images, run):
    out = tmp_path / "out"
    output, record = run(images, out, "--feature-dtype", "int8")
    check(out, record)
    assert "compression" not in record
    assert "Features:" not in output
    meta = brute_force.read_features(folder_of(out)).meta
    assert (meta["dtype"], meta["channels"]) == ("int8", CHANNELS)


@pytest.mark.slow
def test_repeated_defects_and_a_ring_on_compressed_features(tmp_path, images, run):
    full, few = tmp_path / "full", tmp_path / "few"
    options = ["--references", "4", "--repeated-defects"]
    before, after = (
        rows_of(full, run(images, full, *options)[1]),
        rows_of(few, run(images, few, "--compress", 160, *options)[1]),
    )
    for image_id, row in before.items():
        assert row["score_raw"] == pytest.approx(after[image_id]["score_raw"], rel=0.02)


@pytest.mark.slow
def test_a_night_uses_the_basis_and_warns_of_images_that_it_does_not_show(tmp_path, images, run):
    own, out = tmp_path / "images", tmp_path / "out"
    shutil.copytree(images, own)
    _, first = run(own, out, "--compress", K)
    generator = np.random.default_rng(0)
    for number in range(3):
        Image.fromarray(generator.integers(0, 256, (64, 64, 3), np.uint8)).save(own / f"new-{number}.png")
    output, night = run(own, out, verb="rescore")
    assert night["features_id"] == first["features_id"]
    assert night["compression"]["all"]["basis_sha256"] == first["compression"]["all"]["basis_sha256"]
    assert len(list(folder_of(out).glob("_basis-*.npz"))) == 1
    found = night["night"]["all"]
    new = [image for image in images_of(out) if "new-" in image["uri"]]
    assert found["new"] == len(new) == 3
    assert found["outside"] == pytest.approx(np.mean([image["outside"] for image in new]), abs=1e-5)
    left_out = 1 - np.mean(first["compression"]["all"]["energy"])
    assert found["outside_warning"]
    assert found["outside"] > 3 * left_out
    assert f"{100 * found['outside']:.1f} % of the energy of its 3 new images lies outside the basis" in " ".join(
        night["notes"]
    )
    assert "of their energy outside the basis" in output
    output, refitted = run(own, out, "--compress", K, "--refit", 1)
    assert refitted["features_id"] != first["features_id"]
    assert refitted["compression"]["all"]["sample"] == IMAGES + 3
    assert np.mean(refitted["compression"]["all"]["outside"]) < found["outside"]


def images_of(out: Path) -> list[dict]:
    """What the metadata of the shards say of their images."""
    metas = [json.loads(pq.read_schema(path).metadata[b"musc_ray"]) for path in folder_of(out).glob("shard-*")]
    return [image for meta in metas for image in meta["images"]]


@pytest.mark.slow
def test_auto_leaves_small_groups_for_good_and_keeps_most_of_the_energy_of_others(tmp_path, images, run, monkeypatch):
    own, out = tmp_path / "images", tmp_path / "out"
    for group, count in (("many", IMAGES), ("few", 3)):
        (own / group).mkdir(parents=True)
        for path in sorted(images.rglob("*.*"))[:count]:
            shutil.copy(path, own / group)
    monkeypatch.setattr(group_bases, "MIN_IMAGES", 5)
    monkeypatch.setattr(run_manifest, "MIN_IMAGES", 5)
    output, record = run(own, out, "--compress", "auto", "--group-by", "{group}/**")
    assert set(record["compression"]) == {"many"}
    assert record["compression"]["many"]["channels"] == CHANNELS // 4
    assert f"Features: {CHANNELS // 4} of {CHANNELS} channels in 1 of 2 groups, int8" in output
    for group in ("many", "few"):
        check(out, record, group)
    assert brute_force.read_features(folder_of(out, "few")).meta["dtype"] == "float16"
    monkeypatch.setattr(group_bases, "MIN_IMAGES", 2)
    for path in sorted(images.rglob("*.*"))[3:]:
        shutil.copy(path, own / "few")
    assert "not compressed" not in " ".join(record["notes"])
    _, grown = run(own, out, "--compress", "auto", "--group-by", "{group}/**")
    assert set(grown["compression"]) == {"many"}
    assert "Group 'few': its features are not compressed, as compress auto decided" in " ".join(grown["notes"])


@pytest.mark.slow
def test_groups_with_bases_of_their_own_are_compared_in_the_backbones_channels(tmp_path, images, run):
    """RsCon over several groups, as an evaluation computes it: vectors of the patches that score most, turned back."""
    own, out = tmp_path / "images", tmp_path / "out"
    for number, path in enumerate(sorted(images.rglob("*.*"))):
        folder = own / ("even" if number % 2 == 0 else "odd")
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder)
    _, record = run(own, out, "--compress", K, "--group-by", "{group}/**", "--rescoring", "rscon")
    ids, vectors, rows = [], [], rows_of(out, record)
    for group in ("even", "odd"):
        stored = brute_force.read_features(folder_of(out, group))
        (basis,) = folder_of(out, group).glob("_basis-*.npz")
        directions = np.load(basis)["layer_05"].astype(np.float64)  # the last layer but one
        tokens = stored.layers[5] @ brute_force.rotation(K).T @ directions.T
        most = [int(np.argmax(rows[image_id]["patch_map"])) for image_id in stored.ids]
        units = [brute_force.lnamd(tokens, (4, 4), degree, normalised=True) for degree in (1, 3)]
        vectors.append(np.concatenate([unit[np.arange(len(most)), most] for unit in units], axis=1))
        ids += stored.ids
    raw = np.array([rows[image_id]["score_raw"] for image_id in ids], np.float32)
    out_paths = OutPaths.at(str(out))
    manifest = RunManifest.read(out_paths.run(record["run_id"]))
    got = pooled_scores(out_paths, manifest, ["even", "odd"], ids, raw)
    np.testing.assert_allclose(got, brute_force.rscin(raw, np.concatenate(vectors)), atol=1e-5)


@pytest.mark.slow
def test_a_second_run_reads_what_the_first_has_written_and_a_lost_basis_is_found_again(tmp_path, images, run):
    out = tmp_path / "out"
    _, record = run(images, out, "--compress", K)
    _, again = run(images, out, "--compress", K, "--interval", "0,0.5")
    assert again["stages"]["extract"]["already_done"] == IMAGES
    assert again["stages"]["extract"]["seconds_fitting"] == 0
    before = sorted(path.name for path in folder_of(out).glob("shard-*"))
    (folder_of(out) / "_compression.json").unlink()
    _, found = run(images, out, "--compress", K, "--interval", "0,0.6")
    assert found["stages"]["extract"]["already_done"] == 0  # all are extracted again, into shards of their own
    assert len(list(folder_of(out).glob("shard-*"))) == 2 * len(before)
    assert found["compression"]["all"]["energy"] == record["compression"]["all"]["energy"]


@pytest.mark.slow
def test_bands_of_another_basis_are_not_taken_over(tmp_path, images, run, monkeypatch, invoke, tiny_weights):
    """A run is interrupted when its bands are written; then its basis is deleted, and found with other directions."""
    out, name = tmp_path / "out", ["--run-id", "interrupted"]

    def interrupted(*_: object) -> None:
        raise RuntimeError("interrupted")

    with monkeypatch.context() as patched:
        patched.setattr(Scorer, "write_patch_maps", interrupted)
        assert invoke("run", images, out, "--weights", tiny_weights, *OPTIONS, "--compress", K, *name).exit_code == 1
    assert list(out.glob("runs/interrupted/work/bands/*/*/*.npy"))
    (folder_of(out) / "_compression.json").unlink()
    found = extractor.find_bases
    monkeypatch.setattr(
        extractor,
        "find_bases",
        lambda *given: [b._replace(vectors=b.vectors.flip(1).contiguous()) for b in found(*given)],
    )
    _, record = run(images, out, "--compress", K, *name)
    assert record["stages"]["mutual"]["already_done"] == 0
    for shard in folder_of(out).glob("shard-*"):  # of the first basis
        if (
            read_meta(fsspec.filesystem("file"), str(shard)).basis_sha256
            != record["compression"]["all"]["basis_sha256"]
        ):
            shard.unlink()
    for path in folder_of(out).glob("_basis-*"):
        if record["compression"]["all"]["basis_sha256"][:16] not in path.name:
            path.unlink()
    check(out, record)


@pytest.mark.slow
def test_the_images_of_a_shard_of_another_basis_are_extracted_again(tmp_path, images, run):
    out = tmp_path / "out"
    run(images, out, "--compress", K)
    fs, path = fsspec.filesystem("file"), str(folder_of(out) / "shard-00001.parquet")
    stored = brute_force.read_features(folder_of(out))
    rewrite_with_basis(fs, path, "c" * 64)
    _, again = run(images, out, "--compress", K, "--interval", "0,0.5")
    assert again["stages"]["extract"]["already_done"] == IMAGES - 4
    Path(path).unlink()
    found = brute_force.read_features(folder_of(out))
    assert sorted(found.ids) == sorted(stored.ids)
    for layer, tokens in stored.layers.items():
        expected = dict(zip(stored.ids, tokens, strict=True))
        got = dict(zip(found.ids, found.layers[layer], strict=True))
        assert all(np.array_equal(got[image_id], expected[image_id]) for image_id in expected)


def rewrite_with_basis(fs, path: str, sha256: str) -> None:
    """Write a shard again as if its tokens were on other directions."""
    meta = read_meta(fs, path)
    ids = [image.image_id for image in meta.extracted]
    layers = []
    for layer in meta.layers:
        tokens, norms = (read(fs, path, layer, ids, meta.basis_sha256) for read in (read_layer, read_norms))
        scales = np.abs(tokens).max(axis=2) / 127
        layers.append(LayerTokens(np.round(tokens / scales[:, :, None]), scales, norms))
    write_shard(fs, path, replace(meta, basis_sha256=sha256), read_class_tokens(fs, path, ids), layers)


def test_more_directions_than_channels_are_refused_at_the_start(tmp_path, images, invoke):
    result = invoke("run", images, tmp_path / "out", "--backbone", "dinov2-vit-s-14", "--compress", 385)
    assert result.exit_code == 2
    assert "'compress' is 385, but tokens of dinov2-vit-s-14 have 384 channels" in result.output
    settings = load_settings(overrides={"source": str(images), "backbone": "dinov2-vit-s-14", "compress": 385})
    with pytest.raises(SettingsError, match="'compress' is 385, but tokens of dinov2-vit-s-14 have 384 channels"):
        list_archive(settings)  # of a plan, before anything is measured


def test_a_command_on_one_image_decides_nothing_for_the_group(tmp_path, images, tiny_weights, invoke):
    one, out = tmp_path / "one", tmp_path / "out"
    one.mkdir()
    shutil.copy(min(images.rglob("*.png")), one)
    result = invoke("run", one, out, "--weights", tiny_weights, *OPTIONS, "--compress", "auto")
    assert result.exit_code == 1
    assert "at least 2 are needed" in result.output
    assert not list(out.rglob("_compression.json"))
