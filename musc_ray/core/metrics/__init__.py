"""Metrics of images and pixels: exact, from counts that add up."""
