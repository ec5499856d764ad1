"""Nightly runs: new images are scored against a window of earlier ones.

history.py    which images earlier runs know, and in which version
selection.py  which images are new, and which earlier ones form their window
run.py        a nightly run from start to end
"""
