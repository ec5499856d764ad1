"""Recognise errors that mean out of memory, on a GPU or a CPU."""


def is_out_of_memory(error: BaseException | None) -> bool:
    """Tell whether an error means that memory ran out: Python's, CUDA's, or PyTorch's CPU allocator's."""
    if error is None:
        return False
    import torch  # here: it takes 300 MB, and not every process that asks has it loaded

    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)
