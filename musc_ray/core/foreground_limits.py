"""Constants of `foreground: auto` that need no torch: see `foreground`."""

MIN_IMAGES = 8
"""Groups of fewer images keep all patches: a sample of them says little."""

SAMPLE_IMAGES = 32
"""Images of a sample."""
