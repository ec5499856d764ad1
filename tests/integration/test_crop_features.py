"""Features of images that are cut, from end to end: resumed, the same for all shard sizes, kept by later images."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from musc_ray.storage.shards import FeaturesMeta, read_layer, read_meta
from tests.helpers.pictures import solar_cells

MODEL = "timm:vit_tiny_patch16_224"
IMAGES, PLACES = 7, 5


def write(folder: Path, numbers: range, size: tuple[int, int] = (240, 160)) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, cell in zip(numbers, solar_cells(len(numbers), seed=numbers.start), strict=True):
        Image.open(cell).resize(size).save(folder / f"{number}.png")


@pytest.fixture
def extract(tmp_path, invoke, tiny_weights):
    write(tmp_path / "images", range(IMAGES))
    common = ["--backbone", MODEL, "--weights", tiny_weights, "--image-size", 64, "--model-precision", "float32"]

    def extracted(out: str, *options: object) -> str:
        result = invoke("extract", tmp_path / "images", tmp_path / out, *common, *options)
        assert result.exit_code == 0, result.output
        return result.output

    return extracted


def shards(out: Path) -> dict[str, FeaturesMeta]:
    import fsspec

    paths = sorted(out.glob("features/*/group=*/shard-*.parquet"))
    return {str(path): read_meta(fsspec.filesystem("file"), str(path)) for path in paths}


def rows(out: Path) -> dict[str, np.ndarray]:
    """The tokens of layer 11 of each image: the whole of it, then its crops."""
    import fsspec

    fs, found = fsspec.filesystem("file"), {}
    for path, meta in shards(out).items():
        ids = [image.image_id for image in meta.extracted]
        whole = read_layer(fs, path, 11, ids)
        crops = read_layer(fs, path, 11, ids, None, range(1, meta.places))
        for at, image_id in enumerate(ids):
            of_crops = crops[at * (meta.places - 1) : (at + 1) * (meta.places - 1)]
            found[image_id] = np.concatenate([whole[at].reshape(-1), of_crops.reshape(-1)]).astype(float)
    return found


def test_an_interrupted_extraction_continues_and_shard_sizes_do_not_matter(extract, tmp_path):
    said = extract("out", "--crops", "2x2", "--shard-size", 2 * PLACES)
    assert "7 images extracted, 0 already done" in said
    assert "images are cut into 2 x 2 crops of about 84 x 126 pixels, overlap 10 %" in " ".join(said.split())
    found = shards(tmp_path / "out")
    assert [len(meta.extracted) for meta in found.values()] == [2, 2, 2, 1]
    (lost, *kept) = found
    before = {path: Path(path).read_bytes() for path in found}
    Path(lost).unlink()
    Path(kept[0]).write_bytes(before[kept[0]][:1000])
    assert "4 images extracted, 3 already done" in extract("out", "--crops", "2x2", "--shard-size", 2 * PLACES)
    assert {path: Path(path).read_bytes() for path in found} == before
    extract("other", "--crops", "2x2", "--shard-size", 100, "--batch-size", 3)
    one, other = rows(tmp_path / "out"), rows(tmp_path / "other")
    assert len(shards(tmp_path / "other")) == 1
    assert one.keys() == other.keys()
    for image_id, values in one.items():
        np.testing.assert_allclose(values, other[image_id], atol=5e-3)


def test_images_that_come_later_are_cut_as_the_first_ones(extract, tmp_path):
    extract("out", "--crops", "auto")
    (stored,) = (tmp_path / "out").glob("features/*/group=*/_image_size.json")
    layout = json.loads(stored.read_text())["crops"]
    assert layout["rows"] * layout["columns"] > 1
    write(tmp_path / "images", range(100, 120), (480, 480))
    extract("out", "--crops", "auto")
    found = list(shards(tmp_path / "out").values())
    assert sum(len(meta.extracted) for meta in found) == IMAGES + 20
    assert len({meta.shape for meta in found}) == 1
    assert found[0].crops is not None
    assert (found[0].crops.rows, found[0].crops.columns) == (layout["rows"], layout["columns"])


def test_features_with_and_without_crops_do_not_meet(extract, tmp_path):
    extract("out", "--crops", "2x2")
    said = extract("out")
    assert "7 images extracted, 0 already done" in said
    assert "--crops auto cuts such images" in " ".join(said.split())
    assert "7 already done" in extract("out", "--crops", "2x2,overlap=0.10")
    assert "7 images extracted, 0 already done" in extract("out", "--crops", "2x2,overlap=0.2")
    assert len({meta.features_id for meta in shards(tmp_path / "out").values()}) == 3
