"""The ring of references against its definition: mutual, balanced, complete, and cut into blocks without loss."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from musc_ray.core.references import reference_window, section_pairs

IMAGES = st.integers(2, 60)


@given(images=IMAGES, references=st.integers(1, 70), seed=st.integers(0, 1000))
def test_every_image_has_at_least_so_many_others_and_all_have_alike(images, references, seed):
    window = reference_window(images, references, seed)
    related = window.contains(range(images), range(images))
    assert not related.diagonal().any()
    assert (related == related.T).all()
    counts = related.sum(axis=1)
    assert (counts == window.references).all()
    assert min(references, images - 1) <= window.references <= max(references + 1, 1)
    assert window.pairs == related.sum() // 2


@given(images=IMAGES)
def test_all_are_all(images):
    window = reference_window(images, None)
    assert window.is_all
    assert window.contains(range(images), range(images)).sum() == images * (images - 1)


def test_seeds_take_other_references():
    windows = [reference_window(2000, 64, seed) for seed in range(16)]
    related = [window.contains(range(2000), range(2000)) for window in windows]
    assert not any((related[0] & other).any() for other in related[1:])
    assert len(set(windows)) == 16
    assert max(window.last for window in windows) <= 17 * 32  # not far: pending distances are a sliding window


@given(
    images=IMAGES,
    references=st.one_of(st.none(), st.integers(1, 60)),
    seed=st.integers(0, 40),
    sizes=st.lists(st.integers(1, 9), min_size=60, max_size=60),
)
@hypothesis_settings(max_examples=300)
def test_blocks_hold_every_pair_once(images, references, seed, sizes):
    window = reference_window(images, references, seed)
    ends = [min(end, images) for end in np.cumsum(sizes)]
    chunks = [range(start, end) for start, end in zip([0, *ends], ends, strict=False) if start < end]
    found = list(section_pairs(window, chunks))
    assert len(set(found)) == len(found)
    expected = {
        (i, j) for i, a in enumerate(chunks) for j, b in enumerate(chunks) if i <= j and window.contains(a, b).any()
    }
    assert set(found) == expected
    assert found == sorted(found)


@pytest.mark.parametrize("references", [2, 8, 32])
def test_the_number_of_blocks_grows_with_the_images_only(references):
    counts = []
    for images in (1000, 2000, 4000):
        chunks = [range(start, start + 10) for start in range(0, images, 10)]
        counts.append(sum(1 for _ in section_pairs(reference_window(images, references), chunks)))
    assert counts[1] == 2 * counts[0]
    assert counts[2] == 4 * counts[0]
