"""How far `compress: auto` compresses; without torch, for the driver and the plan."""

AUTO_ENERGY = 0.995
"""Share of the energy of a group's tokens that `auto` keeps in every layer, where that takes no more than a quarter of
the channels. Real sets take the quarter, which keeps 0.977 to 0.994 of theirs and is enough since tokens keep their
length; fewer are taken of very even products alone."""

SAMPLE_IMAGES = 128
"""Images that a basis is found from: `tests/benchmarks/bench_projection.py` compares 8 to all of a set, and patch maps
of magnetic tiles still gain a little from 64 to 110."""

MIN_IMAGES = 64
"""`auto` leaves smaller groups as they are: there is little to gain, and the sample passes the model twice."""

CHANNELS_STEP = 16
"""`auto` chooses a multiple of this: rows of products then fill whole vector registers."""

MAX_SHARE = 4
"""`auto` keeps at most 1 / MAX_SHARE of the channels: as int8, an eighth of the bytes of float16."""


MEASURED_LOSS = 0.002
"""Image AUROC moved by less on all measured sets with a quarter of the channels: tests/benchmarks/bench_compress.py."""


def most_channels(channels: int) -> int:
    """Return the most directions that `auto` keeps of tokens of this many channels."""
    return max(min(CHANNELS_STEP, channels), channels // MAX_SHARE // CHANNELS_STEP * CHANNELS_STEP)
