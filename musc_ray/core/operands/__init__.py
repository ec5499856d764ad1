"""A shard's layer as operands of matrix products: `prepare` chooses the form for CPUs (`cpu`) or for GPUs (`gpu`)."""
