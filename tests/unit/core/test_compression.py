"""Compressed tokens: the directions of an uncentred PCA, what they keep, and what rounding does to them."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from musc_ray.core.compression import Energies, find_bases, project, raw_tokens, round_tokens
from musc_ray.core.compression_limits import AUTO_ENERGY, most_channels
from musc_ray.core.lnamd import layer_norm
from musc_ray.core.quantised import rotation

CHANNELS = 96
CPU = torch.device("cpu")


def tokens_of(images: int, seed: int = 0, decay: float = 0.7, patches: int = 40) -> Tensor:
    """Tokens with a mean, of a scale of their own in each image, whose energy falls quickly over turned directions."""
    generator = torch.Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.randn(CHANNELS, CHANNELS, generator=torch.Generator().manual_seed(9)))[0]
    scales = decay ** torch.arange(CHANNELS)
    plain = (torch.randn(images, patches, CHANNELS, generator=generator) + 1) * scales @ turn
    return plain * torch.rand(images, 1, 1, generator=generator).add(0.5) * 7 + 0.3


def energies(tokens: Tensor) -> Energies:
    found = Energies(CHANNELS, CPU)
    for image in tokens.split(3):
        found.add(image)
    return found


def normalised(tokens: Tensor) -> np.ndarray:
    """LayerNorm over an image, once more, in float64."""
    x = tokens.double().numpy()
    mean, variance = x.mean(axis=(1, 2), keepdims=True), x.var(axis=(1, 2), keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-5)


def test_a_basis_spans_the_first_singular_vectors_and_says_what_they_keep() -> None:
    tokens = tokens_of(10)
    (basis,) = find_bases([energies(tokens)], 8)
    flat = normalised(tokens).reshape(-1, CHANNELS)
    _, singular, right = np.linalg.svd(flat, full_matrices=False)
    assert basis.vectors.dtype == torch.float32
    np.testing.assert_allclose(basis.vectors.T @ basis.vectors, np.eye(8), atol=1e-5)
    found = basis.vectors.double().numpy()
    np.testing.assert_allclose(found @ found.T, right[:8].T @ right[:8], atol=1e-5)
    assert basis.energy == pytest.approx((singular[:8] ** 2).sum() / (singular**2).sum(), abs=1e-9)


def test_auto_keeps_its_share_in_every_layer_up_to_a_quarter_of_the_channels() -> None:
    steep, flat = energies(tokens_of(10, decay=0.5)), energies(tokens_of(10, seed=1, decay=0.99))
    first = find_bases([steep])[0]
    assert first.vectors.shape == (CHANNELS, 16)
    assert first.energy >= AUTO_ENERGY
    both = find_bases([steep, flat])
    assert [basis.vectors.shape[1] for basis in both] == [most_channels(CHANNELS)] * 2 == [16, 16]
    assert both[1].energy < AUTO_ENERGY


@pytest.mark.parametrize(("channels", "most"), [(384, 96), (1024, 256), (192, 48), (8, 8), (100, 16)])
def test_the_most_channels_are_a_quarter_in_whole_steps(channels: int, most: int) -> None:
    assert most_channels(channels) == most


def test_more_directions_than_tokens_and_images_without_content_are_no_trouble() -> None:
    flat = Energies(CHANNELS, CPU)
    flat.add(torch.zeros(1, 5, CHANNELS))
    (basis,) = find_bases([flat], 32)
    np.testing.assert_allclose(basis.vectors.T @ basis.vectors, np.eye(32), atol=1e-5)
    assert basis.energy == 1
    found = project(torch.zeros(2, 5, CHANNELS), basis.vectors)
    assert found.outside.tolist() == [0, 0]
    assert torch.equal(found.tokens, torch.zeros(2, 5, 32))


def test_a_projection_keeps_the_length_of_every_token_and_says_what_lay_outside() -> None:
    tokens = tokens_of(6)
    directions = find_bases([energies(tokens)], 8)[0].vectors
    z, found = normalised(tokens), project(tokens, directions)
    y = z @ directions.double().numpy()
    kept = (y**2).sum(axis=(1, 2)) / (z**2).sum(axis=(1, 2))
    np.testing.assert_allclose(found.outside, 1 - kept, atol=1e-5)
    straight = (found.tokens @ rotation(8).T).double().numpy()
    np.testing.assert_allclose(straight[..., :5], y[..., :5], atol=1e-4)
    longer = np.sqrt(((z**2).sum(2) - (y[..., :5] ** 2).sum(2)) / (y[..., 5:] ** 2).sum(2))
    np.testing.assert_allclose(straight[..., 5:], y[..., 5:] * longer[..., None], atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(straight, axis=2), np.linalg.norm(z, axis=2), rtol=1e-5)


def test_what_lies_outside_the_directions_still_sets_a_token_apart() -> None:
    tokens = tokens_of(6, decay=0.5)
    directions = find_bases([energies(tokens)], 16)[0].vectors
    z = torch.from_numpy(normalised(tokens))
    generator = torch.Generator().manual_seed(5)
    defect = z[0] + 0.05 * z.norm(dim=2).mean() * F.normalize(torch.randn(z.shape[1:], generator=generator), dim=1)
    exact = torch.cdist(defect, z[1]).amin(dim=1)
    plain = torch.cdist(defect @ directions.double(), z[1] @ directions.double()).amin(dim=1)
    kept = torch.cdist(*(project(x[None], directions).tokens[0].double() for x in (defect, z[1]))).amin(dim=1)
    assert float((kept / exact - 1).abs().mean()) < 0.4 * float((plain / exact - 1).abs().mean())


def test_all_directions_keep_all_distances() -> None:
    tokens = tokens_of(6)
    found = project(tokens, find_bases([energies(tokens)], CHANNELS)[0].vectors)
    assert float(found.outside.max()) < 1e-5
    torch.testing.assert_close(
        torch.cdist(found.tokens[0], found.tokens[1]), torch.cdist(*layer_norm(tokens[:2])), atol=5e-3, rtol=1e-3
    )


def test_the_projections_of_raw_tokens_follow_from_what_layer_norm_took() -> None:
    tokens = tokens_of(5)
    (basis,) = find_bases([energies(tokens)], 24)
    found = project(tokens, basis.vectors)
    expected = tokens.double().numpy() @ basis.vectors.double().numpy()
    straight = raw_tokens(found.tokens, found.norms, basis.vectors) @ rotation(24).T
    np.testing.assert_allclose(straight[..., :15], expected[..., :15], rtol=1e-4, atol=2e-3)


def test_rounding_is_to_half_a_step_of_each_token() -> None:
    tokens = torch.randn(4, 30, 24, generator=torch.Generator().manual_seed(3)) * torch.logspace(-3, 3, 30)[:, None]
    tokens[1, 2] = 0
    tokens[2, 3] = 1e-42  # below what a scale can say
    rounded, scales = round_tokens(tokens)
    assert (rounded.dtype, scales.dtype, scales.shape) == (torch.int8, torch.float32, (4, 30))
    assert (scales[1, 2], scales[2, 3]) == (0, 0)
    error = (rounded.float() * scales[..., None] - tokens).abs()
    assert bool((error <= scales[..., None] * 0.501 + 1e-40).all())
    assert int(rounded.abs().amax()) == 127
