"""Pure compute: torch and numpy in, torch and numpy out. Nothing here knows of Ray, files or settings."""

AGGREGATIONS = ("lnamd", "snamd")
"""How the neighbourhoods of a patch become vectors; see the modules of these names."""

LARGEST_DEGREE = 33
"""Neighbourhoods reach at most a vector of 16 patches to each side (see `simd`)."""


def vectors_a_patch(aggregation: str, degrees: int) -> int:
    """Vectors that stand for a patch in a layer: one a degree (LNAMD), or one for all of them (SNAMD)."""
    return 1 if aggregation == "snamd" else degrees
