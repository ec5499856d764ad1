"""Pure compute: torch and numpy in, torch and numpy out. Nothing here knows of Ray, files or settings."""

LARGEST_DEGREE = 33
"""Neighbourhoods reach at most a vector of 16 patches to each side (see `simd`)."""
