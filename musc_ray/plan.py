"""What a job will cost: counts, arithmetic, bytes and time, before anything is read."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from musc_ray.backbones import BackboneInfo
from musc_ray.core.mutual import tile_minima
from musc_ray.core.prepared import prepare

CALIBRATION_SECONDS = 1.0


@dataclass(frozen=True)
class Plan:
    """The cost of scoring an archive with references `all`.

    Arithmetic in floating-point operations, storage in bytes, rates in operations a second on one worker.
    """

    images: int
    groups: int
    shards: int
    tiles: int
    extract_operations: float
    mutual_operations: float
    feature_bytes: int
    pending_bytes: int
    extract_rate: float
    mutual_rate: float
    workers: int

    @property
    def extract_seconds(self) -> float:
        """Estimated time of stage 2 on `workers`."""
        return self.extract_operations / self.extract_rate / self.workers

    @property
    def mutual_seconds(self) -> float:
        """Estimated time of stage 3 on `workers`."""
        return self.mutual_operations / self.mutual_rate / self.workers


def plan_job(
    group_sizes: Sequence[int],
    info: BackboneInfo,
    degrees: Sequence[int],
    shard_size: int,
    dtype: torch.dtype,
    device: torch.device,
    workers: int,
) -> Plan:
    """Count a job's work and calibrate the two rates that decide its time on this machine, for about 2 seconds.

    Args:
        group_sizes: images of each group.
        info: the backbone's shape.
        degrees: LNAMD degrees.
        shard_size: images a shard.
        dtype: precision of the tile product.
        device: where a worker computes; calibrated with the threads that this process has.
        workers: actors.
    """
    length = info.grid[0] * info.grid[1]
    shards = [-(-size // shard_size) for size in group_sizes]
    pairs = sum(size * (size + 1) // 2 for size in group_sizes)
    layers = len(info.layers)
    products = 1 if device.type == "cpu" else len(degrees)  # see core/prepared.py
    return Plan(
        images=sum(group_sizes),
        groups=len(group_sizes),
        shards=sum(shards),
        tiles=sum(count * (count + 1) // 2 for count in shards) * layers,
        extract_operations=sum(group_sizes) * forward_operations(info),
        mutual_operations=pairs * 2.0 * length**2 * info.channels * layers * products,
        feature_bytes=sum(group_sizes) * (layers * length * info.channels * 2 + info.class_channels * 4),
        pending_bytes=max(group_sizes) ** 2 * length * len(degrees) * (4 if dtype == torch.float32 else 2),
        extract_rate=_forward_rate(info, device),
        mutual_rate=_mutual_rate(info, degrees, dtype, device),
        workers=workers,
    )


def forward_operations(info: BackboneInfo) -> float:
    """Operations of a ViT's forward pass: 12 C^2 weights a block (MLP ratio 4) and two attention products."""
    tokens, channels = info.grid[0] * info.grid[1] + 1, info.channels
    return float(info.depth) * (24.0 * tokens * channels**2 + 4.0 * tokens**2 * channels)


def _forward_rate(info: BackboneInfo, device: torch.device) -> float:
    """Rate of an MLP-shaped float32 product, which a forward pass mostly consists of."""
    tokens = torch.randn(info.grid[0] * info.grid[1], info.channels, device=device)
    weight = torch.randn(info.channels, 4 * info.channels, device=device)
    operations = 2.0 * tokens.shape[0] * weight.numel()
    return operations / _seconds_of(lambda: tokens @ weight, device)


def _mutual_rate(info: BackboneInfo, degrees: Sequence[int], dtype: torch.dtype, device: torch.device) -> float:
    """Rate of the tile kernel on two images of noise in this shape."""
    length = info.grid[0] * info.grid[1]
    side = max(1, min(8, int(1024 / length)))
    a, b = (
        prepare(torch.randn(side, length, info.channels, device=device), info.grid, degrees, dtype) for _ in range(2)
    )
    products = 1 if device.type == "cpu" else len(degrees)
    operations = 2.0 * (side * length) ** 2 * info.channels * products
    return operations / _seconds_of(lambda: tile_minima(a, b), device)


def _seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Fastest of several calls within CALIBRATION_SECONDS, after one to warm up."""
    work()
    best, deadline = float("inf"), time.perf_counter() + CALIBRATION_SECONDS
    while time.perf_counter() < deadline:
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - started)
    return best
