"""Results of calls in this process that wait for the call that takes them: in memory up to a limit, else on disk."""

import mmap
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

MIN_ARRAY_BYTES = 2**16
"""Smaller arrays stay in memory uncounted."""


class ResultStore:
    """Counts the bytes of arrays and tensors in results; what exceeds the limit is kept in files without a name.

    The space of an array, on disk as in memory, is free again when nothing refers to the array any more.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.bytes_in_memory = 0
        self._lock = threading.Lock()

    def keep(self, value: Any) -> Any:
        """Return a value whose large arrays and tensors, those within tuples and dataclasses too, are counted or moved.

        Raises:
            OSError: the disk is full.
        """
        return _with_arrays(value, self._kept)

    def _kept(self, array: Any) -> Any:
        """Return an array, or a tensor on the CPU, as it is while it fits, else as one that lies on disk."""
        size = int(array.nbytes)
        with self._lock:
            fits = self.bytes_in_memory + size <= self.max_bytes
            if fits:
                self.bytes_in_memory += size
        if fits:
            weakref.finalize(array, self._forget, size)
            return array
        if isinstance(array, np.ndarray):
            return _on_disk(array)
        import torch  # the tensor's, so it is imported already

        return torch.from_numpy(_on_disk(array.numpy()))

    def _forget(self, size: int) -> None:
        with self._lock:
            self.bytes_in_memory -= size


def _with_arrays(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return a value with its large arrays and tensors changed."""
    if _is_large_array(value):
        return change(value)
    if type(value) in (tuple, list):
        return type(value)(_with_arrays(item, change) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        changed = {field.name: _with_arrays(getattr(value, field.name), change) for field in fields(value)}
        same = all(getattr(value, name) is item for name, item in changed.items())
        return value if same else replace(value, **changed)
    return value


def _is_large_array(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.nbytes >= MIN_ARRAY_BYTES and value.dtype != object
    torch = sys.modules.get("torch")  # without it there are no tensors
    return (
        torch is not None
        and isinstance(value, torch.Tensor)
        and value.device.type == "cpu"
        and value.nbytes >= MIN_ARRAY_BYTES
    )


def _on_disk(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return an array of the same values that lies in a file, which has no name and ends with the array."""
    with tempfile.TemporaryFile(prefix="musc-ray-") as file:
        file.write(np.ascontiguousarray(array).data)  # a full disk is an error here; in a mapped page it would be fatal
        file.flush()
        mapped = mmap.mmap(file.fileno(), array.nbytes, access=mmap.ACCESS_COPY)  # private: nobody else writes to it
    return np.frombuffer(mapped, array.dtype).reshape(array.shape)
