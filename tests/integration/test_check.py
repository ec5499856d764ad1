"""`musc-ray check`: single images against what a run left, beside a run that holds them, in every arithmetic."""

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pytest
from PIL import Image

import musc_ray
from musc_ray.errors import MuscRayError, SettingsError
from musc_ray.sources.images import image_id
from musc_ray.storage.paths import OutPaths
from musc_ray.storage.verdicts import Verdict, add_verdicts
from tests.helpers.pictures import solar_cells, write_pictures

IMAGES, SIDE = 10, 64
OPTIONS = ["--backbone", "timm:vit_tiny_patch16_224", "--image-size", f"{SIDE},{SIDE}", "--shard-size", "4", "--quiet"]
OPTIONS += ["--layers", "5,8", "--degrees", "1,3", "--model-precision", "float32", "--executor", "process"]
OPTIONS += ["--set", "report_images=0", "--set", "report_thumbnails=0"]
EXACT = ["--precision", "float32", "--rescoring", "none"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> list[Path]:
    """Real solar cells with a stamp in a corner; the last one is new."""
    folder = tmp_path_factory.mktemp("pictures")
    paths = []
    for number, source in enumerate(solar_cells(IMAGES + 1)):
        picture = Image.open(source).convert("L").resize((96, 96))
        picture.paste(255 * (number % 2), (0, 0, 30, 30))
        paths.append(folder / f"{number:02d}.png")
        picture.save(paths[-1])
    return paths


def listing(folder: Path, paths: list[Path]) -> Path:
    """A table of images: a run of more images finds the others under the same URIs."""
    path = folder / "images.csv"
    path.write_text("\n".join(["uri", *(f"file://{each}" for each in paths)]))
    return path


@pytest.fixture
def scored(invoke, tiny_weights, tmp_path):
    """Score images into the test's OUT; returns the rows of the run by URI."""

    def run(paths: list[Path], *options: object) -> dict[str, dict]:
        source = listing(tmp_path, paths)
        result = invoke("run", source, tmp_path / "out", "--weights", tiny_weights, *OPTIONS, *options)
        assert result.exit_code == 0, result.output
        manifests = [json.loads(path.read_text()) for path in (tmp_path / "out").glob("runs/*/run.json")]
        latest = max(manifests, key=lambda manifest: manifest["scored_at"])
        rows = ds.dataset(tmp_path / "out" / "runs" / latest["run_id"] / "scores").to_table().to_pylist()
        return {row["uri"]: row for row in rows}

    return run


def content(out: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in sorted(out.rglob("*"))}


KINDS = {
    "exact": (EXACT, 1e-4),
    "bfloat16": (["--precision", "bfloat16", "--rescoring", "none"], 1e-2),
    "int8": (["--precision", "int8", "--rescoring", "none"], 1e-4),
    "snamd": ([*EXACT, "--aggregation", "snamd"], 1e-4),
    "references": ([*EXACT, "--references", "4", "--seed", "1"], 1e-4),
    "near": ([*EXACT, "--matching", "near", "--radius", "1"], 1e-4),
    "compressed": ([*EXACT, "--compress", "32"], 1e-4),
    "compressed snamd": ([*EXACT, "--compress", "32", "--aggregation", "snamd"], 1e-4),
    "compressed int8": (["--precision", "int8", "--rescoring", "none", "--compress", "32"], 1e-3),
    "crops": ([*EXACT, "--crops", "2x2", "--crop-references", "all"], 1e-4),
    "crops at their places": ([*EXACT, "--crops", "2x2", "--crop-references", "same", "--compress", "32"], 1e-4),
    "masks": ([*EXACT, "--ignore", "MASK"], 1e-4),
    "masks of crops": ([*EXACT, "--ignore", "MASK", "--crops", "1x2"], 1e-4),
}


FAST = ("exact",)


@pytest.mark.parametrize(
    "kind", [kind if kind in FAST else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]
)
def test_scores_are_those_of_a_run_that_holds_the_image(pictures, scored, tmp_path, kind):
    options, tolerance = KINDS[kind]
    mask = np.zeros((96, 96), bool)
    mask[:33, :33] = True
    Image.fromarray(mask).save(tmp_path / "mask.png")
    options = [str(tmp_path / "mask.png") if option == "MASK" else option for option in options]
    before = scored(pictures[:-1], *options)
    untouched = content(tmp_path / "out")
    found = musc_ray.check(tmp_path / "out", pictures[-1])
    assert content(tmp_path / "out") == untouched
    assert found.failed == ()
    (image,) = found.images
    row = scored(pictures, *options)[pictures[-1].as_uri()]
    assert image.image_id == row["image_id"]
    assert image.references == (4 if kind == "references" else IMAGES)
    assert image.score_raw == pytest.approx(row["score_raw"], abs=tolerance)
    np.testing.assert_allclose(image.patch_map.ravel(), row["patch_map"], atol=tolerance)
    assert np.isnan(image.patch_map).any() == ("masks" in kind)
    assert image.patch_map.shape == (row["grid_h"], row["grid_w"])
    assert image.score == image.score_raw
    assert not image.score_is_approximate
    assert (image.peak_y, image.peak_x) == (row["peak_y"], row["peak_x"])
    higher = sum(other["score_raw"] >= image.score_raw for other in before.values())
    assert image.p_value == pytest.approx((1 + higher) / (IMAGES + 1))
    assert (image.rank, image.among) == (1 + higher, IMAGES + 1)


@pytest.mark.slow
@pytest.mark.parametrize("rescoring", ["rscin", "rscon"])
def test_scores_are_rescored_with_the_others(pictures, scored, tmp_path, rescoring):
    options = ["--precision", "float32", "--rescoring", rescoring, "--k-list", "1,3", "--threshold", "0.5"]
    scored(pictures[:-1], *options)
    (image,) = musc_ray.check(str(tmp_path / "out"), [str(pictures[-1])]).images
    row = scored(pictures, *options)[pictures[-1].as_uri()]
    assert image.score_is_approximate
    assert image.score_raw == pytest.approx(row["score_raw"], abs=1e-4)
    assert image.score == pytest.approx(row["score"], abs=0.05)
    assert image.threshold == 0.5
    assert image.is_anomalous == (image.score >= 0.5)
    tables = [ds.dataset(path).to_table().to_pylist() for path in (tmp_path / "out").glob("runs/*/neighbours")]
    listed = {row["image_id"]: row for table in tables for row in table if len(table) == IMAGES + 1}[image.image_id]
    assert len(image.neighbours) == 3
    for other, neighbour, similarity in zip(
        image.neighbours, listed["neighbours"], listed["similarities"], strict=False
    ):
        assert image_id(other.uri) == neighbour
        assert other.similarity == pytest.approx(similarity, abs=1e-3)


def test_a_scored_image_is_compared_with_the_others(pictures, scored, tmp_path):
    rows = scored(pictures, *EXACT)
    given = [pictures[number] for number in (3, IMAGES)]
    for image in musc_ray.check(tmp_path / "out", given).images:
        row = rows[image.uri]
        assert image.score_raw == pytest.approx(row["score_raw"], abs=1e-4)
        assert (image.references, image.among) == (IMAGES, IMAGES + 1)
        assert image.rank == row["rank"]
        assert any("has scored this image" in note for note in image.notes)


@pytest.mark.slow
@pytest.mark.parametrize("rescoring", ["none", "rscon"])
def test_maps_of_crops_are_calibrated_as_those_of_the_run(invoke, scored, tmp_path, rescoring):
    """From 16 images on: what is usual of each patch stays in the run's folder."""
    paths = write_pictures(tmp_path / "many", 18)
    for meeting in ("same", "all"):
        rows = scored(paths, *EXACT, "--crops", "1x2", "--crop-references", meeting, "--rescoring", rescoring)
        for image in musc_ray.check(tmp_path / "out", paths[:3]).images:
            row = rows[image.uri]
            assert image.score_raw == pytest.approx(row["score_raw"], abs=1e-4)
            np.testing.assert_allclose(image.patch_map.ravel(), row["patch_map"], atol=1e-4)
            assert image.score == pytest.approx(row["score"], abs=1e-3 if rescoring == "none" else 0.05)


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--references", "4"]])
def test_verdicts_count_as_in_a_run_that_holds_the_image(pictures, scored, tmp_path, options):
    rows = scored(pictures[:-1], *EXACT, *options)
    out_paths, now = OutPaths.at(str(tmp_path / "out")), datetime.now(UTC)
    words = {1: "good", 4: "good", 6: "defective"}
    add_verdicts(
        out_paths,
        [
            Verdict(rows[pictures[number].as_uri()]["image_id"], pictures[number].as_uri(), "all", word, "", "Ada", now)
            for number, word in words.items()
        ],
    )
    found = musc_ray.check(tmp_path / "out", [pictures[-1], pictures[6], pictures[1]])
    assert found.failed == ()
    new, defective, good = (next(i for i in found.images if i.uri == pictures[n].as_uri()) for n in (-1, 6, 1))
    rows = scored(pictures, *EXACT, *options)
    assert len(rows) == IMAGES - 1
    row = rows[new.uri]
    assert new.score_raw == pytest.approx(row["score_raw"], abs=1e-4)
    np.testing.assert_allclose(new.patch_map.ravel(), row["patch_map"], atol=1e-4)
    assert (new.references, new.known_good, new.among) == (4 if options else IMAGES - 3, 2, IMAGES - 1)
    assert (defective.known_good, good.known_good) == (2, 1)
    assert any("vouches" in note for note in good.notes)
    assert not any(neighbour.uri in (pictures[1].as_uri(), pictures[4].as_uri()) for neighbour in new.neighbours)
    # now the new image is a reference of the others
    (again,) = musc_ray.check(tmp_path / "out", pictures[6]).images
    assert again.score_raw == pytest.approx(rows[pictures[6].as_uri()]["score_raw"], abs=1e-4)
    assert again.references == (4 if options else IMAGES - 2)


@pytest.mark.slow
def test_nights_lend_the_scores_of_the_runs_before(invoke, pictures, scored, tmp_path):
    scored(pictures[:7], *EXACT)
    listing(tmp_path, pictures[:-1])
    night = invoke("rescore", tmp_path / "out", "--quiet")
    assert night.exit_code == 0, night.output
    (image,) = musc_ray.check(tmp_path / "out", pictures[-1]).images
    assert (image.references, image.among) == (IMAGES, IMAGES + 1)


@pytest.fixture(scope="module")
def products(invoke, tiny_weights, tmp_path_factory, pictures) -> tuple[Path, Path]:
    """An archive of two products in folders, and the OUT of its run."""
    folder = tmp_path_factory.mktemp("products")
    for number, path in enumerate(pictures[:-1]):
        target = folder / "archive" / f"product {number % 2}" / "day" / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    out = folder / "out"
    result = invoke(
        "run", folder / "archive", out, "--weights", tiny_weights, *OPTIONS, *EXACT, "--group-by", "{group}/**"
    )
    assert result.exit_code == 0, result.output
    return folder, out


def place(source: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(source.read_bytes())
    return target


def test_groups_follow_from_paths(invoke, products, pictures, tmp_path):
    folder, out = products
    below = place(pictures[-1], folder / "archive" / "product 1" / "later" / "new.png")
    elsewhere = place(pictures[-1], tmp_path / "inbox" / "product 0" / "new.png")
    nowhere = place(pictures[-1], tmp_path / "inbox" / "new.png")
    unseen = place(pictures[-1], folder / "archive" / "product 2" / "new.png")
    found = musc_ray.check(out, [below, elsewhere, nowhere, unseen])
    unseen.unlink()
    assert [(image.uri, image.group) for image in found.images] == [
        (f"file://{elsewhere}", "product 0"),
        (f"file://{below}", "product 1"),
    ]
    assert [failed.uri for failed in found.failed] == [f"file://{nowhere}", f"file://{unseen}"]
    for failed in found.failed:
        assert "give --group; the groups there are 'product 0', 'product 1'." in failed.message
    with pytest.raises(SettingsError, match="is inside the source of a run"):
        musc_ray.check(out, below, maps=folder / "archive" / "maps")
    (given,) = musc_ray.check(out, nowhere, group="product 1").images
    assert given.group == "product 1"
    assert given.score_raw == pytest.approx(found.images[1].score_raw, abs=1e-5)
    with pytest.raises(SettingsError, match="No complete run has scored a group 'x': the groups there are 'product 0'"):
        musc_ray.check(out, nowhere, group="x")


def test_the_command(invoke, products, pictures, tmp_path):
    _, out = products
    for number in (0, 1):
        place(pictures[-1], tmp_path / "product 0" / f"{number}.png")
    (tmp_path / "product 0" / "broken.png").write_bytes(b"no picture")
    (tmp_path / "product 0" / "notes.txt").write_text("text")
    images, missing = tmp_path / "product 0", tmp_path / "missing.png"
    untouched = content(out)
    result = invoke("check", out, images, missing, "--maps", tmp_path / "maps", "--quiet")
    assert content(out) == untouched
    assert result.exit_code == 1, result.output
    for text in ("of 6", "below the suggested threshold", "most similar: file://", "1 other file left out."):
        assert text in result.stdout
    assert "looks the same" not in result.stdout
    assert result.stderr.count("Error: ") == 2
    assert "broken.png" in result.stderr
    assert f"There is nothing at {missing}" in result.stderr
    assert len(list((tmp_path / "maps").glob("*.overlay.png"))) == 2
    written = sorted((tmp_path / "maps").glob("*.png"))
    assert len(written) == 4
    for path in written:
        with Image.open(path) as picture:
            assert picture.size == (96, 96)
    result = invoke("check", out, images / "*.png", "--json", "--quiet")
    document = json.loads(result.stdout)
    assert [image["group"] for image in document["images"]] == ["product 0"] * 2
    assert len(document["images"][0]["patch_map"]) == np.prod(document["images"][0]["grid"])
    assert [failed["uri"].rpartition("/")[2] for failed in document["failed"]] == ["broken.png"]
    assert result.exit_code == 1


def test_what_is_gone_is_said_with_the_way_out(invoke, pictures, scored, tiny_weights, tmp_path):
    with pytest.raises(MuscRayError, match=r"There is no complete run in .*nothing: start one"):
        musc_ray.check(tmp_path / "nothing", pictures[-1])
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(tiny_weights.read_bytes())
    scored(pictures[:3], *EXACT, "--weights", weights)
    out = tmp_path / "out"
    with pytest.raises(SettingsError, match="is inside OUT"):
        musc_ray.check(out, pictures[-1], maps=out / "maps")
    with pytest.raises(SettingsError, match="is inside OUT"):
        musc_ray.check(out, pictures[-1], maps=out)
    with pytest.raises(MuscRayError, match="There is no complete run other"):
        musc_ray.check(out, pictures[-1], run_id="other")
    weights.rename(tmp_path / "moved.safetensors")
    with pytest.raises(
        MuscRayError, match=r"There is no weights file at .*: check --weights.: give --weights the file with"
    ):
        musc_ray.check(out, pictures[-1])
    assert musc_ray.check(out, pictures[-1], weights=str(tmp_path / "moved.safetensors")).images
    (tmp_path / "other.safetensors").write_bytes(b"others")
    with pytest.raises(MuscRayError, match=r"have SHA-256 .* those of run"):
        musc_ray.check(out, pictures[-1], weights=str(tmp_path / "other.safetensors"))
    scored(pictures[:4], *EXACT, "--no-keep-features")
    with pytest.raises(MuscRayError, match=r"\(keep_features is false\).*--overwrite and keep them"):
        musc_ray.check(out, pictures[-1], weights=str(tiny_weights))
