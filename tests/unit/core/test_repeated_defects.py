"""Repeated defects: nearest images, links, communities, patches taken out; against loops over the formulas."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from musc_ray.core import defect_groups
from musc_ray.core import repeated_defects as repeats
from musc_ray.core.distance_summary import BIN_WIDTH, DistanceSummary
from musc_ray.core.nearest_images import NearestImages, distance_of_rank
from musc_ray.core.operands.cpu import GramShard
from musc_ray.core.operands.gpu import UnitVectorShard
from musc_ray.core.tile_product import multiply_tile
from tests.helpers import brute_force


def minima_of(degrees: int, images: int, length: int, others: int, seed: int) -> torch.Tensor:
    """Distances with ties, and some that do not count."""
    generator = np.random.default_rng(seed)
    values = generator.integers(0, 40, (degrees, images, length, others)) / 20
    values[:, generator.random((images, others)).T.T[:, None].repeat(length, 1) < 0.1] = np.inf
    return torch.from_numpy(values.astype(np.float32))


@given(st.integers(0, 1000), st.integers(1, 12), st.integers(1, 9), st.permutations(range(9)))
def test_nearest_images_do_not_depend_on_parts_and_their_order(seed, most, cut, order):
    minima = minima_of(2, 3, 4, 9, seed)
    positions = torch.tensor(order) * 7
    whole = NearestImages.of(minima, positions, most)
    parts = [
        NearestImages.of(minima[..., part], positions[part], most) for part in (slice(cut), slice(cut, None)) if cut < 9
    ]
    if parts:
        assert torch.equal(whole.keys, parts[0].merge(parts[1]).keys)
        assert torch.equal(whole.keys, parts[1].merge(parts[0]).keys)
    mean = minima.mean(dim=0).numpy()
    for i in range(3):
        for m in range(4):
            pairs = sorted((mean[i, m, b], int(positions[b])) for b in range(9) if np.isfinite(mean[i, m, b]))[:most]
            count = len(pairs)
            assert whole.distances[i, m, :count].tolist() == [distance for distance, _ in pairs]
            assert whole.positions[i, m].tolist() == [position for _, position in pairs] + [-1] * (most - count)
            assert torch.isinf(whole.distances[i, m, count:]).all()


@pytest.mark.parametrize("rank", [1, 5, 30])
def test_the_distance_of_a_rank_and_what_a_summary_says_of_it(rank):
    minima = torch.rand(3, 4, 5, 40, generator=torch.Generator().manual_seed(rank)) * 2
    expected = np.sort(minima.numpy().astype(np.float64), axis=3)[..., rank - 1].mean(axis=0)
    exact = distance_of_rank([minima[..., :7], minima[..., 7:]], rank)
    np.testing.assert_allclose(exact, expected, atol=1e-6)
    from_summary = distance_of_rank([DistanceSummary.of(minima[..., :7]), minima[..., 7:]], rank)
    np.testing.assert_allclose(from_summary, expected, atol=BIN_WIDTH)


@pytest.mark.parametrize("form", [GramShard, UnitVectorShard])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_excluded_patches_are_nobodys_nearest(form, precision):
    grid, images, dtype = (4, 5), 5, getattr(torch, precision)
    generator = np.random.default_rng(3)
    tokens = generator.standard_normal((1, 20, 24)) + 0.5 * generator.standard_normal((images, 20, 24))
    tokens[4] = tokens[1]  # distances of exact copies are recomputed another way
    excluded = generator.random((images, 20)) < 0.4
    excluded[2] = False
    excluded[3, 1:] = True
    left, right = (form(torch.from_numpy(tokens).float(), grid, (1, 3, 5), dtype) for _ in range(2))
    right.exclude(torch.from_numpy(excluded))
    rows = multiply_tile(left, right, pairs=~torch.eye(images, dtype=torch.bool))[0].numpy()
    for d, degree in enumerate((1, 3, 5)):
        z = brute_force.lnamd(tokens, grid, degree)
        for i in range(images):
            for j in range(images):
                if i != j:
                    kept = z[j][~excluded[j]]
                    expected = np.sqrt(((z[i][:, None] - kept) ** 2).sum(axis=2)).min(axis=1)
                    np.testing.assert_allclose(
                        rows[d, i, :, j], expected, atol=1e-5 if dtype == torch.float32 else 0.03
                    )


def test_links_are_those_of_the_formula():
    generator = np.random.default_rng(0)
    images, length, most = 6, 4, 5
    layers, thresholds = [], (0.5, 0.6, 0.4)
    for _ in thresholds:
        minima = torch.from_numpy(generator.uniform(0.1, 1, (1, images, length, 8)).astype(np.float32))
        far, scores = (torch.from_numpy(generator.uniform(0.3, 1, (images, length)).astype(np.float32)) for _ in "fs")
        layers.append((NearestImages.of(minima, torch.arange(8) + 20, most), far, scores, minima[0]))
    expected = set()
    for i in range(images):
        for m in range(length):
            for j in range(8):
                votes = 0
                for (_, far, scores, minima), threshold in zip(layers, thresholds, strict=True):
                    among_nearest = (minima[i, m] < minima[i, m, j]).sum() < most
                    hidden = far[i, m] / scores[i, m] >= repeats.MIN_FAR_RATIO
                    grown = torch.log(far[i, m] / minima[i, m, j]) >= repeats.MIN_GROWTH
                    votes += bool(among_nearest and far[i, m] >= threshold and hidden and grown)
                if votes >= 2:
                    expected.add((i + 100, m, j + 20))
    found = repeats.links([layer[:3] for layer in layers], thresholds, 100)
    triples = list(zip(found.images.tolist(), found.patches.tolist(), found.others.tolist(), strict=True))
    assert len(expected) > 3
    assert len(triples) == len(expected)
    assert set(triples) == expected


@given(st.lists(st.floats(0, 1.99), min_size=1, max_size=60))
def test_the_far_threshold_is_reached_by_the_share_of_suspects(values):
    far = torch.tensor(values, dtype=torch.float32)
    threshold = defect_groups.far_threshold(repeats.far_histogram(far))
    assert (far >= threshold).float().mean() >= defect_groups.SUSPECT_SHARE - 1e-6
    above = threshold + defect_groups.MAX_FAR / defect_groups.FAR_BINS
    assert (far >= above).float().mean() < defect_groups.SUSPECT_SHARE


def test_images_that_share_a_defect_are_a_community_whatever_parts_their_links_came_in():
    defects = {1: [3, 8, 12, 17, 25, 30], 2: [0, 9, 21, 33], 0: [5, 6]}
    triples = [(i, m, j) for members in defects.values() for i in members for j in members if i != j for m in (4, 7)]
    triples += [(3, 1, 2), (0, 1, 31)]  # accidents
    found = repeats.Links(*np.array(triples, np.int64).T)
    alone = [repeats.Links(*np.array([triple], np.int64).T) for triple in reversed(triples)]
    for seed in range(3):
        labels = defect_groups.communities([found.edges()], 40, seed)
        assert np.array_equal(labels, defect_groups.communities([link.edges() for link in alone], 40, seed))
        for members in (defects[1], defects[2]):
            assert len(set(labels[members])) == 1
        assert labels[3] == 1
        assert labels[0] == 2
        assert (labels[defects[0]] == 0).all()  # two images are no community
    nothing = repeats.Links(*np.empty((3, 0), np.int64)).edges()
    assert (defect_groups.communities([nothing], 5, 0) == 0).all()


def test_defect_patches_are_linked_to_a_share_of_their_community():
    labels = np.array([1] * 11 + [2] * 3 + [0] * 2, np.int32)
    generator = np.random.default_rng(1)
    triples = np.unique(
        np.stack([generator.integers(4, 16, 400), generator.integers(0, 12, 400), generator.integers(0, 16, 400)]),
        axis=1,
    )
    own, most = range(4, 16), 6
    marks = repeats.defect_patches(repeats.Links(*triples), labels, own, (3, 4), most)
    for i in own:
        for m in range(12):
            others = {j for a, b, j in triples.T.tolist() if (a, b) == (i, m) and labels[j] == labels[i]}
            needed = max(1.0, repeats.MIN_LINKS * min(most, (labels == labels[i]).sum() - 1))
            assert marks[i - 4, m] == (labels[i] > 0 and len(others) >= needed)
    wide = repeats.with_margin(marks, (3, 4)).reshape(-1, 3, 4)
    for i, plane in enumerate(marks.reshape(-1, 3, 4)):
        for y in range(3):
            for x in range(4):
                assert wide[i, y, x] == plane[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2].any()
