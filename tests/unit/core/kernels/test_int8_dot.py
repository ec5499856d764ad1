"""The kernels of int8 products against distances of the same vectors in float64, where the CPU has the instruction."""

import numpy as np
import pytest
import torch

from musc_ray.core.kernels import int8_dot
from musc_ray.core.operands.int8 import half_squares
from musc_ray.core.quantised import NOWHERE

pytestmark = pytest.mark.skipif(not int8_dot.AVAILABLE, reason="this CPU lacks AVX-512 VNNI")

SCALE = 7.0


def vectors_of(*shape: int) -> torch.Tensor:
    """Any int8 vectors of even squared length, the largest values among them."""
    q = np.random.default_rng(sum(shape)).integers(-127, 128, shape).astype(np.int8)
    q[0, 0] = -127
    odd = q.astype(int).sum(axis=-1) % 2 != 0
    q[..., 0] = np.where(odd, np.where(q[..., 0] > 0, q[..., 0] - 1, q[..., 0] + 1), q[..., 0])
    return torch.from_numpy(q)


def distances(x: torch.Tensor, y: torch.Tensor) -> np.ndarray:
    """|x - y| / SCALE of all of x (..., C) and all of y, shapes of x and y one behind the other."""
    a, b = (v.double().numpy().reshape(-1, v.shape[-1]) for v in (x, y))
    square = ((a[:, None] - b) ** 2).sum(axis=2)
    return np.sqrt(square).reshape(*x.shape[:-1], *y.shape[:-1]) / SCALE


def left_of(q: torch.Tensor, spare: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    return int8_dot.pack_rows(q, spare), int8_dot.row_constants(half_squares(q), spare)


def right_of(q: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    sums = q.sum(dim=2, dtype=torch.int32)
    return int8_dot.pack_columns(q), int8_dot.column_constants(half_squares(q), sums)


@pytest.mark.parametrize(
    ("patches", "channels"),
    [
        (1, 1),
        (1, 4),
        (5, 3),
        (6, 8),
        (16, 16),
        (17, 5),
        (33, 12),
        (48, 20),
        (50, 7),
        (64, 4),
        (65, 9),
        (81, 6),
        (130, 8),
    ],
)
def test_all_sizes_of_micro_tiles(patches, channels):
    q, p = vectors_of(3, patches, channels), vectors_of(4, patches, channels)
    p[2, patches // 2] = q[1, 0]
    out = torch.empty(2, patches, 3), torch.empty(3, patches, 2)
    int8_dot.nearest(left_of(q), right_of(p), (slice(1, 3), slice(1, 4)), SCALE, out)
    expected = distances(q[1:], p[1:])
    np.testing.assert_allclose(out[0], expected.min(axis=3), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(out[1], expected.min(axis=1).transpose(1, 2, 0), rtol=1e-6, atol=1e-6)
    assert out[0][0, 0, 1] == 0


def test_rows_come_back_as_they_were_packed():
    q = vectors_of(2, 5, 7)
    assert torch.equal(int8_dot.unpack_rows(int8_dot.pack_rows(q)[:, :5, :7]), q)


def test_a_product_of_any_other_source_gives_the_same():
    q, p = vectors_of(3, 20, 12), vectors_of(2, 20, 12)
    ours = torch.empty(3, 20, 2), torch.empty(2, 20, 3)
    int8_dot.nearest(left_of(q), right_of(p), (slice(0, 3), slice(0, 2)), SCALE, ours)
    product = q.reshape(-1, 12).int() @ p.reshape(-1, 12).int().T
    theirs = torch.empty(3, 20, 2), torch.empty(2, 20, 3)
    constants = (-half_squares(v).flatten() for v in (q, p))
    int8_dot.nearest_of_product(product, *constants, SCALE, theirs)
    assert torch.equal(ours[0], theirs[0])
    assert torch.equal(ours[1], theirs[1])


@pytest.mark.parametrize(
    ("images", "grid", "radius"),
    [
        ((3, 5), (3, 4), 1),
        ((20, 40), (2, 6), 2),
        ((7, 70), (3, 3), 0),
        ((4, 33), (1, 7), 9),
        ((2, 1), (7, 1), 3),
        ((13, 17), (6, 5), 2),
    ],
)
def test_places_near_one_another(images, grid, radius):
    (h, w), channels = grid, 10
    generator = np.random.default_rng(h * w)
    used = tuple(generator.random(h * w) < share for share in (0.6, 0.8))
    used[0][0] = used[1][0] = True
    q, p = (vectors_of(h * w, count, channels) for count in images)
    right = right_of(p)
    right[1][0, images[1] - 1] = NOWHERE
    i, j = slice(1, images[0]), slice(16 if images[1] > 16 else 0, images[1])
    own, its = q[:, i], p[:, j]
    expected = distances(own, its)  # (L, a, L, b)
    y, x = np.divmod(np.arange(h * w), w)
    near = np.maximum(abs(y[:, None] - y), abs(x[:, None] - x)) <= radius
    compared = near & used[0][:, None] & used[1]
    expected = np.where(compared[:, None, :, None], expected, np.inf)
    expected[:, :, 0, -1] = np.inf
    out = torch.empty(own.shape[1], h * w, its.shape[1]), torch.empty(its.shape[1], h * w, own.shape[1])
    left = left_of(q, int8_dot.SPARE_ROWS)
    int8_dot.nearest_places(left, right, (grid, radius, used), (i, j), SCALE, 1000.0, out)
    in_b, in_a = expected.min(axis=2).transpose(1, 0, 2), expected.min(axis=0).transpose(2, 1, 0)
    np.testing.assert_allclose(out[0][:, used[0]], np.minimum(in_b, 1000)[:, used[0]], rtol=1e-6, atol=1e-6)
    counted = np.isfinite(in_a)  # of an excluded patch itself nothing is asked
    np.testing.assert_allclose(out[1].numpy()[counted], in_a[counted], rtol=1e-6, atol=1e-6)


def test_places_refuse_a_part_that_operands_cannot_give():
    q = vectors_of(4, 24, 8)
    out = torch.empty(18, 4, 8), torch.empty(8, 4, 18)
    place = (2, 2), 1, (np.ones(4, bool), np.ones(4, bool))
    with pytest.raises(ValueError, match="multiple of 16"):
        int8_dot.nearest_places(left_of(q, 5), right_of(q), place, (slice(0, 18), slice(8, 16)), SCALE, 2.0, out)
    with pytest.raises(ValueError, match="within 24 rows"):
        int8_dot.nearest_places(left_of(q), right_of(q), place, (slice(7, 20), slice(0, 8)), SCALE, 2.0, out)
