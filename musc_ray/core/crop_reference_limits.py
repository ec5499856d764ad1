"""Constants of `crop_references: auto`: see `crop_references`; needs no torch."""

MIN_IMAGES = 8
"""In groups of fewer images crops are compared with all: their cost is small, and a sample of them says little."""

SAMPLE_IMAGES = 24
"""Images of a sample."""

SAMPLE_PLACES = 4
"""Crops of each whose patches look for their nearest, in all crops of the others."""

MIN_FOUND = 0.8
"""Least share of good patches that find their nearest at their own place.

It was 0.97 and more in the aligned sets of the study, 0.23 and less in the others, where 1 / P is chance; in samples of
8 images 0.92 and more, 0.29 and less.
"""
