"""TileDriver scoring on this machine: the published way against `score_features`, and against the machine's GEMM rate.

    python tests/benchmarks/bench_mutual.py [--large | --compressed]

The baseline is what a user would otherwise run: for every image, layer and degree one full `torch.cdist` against every
other image in float32, minimum, and interval average. It is run on some images and scaled to all N. Errors are against
float64. Shares are of two limits: products of a block's shape with operands in the cache, and the needed products alone
with their own operands. Everything runs on the GPU where there is one, where each degree needs a product; needs torch
alone. There float16 is compared with compressed features in int8, matched anywhere and near the same place, too: rates
are of the pairs of patches of all places.

`--compressed` compares, on a CPU, tiles of whole features in the precision that `auto` means for them with tiles of
compressed ones in int8, by turns in the same run on the same threads.
"""

import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch
from machine import describe_machine

import musc_ray
from musc_ray.core.compression import Energies, find_bases, project
from musc_ray.core.kernels.onednn import linear
from musc_ray.core.lnamd import aggregate, layer_norm
from musc_ray.core.operands.base import PreparedShard
from musc_ray.core.operands.prepare import prepare
from musc_ray.core.precision import default_device, resolve_precision
from musc_ray.core.quantised import rotation
from musc_ray.core.tile_product import TileChunk, multiply_tile, tile_chunks

DEVICE = default_device()
ON_GPU = DEVICE.type == "cuda"
SHAPES = {"ViT-S/14 at 224 px": (120, 16, 384), "ViT-L/14 at 518 px": (200 if ON_GPU else 80, 37, 1024)}
DEGREES = (1, 3, 5)


def features_of(images: int, side: int, channels: int) -> torch.Tensor:
    """Images of one product: neighbouring patches alike, a common part and an own one each; (N, L, C) float16."""
    generator = torch.Generator().manual_seed(0)
    common = torch.randn(1, channels, side + 4, side + 4, generator=generator)
    own = torch.randn(images, channels, side + 4, side + 4, generator=generator)
    smooth = torch.nn.functional.avg_pool2d(common + own, 5, stride=1) * 3 + 0.5 * own[:, :, 2:-2, 2:-2]
    return smooth.flatten(2).transpose(1, 2).half()


def baseline_image(z: torch.Tensor, image: int) -> torch.Tensor:
    """Patch scores (L,) of one image for one degree, the published way; z (N, L, C)."""
    others = [index for index in range(len(z)) if index != image]
    minima = torch.stack([torch.cdist(z[image], z[other]).amin(dim=1) for other in others], dim=1)
    return minima.topk(max(1, int(0.3 * len(others))), dim=1, largest=False).values.mean(dim=1)


def seconds_of(work: Callable[[], object], repeats: int) -> float:
    """Fastest of some runs."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        if ON_GPU:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return min(times)


def gemm_rate(side: int, channels: int, dtype: torch.dtype) -> float:
    """Operations a second of plain products of the kernel's block shape, each core with products of its own."""
    rows, threads = (8 if ON_GPU else 1) * max(side * side, 1024), 1 if ON_GPU else torch.get_num_threads()
    a, b = (torch.randn(rows, channels, device=DEVICE).to(dtype) for _ in range(2))

    def multiply(_: int) -> None:
        linear(a, b)

    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        seconds = seconds_of(lambda: list(pool.map(multiply, range(16 * threads))), 7)
    torch.set_num_threads(threads)
    return 2.0 * rows * rows * channels * 16 * threads / seconds


def products_alone(features: torch.Tensor, grid: tuple[int, int], dtype: torch.dtype) -> float:
    """Seconds of the very products that a CPU needs, on as many threads, and nothing else."""
    shard = prepare(features, grid, DEGREES, dtype)
    chunks, threads = list(tile_chunks(shard, shard)), torch.get_num_threads()

    def multiply(chunk: TileChunk) -> None:
        shard.product(shard, chunk.rows, chunk.columns)

    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        seconds = seconds_of(lambda: list(pool.map(multiply, chunks)), 3)
    torch.set_num_threads(threads)
    return seconds


def peak_bytes() -> float:
    """The most memory so far: of the GPU, or of this process."""
    return torch.cuda.max_memory_allocated() if ON_GPU else 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measure(name: str, images: int, side: int, channels: int) -> None:
    grid, length = (side, side), side * side
    features = features_of(images, side, channels).to(DEVICE)
    sample = [0, images // 2]
    zs = [aggregate(layer_norm(features), grid, degree) for degree in DEGREES]
    baseline_image(zs[0][:3], 0)
    baseline = sum(seconds_of(lambda z=z: [baseline_image(z, i) for i in sample], 1) for z in zs) * images / len(sample)
    exact = torch.zeros(len(sample), length, dtype=torch.float64, device=DEVICE)
    for degree in DEGREES:
        z = aggregate(layer_norm(features), grid, degree).double()
        for row, i in enumerate(sample):
            others = [j for j in range(images) if j != i]
            minima = torch.stack([torch.cdist(z[i], z[j]).amin(dim=1) for j in others], dim=1)
            k = max(1, int(0.3 * len(others)))
            exact[row] += minima.topk(k, largest=False).values.mean(dim=1) / len(DEGREES)
    print(f"{name}: N = {images}, L = {length}, C = {channels}, degrees {DEGREES}; baseline {baseline:.1f} s")
    titles = ("precision", "s", "TFLOP/s", "ratio", "largest error", "of GEMM limit", "of its products", "peak GB")
    print("  {:10} {:>7} {:>8} {:>6} {:>14} {:>14} {:>16} {:>8}".format(*titles))
    operations = images * (images - 1) / 2 * 2.0 * length**2 * channels * (len(DEGREES) if ON_GPU else 1)
    for precision, dtype in {"float32": torch.float32, "auto": None, "bfloat16": torch.bfloat16}.items():
        run = partial(musc_ray.score_features, [features], grid, degrees=DEGREES, precision=precision)
        error = (run()[sample].double() - exact.cpu()).abs().max().item()
        seconds = seconds_of(run, 3)
        used = dtype or resolve_precision("auto", DEVICE, images)
        limit = operations / gemm_rate(side, channels, used)
        alone = "" if ON_GPU else f"{products_alone(features, grid, used) / seconds:.2f}"
        print(
            f"  {precision:10} {seconds:7.2f} {operations / seconds / 1e12:8.2f} {baseline / seconds:6.1f} "
            f"{error:14.1e} {limit / seconds:14.2f} {alone:>16} {peak_bytes() / 1e9:8.2f}"
        )


def compare_forms(images: int, side: int, channels: int) -> None:
    """Print the rates of the forms of a shard that a GPU chooses from, minima and all, distances left on it."""
    features = features_of(images, side, channels).to(DEVICE)
    energies = Energies(channels, DEVICE)
    energies.add(features[:16])
    basis = find_bases([energies], channels // 4)[0].vectors
    compressed = project(features, basis.to(DEVICE)).tokens
    print("  {:36} {:>7} {:>20}".format("form", "s", "pairs of patches/s"))
    for name, tokens, dtype, radius in (
        (f"float16, {channels} channels", features, torch.float16, None),
        (f"int8, {channels // 4} channels", compressed, torch.int8, None),
        (f"int8, {channels // 4} channels, near (radius 2)", compressed, torch.int8, 2),
    ):
        normalised = tokens is compressed
        shard = prepare(tokens, (side, side), DEGREES, dtype, radius=radius, normalised=normalised)
        chunks = list(tile_chunks(shard, shard))

        def multiply(shard: PreparedShard = shard, chunks: list[TileChunk] = chunks) -> None:
            for chunk in chunks:
                shard.nearest_distances(shard, chunk.rows, chunk.columns)

        multiply()  # compiles
        seconds = seconds_of(multiply, 3)
        pairs = len(DEGREES) * images * (images - 1) / 2 * side**4
        print(f"  {name:36} {seconds:7.3f} {pairs / seconds:20.2e}")


def features_with_spectrum(images: int, side: int, channels: int) -> torch.Tensor:
    """Images of one product whose tokens lie in few directions, energies falling as 1 / k^2; (N, L, C) float16."""
    spectrum = 1 / torch.arange(1, channels + 1)
    return features_of(images, side, channels).float().mul(spectrum).matmul(rotation(channels)).half()


def measure_compressed(name: str, images: int, side: int, channels: int) -> None:
    """Compare pairs of images a second of a diagonal tile: whole features as `auto` scores them, compressed in int8."""
    from int8_rate import int8_rate  # here: imports numba

    grid, pairs, threads = (side, side), images * (images - 1) / 2, torch.get_num_threads()
    features = features_with_spectrum(images, side, channels)
    energies = Energies(channels, torch.device("cpu"))
    energies.add(features[:: max(1, images // 12)])
    whole_dtype = resolve_precision("auto", torch.device("cpu"), 1000)
    print(f"{name}: N = {images}, L = {side * side}, C = {channels}, {threads} threads; whole in {whole_dtype}")
    titles = (
        "degrees",
        "K",
        "energy",
        "whole: pairs/s",
        "int8: pairs/s",
        "ratio",
        "of CPU time",
        "of limit",
        "of CPU time",
    )
    print("  {:10} {:>5} {:>8} {:>15} {:>14} {:>6} {:>12} {:>9} {:>12}".format(*titles))
    for degrees in ((1, 3), (1, 3, 5)):
        whole = prepare(features, grid, degrees, whole_dtype)
        for kept in (None, channels // 4):
            (basis,) = find_bases([energies], kept)
            tokens = project(features, basis.vectors).tokens
            shard = prepare(tokens, grid, degrees, torch.int8, normalised=True)
            wall, cpu = fastest_by_turns([partial(multiply_tile, s, s, torch.float16) for s in (whole, shard)])
            rate, what = int8_rate(side, tokens.shape[2])
            limit = pairs * len(degrees) * float(side) ** 4 * tokens.shape[2] / rate  # seconds of one core
            print(
                f"  {degrees!s:10} {tokens.shape[2]:5} {basis.energy:8.4f} {pairs / wall[0]:15,.0f} "
                f"{pairs / wall[1]:14,.0f} {wall[0] / wall[1]:6.2f} {cpu[0] / cpu[1]:12.2f} "
                f"{limit / threads / wall[1]:9.2f} {limit / cpu[1]:12.2f}"
            )
    print(f"  limit: {what}, {2 * rate / 1e12:.2f} TOP/s a core")


def fastest_by_turns(works: list[Callable[[], object]], rounds: int = 5) -> tuple[list[float], list[float]]:
    """Fastest wall time and least CPU time of each work, run by turns so that all see the machine alike."""
    wall, cpu = ([float("inf")] * len(works) for _ in range(2))
    for _ in range(rounds):
        for number, work in enumerate(works):
            started = time.perf_counter(), time.process_time()
            work()
            wall[number] = min(wall[number], time.perf_counter() - started[0])
            cpu[number] = min(cpu[number], time.process_time() - started[1])
    return wall, cpu


def main() -> None:
    print(describe_machine())
    if "--compressed" in sys.argv:
        measure_compressed("ViT-S/14 at 224 px", 120, 16, 384)
        measure_compressed("ViT-L/14 at 518 px", 12, 37, 1024)
        return
    for name, shape in SHAPES.items():
        if ON_GPU or "--large" in sys.argv or shape[1] < 20:
            measure(name, *shape)
            if ON_GPU:
                compare_forms(*shape)


if __name__ == "__main__":
    main()
