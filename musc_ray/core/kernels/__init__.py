"""Compiled inner loops of mutual scoring: numba on CPUs, Triton on GPUs."""
