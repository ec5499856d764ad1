"""Telling that memory ran out, on a GPU or a CPU."""

import torch


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether memory ran out: Python's, CUDA's, or, as PyTorch words it, a CPU allocation's."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)
