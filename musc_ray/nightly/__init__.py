"""Nightly runs: history, selection of new images and their window, the run."""
