"""Heat maps as files: values equal torch's interpolation, colours follow the scale, names are safe and unique."""

from pathlib import PurePosixPath

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from musc_ray.core.pixel_map import pixel_map
from musc_ray.report.colormap import colormap
from musc_ray.report.heatmap_files import coloured, heatmap_name, lay_over, levels, strips, write_heatmap
from musc_ray.sources.images import image_id

MAP = np.random.default_rng(0).random((4, 6), dtype=np.float32)
SCALE = (0.25, 0.75)


@pytest.mark.parametrize(
    ("grid", "size"),
    [((16, 16), (301, 120)), ((5, 9), (1, 64)), ((37, 37), (20, 7)), ((1, 4), (9, 6)), ((3, 3), (1, 1))],
)
@pytest.mark.parametrize("file_format", ["npy", "tiff"])
@pytest.mark.parametrize("in_strips", [False, True])
def test_values_are_torchs_interpolation_at_the_originals_size(
    tmp_path, monkeypatch, grid, size, file_format, in_strips
):
    if in_strips:
        monkeypatch.setattr("musc_ray.core.pixel_map.PIXELS_CHUNK", 3 * size[0])
    patch_map = np.random.default_rng(1).random(grid, dtype=np.float32)
    path = tmp_path / "map.partial"
    write_heatmap(path, patch_map, size, file_format, (0.0, 1.0), None)
    if file_format == "npy":
        values = np.load(path, allow_pickle=False)
    else:
        picture = Image.open(path)
        assert (picture.format, picture.mode, picture.info["compression"]) == ("TIFF", "F", "tiff_adobe_deflate")
        values = np.asarray(picture)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(patch_map).double()[None, None], size=(size[1], size[0]), mode="bilinear", align_corners=True
    )[0, 0]
    assert values.shape == (size[1], size[0])
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, expected.numpy(), rtol=0, atol=3e-6)


def pixels_of(patch_map: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return pixel_map(torch.from_numpy(patch_map)[None], size[::-1])[0].numpy()


@pytest.mark.parametrize("grid", [(4, 6), (1, 6), (4, 1), (37, 53)])
@pytest.mark.parametrize("rows", [1, 2, 5, 21])
def test_strips_together_are_the_pixel_map(grid, rows):
    patch_map = np.random.default_rng(3).random(grid, dtype=np.float32)
    patch_map[0, 0] = np.nan
    whole = pixels_of(patch_map, (33, 21))
    tops, parts = zip(*strips(patch_map, (33, 21), rows * 33 + 7), strict=True)
    assert list(tops) == list(range(0, 21, rows))
    assert max(map(len, parts)) == rows
    np.testing.assert_allclose(np.concatenate(parts), whole, rtol=0, atol=3e-6)


def test_tiffs_are_what_tifffile_reads(tmp_path):
    """The reader of MVTec's own evaluation."""
    tifffile = pytest.importorskip("tifffile")
    write_heatmap(tmp_path / "map", MAP, (33, 21), "tiff", SCALE, None)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "map"), pixels_of(MAP, (33, 21)))


@pytest.mark.parametrize("rows", [5, 48])
def test_a_png_has_the_colour_of_each_value_on_the_scale(tmp_path, monkeypatch, rows):
    monkeypatch.setattr("musc_ray.core.pixel_map.PIXELS_CHUNK", rows * 64)
    values = pixels_of(MAP, (64, 48))
    write_heatmap(tmp_path / "map", MAP, (64, 48), "png", SCALE, None)
    picture = Image.open(tmp_path / "map")
    assert (picture.format, picture.size) == ("PNG", (64, 48))
    on_scale = np.clip((values.astype(np.float64) - 0.25) / 0.5, 0, 1)
    # cut into 256 colours: within the step between neighbours
    step = np.abs(np.diff(colormap(np.linspace(0, 1, 256)).astype(int), axis=0)).max()
    difference = np.abs(np.asarray(picture.convert("RGB")).astype(int) - colormap(on_scale))
    assert difference.max() <= step
    assert (np.asarray(picture.convert("RGB"))[on_scale == 0] == colormap(np.zeros(1))).all()
    assert (np.asarray(picture.convert("RGB"))[on_scale == 1] == colormap(np.ones(1))).all()


def test_levels_are_the_scale_in_256_steps_and_nothing_without_extent():
    values = np.array([[-1.0, 0.25, 0.5, 0.75, 9.0]], np.float32)
    assert levels(values, SCALE).tolist() == [[0, 0, 128, 255, 255]]
    assert not levels(values, (0.5, 0.5)).any()


def test_an_overlay_shows_the_original_where_it_is_normal_and_the_colour_where_it_is_not():
    original = Image.fromarray(np.random.default_rng(2).integers(0, 256, (1, 3, 3), dtype=np.uint8))
    shown = np.array([[0, 255, 128]], np.uint8)
    changed = original.copy()
    lay_over(shown, changed)
    before, colour, after = (np.asarray(p).astype(int) for p in (original, coloured(shown).convert("RGB"), changed))
    assert (after[0, 0] == before[0, 0]).all()
    assert (after[0, 1] == colour[0, 1]).all()
    alpha = (128 / 255) ** 1.5
    np.testing.assert_allclose(after[0, 2], (1 - alpha) * before[0, 2] + alpha * colour[0, 2], atol=1.5)


def test_an_overlay_in_strips_is_the_same(tmp_path, monkeypatch):
    pictures = []
    for rows in (48, 7):
        monkeypatch.setattr("musc_ray.core.pixel_map.PIXELS_CHUNK", rows * 64)
        original = Image.fromarray(np.random.default_rng(2).integers(0, 256, (48, 64, 3), dtype=np.uint8))
        write_heatmap(tmp_path / f"{rows}", MAP, (64, 48), "png", SCALE, original)
        pictures.append(np.asarray(Image.open(tmp_path / f"{rows}")).astype(int))
    assert np.abs(pictures[0] - pictures[1]).max() <= 3  # rounding may reach the next of 256 colours
    assert pictures[0].std() > 0


@pytest.mark.parametrize(
    ("uri", "stem"),
    [
        ("/data/line 1/exp1_num_17.jpg", "exp1_num_17"),
        ('s3://plant/a "quoted" <name>.png', "a%20%22quoted%22%20%3Cname%3E"),
        ("/data/\N{SNOWMAN}\N{GRINNING FACE}.png", "%E2%98%83%F0%9F%98%80"),
        ("/data/..", ".."),
        ("/data/a\\..\\b.png", "a%5C..%5Cb"),
        ("/data/shard.tar#0001.jpg", "shard.tar%230001"),
        ("/data/table.parquet#row=5", "table.parquet%23row%3D5"),
    ],
)
def test_names_are_readable_and_escaped(uri, stem):
    assert heatmap_name(uri, image_id(uri), "png") == f"{stem}-{image_id(uri)}.png"


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=2, max_size=2, unique=True))
def test_names_are_one_path_segment_and_differ_for_every_uri(uris):
    names = [heatmap_name(uri, image_id(uri), "overlay.png") for uri in uris]
    assert names[0] != names[1]
    for name in names:
        assert PurePosixPath("/folder", name).parent == PurePosixPath("/folder")
        assert len(name.encode()) <= 255
        assert name.isascii()
