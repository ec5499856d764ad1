"""RsCon against the formula written down with dense matrices: neighbours by the feature of the most anomalous patch."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from musc_ray.core.rescoring import neighbourhood_sizes, weighted_scores
from musc_ray.core.rscon import IMAGES_CHUNK, rscon, salient_features, salient_layer
from tests.helpers import brute_force

GRID = (3, 4)


def dense_rscon(scores, features, k_list):
    """The authors' formula as it stands: W with all but the k largest of each row set to 0, D^-1 W s, mean over k."""
    s = torch.as_tensor(scores, dtype=torch.float64)
    s = (s - s.min()) / (s.max() - s.min())
    f = torch.as_tensor(features, dtype=torch.float64)
    f = f / f.norm(dim=1, keepdim=True)
    similarity = f @ f.T
    results = []
    for k in k_list if 1 in k_list else [*k_list, 1]:
        n = len(s)
        masked = similarity.clone()
        if k < n:
            smallest = torch.topk(similarity, n - k, largest=False).indices
            masked.scatter_(1, smallest, 0.0)
        results.append(torch.diag(1 / masked.sum(dim=1)) @ masked @ s)
    return torch.stack(results).mean(dim=0).numpy()


def made(images, channels=6, seed=0, shift=2.0):
    """Scores and features; without a shift about half of the similarities are negative."""
    generator = np.random.default_rng(seed)
    return generator.random(images), generator.standard_normal((images, channels)) + shift


@given(
    seed=st.integers(0, 10_000), images=st.integers(2, 12), k_list=st.lists(st.integers(1, 15), min_size=1, max_size=3)
)
def test_scores_are_those_of_the_formula(seed, images, k_list):
    scores, features = made(images, seed=seed)
    np.testing.assert_allclose(rscon(scores, features, k_list), dense_rscon(scores, features, k_list), atol=1e-6)


@pytest.mark.parametrize("images", [2, 3, 7, 40])
def test_the_authors_neighbourhoods_are_the_default(images):
    scores, features = made(images)
    np.testing.assert_allclose(rscon(scores, features), dense_rscon(scores, features, (1, 7)), atol=1e-6)
    np.testing.assert_allclose(rscon(scores, features, [7]), rscon(scores, features), atol=1e-7)
    assert [neighbourhood_sizes("rscon", k_list) for k_list in ((7,), (3, 1, 2))] == [(7, 1), (3, 1, 2)]
    assert neighbourhood_sizes("rscin", (7,)) == (7,)


def test_negative_similarities_are_weights_too():
    scores, features = made(6, channels=3, seed=4, shift=0.0)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    assert (np.sort(unit @ unit.T, axis=1)[:, -5] < 0).any(), "the case has some among the five largest"
    np.testing.assert_allclose(rscon(scores, features, (1, 5)), dense_rscon(scores, features, (1, 5)), atol=1e-5)


def test_copies_count_the_image_itself_first_and_copies_of_equal_score_alike():
    scores, features = made(9, seed=2)
    features[5], scores[5] = features[2], scores[2]
    features[7], scores[7] = features[2], scores[2]
    for k_list in ((1, 2), (1, 3), (1, 4)):
        np.testing.assert_allclose(rscon(scores, features, k_list), dense_rscon(scores, features, k_list), atol=1e-6)
    alike = rscon([0.0, 1.0, 0.5], np.ones((3, 4)), (1,))
    np.testing.assert_allclose(alike, [0.0, 1.0, 0.5], atol=1e-6)


def test_weights_that_sum_to_nothing_leave_an_image_its_own_score():
    similarities, indices = np.float32([[1, -1], [1, -1], [1, 0.5]]), np.array([[0, 1], [1, 0], [2, 0]])
    result = weighted_scores(np.array([1.0, 3.0, 2.0]), similarities, indices, (2,))
    np.testing.assert_allclose(result, [0.0, 1.0, 1 / 3], atol=1e-6)


def test_the_layer_is_the_last_but_one():
    assert [salient_layer(layers) for layers in ((2, 5, 8, 11), (6, 7), (7,))] == [8, 6, 7]


@pytest.mark.parametrize("aggregation", ["lnamd", "snamd"])
@pytest.mark.parametrize("degrees", [(1,), (1, 3, 5)])
def test_salient_features_are_those_of_the_most_anomalous_patches(aggregation, degrees):
    generator = np.random.default_rng(0)
    images = 2 * IMAGES_CHUNK + 3
    tokens = 1 + 0.3 * generator.standard_normal((images, 12, 8)).astype(np.float16)
    maps = generator.random((images, 12)).astype(np.float32)
    maps[3, [4, 9]] = 2.0  # the first of equals
    found = salient_features(torch.from_numpy(tokens), GRID, torch.from_numpy(maps), degrees, aggregation)
    if aggregation == "snamd":
        vectors = [brute_force.snamd(tokens, GRID, degrees)]
    else:
        vectors = [brute_force.lnamd(tokens, GRID, degree) for degree in degrees]
    most = [int(np.flatnonzero(row == row.max())[0]) for row in maps]
    assert most[3] == 4
    expected = np.concatenate([of_degree[np.arange(images), most] for of_degree in vectors], axis=1)
    expected /= np.sqrt(len(vectors))  # unit vectors end to end: the cosine is the mean over degrees
    assert (found.dtype, found.shape) == (np.float32, (images, 8 * len(vectors)))
    np.testing.assert_allclose(found, expected, atol=2e-6)


@given(seed=st.integers(0, 1000), cut=st.integers(1, 19))
@hypothesis_settings(max_examples=20, deadline=None)
def test_images_at_a_time_change_nothing(seed, cut):
    generator = torch.Generator().manual_seed(seed)
    tokens, maps = torch.randn(20, 12, 4, generator=generator), torch.rand(20, 12, generator=generator)
    whole = salient_features(tokens, GRID, maps, (1, 3), "lnamd")
    parts = [
        salient_features(t, GRID, m, (1, 3), "lnamd")
        for t, m in ((tokens[:cut], maps[:cut]), (tokens[cut:], maps[cut:]))
    ]
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-6)


@pytest.mark.parametrize(
    ("scores", "features", "k_list", "what"),
    [
        ([0.1, 0.2], np.ones((3, 2)), [1], "features .* same N"),
        ([0.1, float("nan")], np.ones((2, 2)), [1], "NaN"),
        ([0.1, 0.2], np.ones((2, 2)), [0], "k_list"),
        ([0.1, 0.2], np.ones((2, 2)), [], "k_list"),
    ],
)
def test_what_cannot_be_rescored_is_refused(scores, features, k_list, what):
    with pytest.raises(ValueError, match=what):
        rscon(scores, features, k_list)
