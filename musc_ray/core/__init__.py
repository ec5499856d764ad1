"""Pure compute: torch and numpy in, torch and numpy out. Imports nothing else of musc_ray: no Ray, files or settings.

In order of use: `lnamd`, `snamd` (patch vectors), `operands/` (a shard prepared for multiplication), `tiles` (multiply
a tile), `interval_average` and `patch_scores` (distances -> patch scores), `pixel_map` (-> raw image scores), `rscin`
(-> final scores), `ranks`, `threshold`. `score_features` computes patch scores of one group in memory.
"""

AGGREGATIONS = ("lnamd", "snamd")
"""How the neighbourhoods of a patch become vectors; see the modules of the same names."""

MAX_DEGREE = 33
"""Largest neighbourhood size: the CPU kernel reaches one vector of 16 patches to each side (see `kernels/simd.py`)."""


def vectors_per_patch(aggregation: str, degrees: int) -> int:
    """Count the vectors that represent a patch in a layer: one per degree (LNAMD), or one for all of them (SNAMD)."""
    return 1 if aggregation == "snamd" else degrees


def products_per_tile(on_gpu: bool, vectors: int) -> int:
    """Count the matrix products of a layer's tile: one per vector of a patch on a GPU, one for all on a CPU."""
    return vectors if on_gpu else 1
