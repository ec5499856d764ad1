"""Pure compute: torch and numpy in, torch and numpy out. Imports nothing else of musc_ray: no Ray, files or settings.

In order of use: `lnamd`, `snamd` (patch vectors), `operands/` (a shard prepared for multiplication), `tile_product`
and `near_duplicates` (multiply a tile), `interval_average` and `patch_scores` (distances -> patch scores), `pixel_map`
(-> raw image scores), `rescoring` by `rscin` or `rscon` (-> final scores), `ranks`, `threshold`. `score_features`
computes patch scores of one group in memory.
"""

AGGREGATIONS = ("lnamd", "snamd")
"""How the neighbourhoods of a patch become vectors; see the modules of the same names."""

MATCHINGS = ("anywhere", "near", "auto")
"""Where in other images a patch looks for its nearest: see `matching`."""

DEFAULT_RADIUS = 2
"""Radius of `near` in patches; see the table of `tests/benchmarks/bench_matching.py`."""

MAX_DEGREE = 33
"""Largest neighbourhood size: the CPU kernel reaches one vector of 16 patches to each side (see `kernels/simd.py`)."""

PRECISION_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}
"""Bytes of a number of each precision."""

MIN_IMAGES_LOW_PRECISION = 64
"""In smaller groups `precision: auto` is exact: there is little to gain, and a score averages too few distances to even
out rounding."""


def vectors_per_patch(aggregation: str, degrees: int) -> int:
    """Count the vectors that represent a patch in a layer: one per degree (LNAMD), or one for all of them (SNAMD)."""
    return 1 if aggregation == "snamd" else degrees


def products_per_tile(on_gpu: bool, precision: str, vectors: int, radius: int | None = None) -> int:
    """Count the matrix products of a layer's tile: one per vector of a patch on a GPU and in int8, else one for all.

    Near the same place (a radius) it is one per vector anywhere.
    """
    return vectors if on_gpu or precision == "int8" or radius is not None else 1


def operand_bytes(on_gpu: bool, precision: str, vectors: int, near: bool) -> int:
    """Compute the bytes of a channel of a patch as operands of products; see `operands/`.

    Each vector of a patch has its own on a GPU, in int8 and near the same place, else all have one; products anywhere
    on a CPU take a left and a right operand, but for float32.
    """
    copies = vectors if on_gpu or precision == "int8" or near else 1
    both = not on_gpu and precision != "float32" and not near
    return PRECISION_BYTES[precision] * copies * (2 if both else 1)


def candidates(grid: tuple[int, int], radius: int | None) -> float:
    """Count the patches of an image that a patch is compared with, on average over a grid.

    Args:
        grid: (h, w).
        radius: of `matching: near`, in patches; None means all.
    """
    if radius is None:
        return grid[0] * grid[1]
    along = [sum(side - abs(o) for o in range(-radius, radius + 1) if abs(o) < side) / side for side in grid]
    return along[0] * along[1]


def auto_precision(device: str, has_bfloat16: bool, int8_pays: bool = False) -> str:
    """Return the number format that `auto` means for many images.

    int8 for compressed features where the device multiplies it fast: they have few channels, whose products cost less
    than the box filter that a CPU's other formats need, and duplicates stay exact. Else float16 on a GPU (same
    tensor-core rate as bfloat16, 3 more bits; unit vectors never overflow), bfloat16 on a CPU with bfloat16
    instructions, and float32 on others.

    Args:
        device: cpu or cuda.
        has_bfloat16: whether the CPU has such instructions.
        int8_pays: whether features are compressed and the device has instructions for int8, as every GPU has.
    """
    if int8_pays:
        return "int8"
    if device == "cuda":
        return "float16"
    return "bfloat16" if has_bfloat16 else "float32"
