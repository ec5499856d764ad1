"""Telling that memory ran out, on a GPU or a CPU."""


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether memory ran out: Python's, CUDA's, or, as PyTorch words it, a CPU allocation's."""
    if error is None:
        return False
    import torch  # here: not every process that asks has it at hand, and it takes 300 MB

    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)
