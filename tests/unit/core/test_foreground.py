"""Parts told from their background by tokens: found where there are both, and not on surfaces."""

import numpy as np
import pytest
import torch

from musc_ray.core.foreground import Foreground, find_foreground

GRID = (14, 16)
CHANNELS = 24


def images(count: int = 12, seed: int = 0, offset: int = 1) -> tuple[torch.Tensor, np.ndarray]:
    """Make parts of 6 x 7 patches before a ground, each moved by up to `offset`: tokens (N, L, C), and where."""
    generator = torch.Generator().manual_seed(seed)
    part, ground = torch.randn(2, CHANNELS, generator=generator)
    tokens = ground + 0.25 * torch.randn(count, *GRID, CHANNELS, generator=generator)
    where = np.zeros((count, *GRID), np.bool_)
    for n in range(count):
        y, x = (torch.randint(2 * offset + 1, (2,), generator=generator) - offset).tolist()
        where[n, 4 + y : 10 + y, 5 + x : 12 + x] = True
    noise = 0.5 * torch.randn(tokens.shape, generator=generator)
    return torch.where(torch.from_numpy(where)[..., None], part + noise, tokens).flatten(1, 2), where


def test_the_part_is_kept_with_its_margin_and_the_ground_is_not():
    tokens, where = images()
    foreground, figures = find_foreground([tokens[:5], tokens[5:]], GRID)
    assert figures.objection is None
    assert figures.separation > 0.9
    kept, lost = foreground.kept(tokens, GRID)
    assert not lost.any()
    kept = kept.reshape(where.shape)
    assert kept[where].all()
    wide = torch.nn.functional.max_pool2d(torch.from_numpy(where)[:, None].float(), 3, stride=1, padding=1)[:, 0] > 0
    assert kept[wide.numpy()].all()  # a defect at the border of the part
    assert not kept[:, [0, -1]].any()
    assert 0.25 < kept.mean() < 0.5
    opposite, _ = find_foreground([-tokens], GRID)  # the sign of a component means nothing
    assert (opposite.kept(-tokens, GRID)[0] == kept.reshape(len(kept), -1)).all()


def test_holes_and_missing_pieces_of_a_part_are_kept():
    tokens, where = images(offset=0)
    foreground, _ = find_foreground([tokens], GRID)
    maps = tokens.view(-1, *GRID, CHANNELS)
    maps[0, 6:9, 7:10] = maps[0, :3, :3]  # a hole that shows the ground
    maps[1, 4:10, 5:8] = maps[1, :6, :3]  # a piece has broken off
    kept = foreground.kept(maps.flatten(1, 2), GRID)[0].reshape(where.shape)
    assert kept[where].all()


def test_an_image_without_a_part_keeps_all_patches():
    tokens, _ = images()
    foreground, _ = find_foreground([tokens], GRID)
    tokens[3] = tokens[3, :1]
    kept, lost = foreground.kept(tokens, GRID)
    assert np.flatnonzero(lost).tolist() == [3]
    assert kept[3].all()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("noise", "two kinds"),
        ("halves", "reaches the border"),
        ("loose", "middle of the images"),
        ("large", "little background"),
    ],
)
def test_surfaces_have_no_background(change, reason):
    tokens, _ = images()
    generator = torch.Generator().manual_seed(3)
    maps = tokens.view(-1, *GRID, CHANNELS)
    part, ground = maps[0, 7, 8].clone(), maps[0, 0, 0].clone()
    noise = 0.1 * torch.randn(maps.shape, generator=generator)
    maps[:] = ground + noise
    if change == "noise":
        maps[:] = torch.randn(maps.shape, generator=generator)
    elif change == "halves":
        maps[:, 3:, :9] += part - ground
    elif change == "loose":
        maps[:, 3:6, 3:5] += part - ground
        maps[:, 9:12, 11:13] += part - ground
    else:
        maps[:, 1:-1, 1:-1] += part - ground
    _, figures = find_foreground([tokens], GRID)
    assert figures.objection is not None
    assert reason in figures.objection or figures.objection == "patches do not fall into two kinds"
    if change != "noise":
        assert reason in figures.objection


def test_compressed_tokens_are_normalised_already():
    tokens, where = images()
    plain = torch.nn.functional.layer_norm(tokens, tokens.shape[1:])
    foreground, figures = find_foreground([plain], GRID, normalised=True)
    expected, of_raw = find_foreground([tokens], GRID)
    assert figures.separation == pytest.approx(of_raw.separation, abs=1e-3)
    kept = foreground.kept(plain, GRID, normalised=True)[0]
    np.testing.assert_array_equal(kept, expected.kept(tokens, GRID)[0])
    assert isinstance(foreground, Foreground)
    assert kept.reshape(where.shape)[where].all()
