"""The choice of `matching: auto` by a sample, and `matching` in the Python API."""

import numpy as np
import pytest
import torch

import musc_ray
from musc_ray.core.matching import MatchingChoice, RadiusFigures, choose_matching, radii_to_try, radius_figures
from musc_ray.core.matching_limits import MAX_CANDIDATES, MIN_IMAGES
from musc_ray.core.operands.prepare import prepare
from musc_ray.core.tile_product import multiply_tile
from tests.helpers import brute_force

GRID = (16, 17)
CHANNELS = 48
INTERVAL = (0.0, 0.3)


def product(images: int, offsets: int = 0, seed: int = 0) -> torch.Tensor:
    """Make images (N, L, C) of one product with noise of their own, each moved by some patches on an even ground."""
    generator = torch.Generator().manual_seed(seed)
    h, w = GRID
    margin = 1 if offsets else 0  # of ground in every image
    common = torch.randn(h - 2 * (offsets + margin), w - 2 * (offsets + margin), CHANNELS, generator=generator)
    ground = torch.randn(CHANNELS, generator=generator)
    found = []
    for _ in range(images):
        y, x = (margin + torch.randint(2 * offsets + 1, (2,), generator=generator)).tolist()
        image = ground.repeat(h, w, 1)
        noise = 0.4 * torch.randn(common.shape, generator=generator)
        image[y : y + common.shape[0], x : x + common.shape[1]] = common + noise
        found.append(image.flatten(0, 1))
    return torch.stack(found)


def shuffled(tokens: torch.Tensor) -> torch.Tensor:
    """Give every image an order of its patches of its own."""
    generator = torch.Generator().manual_seed(1)
    return torch.stack([image[torch.randperm(len(image), generator=generator)] for image in tokens])


def choice(tokens: torch.Tensor, radii: list[int]) -> MatchingChoice:
    def distances(radius: int | None) -> torch.Tensor:
        shard = prepare(tokens, GRID, (1,), radius=radius)
        return multiply_tile(shard, shard)[0]

    return choose_matching(distances, INTERVAL, radii)


def test_aligned_images_are_matched_near_and_those_of_shuffled_places_anywhere():
    tokens = product(24)
    near = choice(tokens, [1, 2])
    assert near.radius == 1
    assert near.figures == (RadiusFigures(1, 1.0, 1.0), RadiusFigures(2, 1.0, 1.0))
    assert "100.0% of good patches find their nearest within 1 patch," in near.reason
    anywhere = choice(shuffled(tokens), [1, 2])
    assert anywhere.radius is None
    assert [figures.radius for figures in anywhere.figures] == [2]
    assert all(figures.found < 0.3 for figures in anywhere.figures)


def test_the_smallest_radius_that_suffices_is_chosen():
    """Images are moved by -1, 0 or 1 patches: two of them by up to 2."""
    moved = choice(product(24, offsets=1), [1, 2, 3])
    assert moved.radius == 2
    assert moved.figures[0].found < 0.99 <= moved.figures[1].found


def test_a_most_anomalous_patch_that_moves_forbids_a_radius():
    """Good patches are as near as ever; the defects of some images have their like elsewhere."""
    tokens = product(24)
    defect = 2 * torch.randn(CHANNELS, generator=torch.Generator().manual_seed(5))
    for image in range(12):
        tokens[image, 20 * image] = defect  # found in other images, at other places
        tokens[image, 100] *= -1  # found nowhere, but not as far as the defect near its place
    distances = {}
    for radius in (None, 1):
        shard = prepare(tokens, GRID, (1,), radius=radius)
        distances[radius] = multiply_tile(shard, shard)[0]
    figures = radius_figures(distances[None], distances[1], INTERVAL, 1)
    assert figures.found > 0.99
    assert figures.agrees < 0.98
    assert not figures.suffices


def test_only_radii_that_save_much_are_tried():
    assert radii_to_try((4, 4), None) == []
    assert radii_to_try((4, 4), 3) == [3]
    assert radii_to_try((16, 16), None) == [1, 2]
    assert radii_to_try((37, 37), None) == [1, 2, 3, 4, 5]
    assert choose_matching(lambda _: pytest.fail("no sample is needed"), INTERVAL, []).radius is None
    assert MAX_CANDIDATES * 16 * 16 >= 9


@pytest.mark.parametrize("aggregation", ["lnamd", "snamd"])
@pytest.mark.parametrize("radius", [None, 1, 3])
def test_scores_near_against_loops(radius, aggregation):
    grid, degrees = (5, 3), (1, 3)
    features = [product(6, seed=seed)[:, :15, :8].double().numpy() for seed in (0, 1)]
    found = musc_ray.score_features(
        features, grid, degrees=degrees, precision="float32", aggregation=aggregation, matching="near", radius=radius
    )
    layers = []
    for tokens in features:
        if aggregation == "snamd":
            vectors = [brute_force.snamd(tokens, grid, degrees)]
        else:
            vectors = [brute_force.lnamd(tokens, grid, degree) for degree in degrees]
        minima = [brute_force.near_minima(z, grid, radius or 2) for z in vectors]
        layers.append(np.mean([brute_force.interval_average(m, INTERVAL) for m in minima], axis=0))
    np.testing.assert_allclose(found.numpy(), np.mean(layers, axis=0), atol=1e-4)


def test_auto_of_the_python_api_is_what_it_chooses():
    def scores(tokens: torch.Tensor, **given: object) -> torch.Tensor:
        return musc_ray.score_features([tokens], GRID, degrees=(1,), precision="float32", **given)

    aligned, mixed = product(24, offsets=1), shuffled(product(24))
    assert torch.equal(scores(aligned, matching="auto"), scores(aligned, matching="near", radius=2))
    assert torch.equal(scores(mixed, matching="auto"), scores(mixed))
    assert not torch.equal(scores(mixed, matching="near"), scores(mixed))
    few = aligned[: MIN_IMAGES - 1]
    assert torch.equal(scores(few, matching="auto"), scores(few))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"matching": "close"}, "matching must be one of anywhere, near, auto, not 'close'"),
        ({"radius": 2}, "with matching near or auto, got 2 with anywhere"),
        ({"matching": "near", "radius": 0}, "radius must be a whole number of at least 1"),
        ({"matching": "near", "radius": 2.5}, "radius must be a whole number of at least 1"),
        ({"matching": "near", "radius": "2"}, "radius must be a whole number of at least 1"),
    ],
)
def test_what_does_not_go_together_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        musc_ray.score_features([product(3)], GRID, **given)
