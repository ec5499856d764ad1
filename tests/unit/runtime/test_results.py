"""Results that wait in this process: counted while they are in memory, on disk beyond the limit, equal in any case."""

import gc
import mmap
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from musc_ray.core.distance_summary import DistanceSummary
from musc_ray.core.nearest_images import NearestImages
from musc_ray.runtime.results import MIN_ARRAY_BYTES, ResultStore

SIZE = MIN_ARRAY_BYTES // 4
"""float32 values of the smallest array that counts."""


def on_disk(array: np.ndarray) -> bool:
    base: object = array
    while isinstance(base, (np.ndarray, memoryview)):
        base = base.base if isinstance(base, np.ndarray) else base.obj
    return isinstance(base, mmap.mmap)


def test_what_fits_is_returned_as_it_is_and_counted_until_it_is_forgotten():
    store = ResultStore(2 * MIN_ARRAY_BYTES)
    array = np.ones(SIZE, np.float32)
    kept = store.keep((array, "text"))
    assert kept[0] is array
    assert store.bytes_in_memory == array.nbytes
    del array, kept
    gc.collect()
    assert store.bytes_in_memory == 0


def test_what_does_not_fit_lies_on_disk_with_the_same_values():
    store = ResultStore(MIN_ARRAY_BYTES)
    first, second = np.ones(SIZE, np.float32), np.arange(2 * SIZE, dtype=np.float16).reshape(2, -1)
    kept = store.keep([first, (second.T, None)])
    assert kept[0] is first
    assert on_disk(kept[1][0])
    assert not on_disk(first)
    assert kept[1][0].dtype == np.float16
    np.testing.assert_array_equal(kept[1][0], second.T)
    assert store.bytes_in_memory == first.nbytes


def test_small_arrays_and_other_values_stay():
    store = ResultStore(0)
    small, objects = np.ones(3), np.array([object()] * SIZE * 2)
    kept = store.keep((small, objects, 3.5, {"a": 1}))
    assert kept[0] is small
    assert kept[1] is objects
    assert store.bytes_in_memory == 0


def test_tensors_of_summaries_and_nearest_images_move_too():
    store = ResultStore(0)
    counts = torch.arange(SIZE, dtype=torch.int32).reshape(2, -1)
    excesses = torch.rand(2, SIZE // 2)
    keys = torch.arange(SIZE).reshape(1, 1, -1)
    summary, nearest = store.keep((DistanceSummary(counts, excesses), NearestImages(keys)))
    assert isinstance(summary, DistanceSummary)
    for moved, original in ((summary.counts, counts), (summary.excesses, excesses), (nearest.keys, keys)):
        assert moved.data_ptr() != original.data_ptr()
        assert torch.equal(moved, original)
    assert store.bytes_in_memory == 0


def test_tensors_in_memory_count_until_they_are_forgotten():
    store = ResultStore(2**30)
    tensor = torch.zeros(SIZE)
    kept = store.keep(NearestImages(tensor))
    assert kept.keys is tensor
    gc.collect()
    assert store.bytes_in_memory == MIN_ARRAY_BYTES
    del kept, tensor
    gc.collect()
    assert store.bytes_in_memory == 0


def test_files_have_no_name_and_leave_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    kept = ResultStore(0).keep(np.ones(SIZE, np.float32))
    assert kept.sum() == SIZE
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_an_error_of_the_call(monkeypatch):
    """Not a signal that ends the process, as writing to a mapped file would be."""
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    monkeypatch.setattr("tempfile.TemporaryFile", lambda **_: full.open("wb", buffering=0))
    with pytest.raises(OSError, match="No space left"):
        ResultStore(0).keep(np.ones(SIZE, np.float32))


@dataclass(frozen=True)
class Part:
    """A result with a number beside its array."""

    number: int
    array: np.ndarray


def test_dataclasses_keep_their_other_fields():
    kept = ResultStore(0).keep(Part(7, np.full(SIZE, 2, np.float32)))
    assert kept.number == 7
    assert on_disk(kept.array)
