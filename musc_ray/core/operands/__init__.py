"""A shard's layer as operands of matrix products: one form for CPUs, one for GPUs."""
