"""Repeated defects: find what many images share, and score these images without it."""
