"""Constants of robust statistics."""

MAD_TO_STD = 1.4826
"""Standard deviation of a normal distribution in units of its median absolute deviation: 1 / Phi^-1(3/4)."""
