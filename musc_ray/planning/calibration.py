"""Determine the rates that a plan rests on: measured on this machine in some seconds, or assumed for a GPU type."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import faiss
import numpy as np
import torch

from musc_ray.backbones import Backbone
from musc_ray.backbones.shape import BackboneInfo
from musc_ray.core import candidates, products_per_tile
from musc_ray.core.crops import CropInput, InputShape
from musc_ray.core.operands.prepare import prepare
from musc_ray.core.precision import DTYPES
from musc_ray.core.tile_product import multiply_tile
from musc_ray.planning.cost import forward_operations
from musc_ray.planning.formats import GroupFormat
from musc_ray.planning.gpu_types import gpu_rate
from musc_ray.planning.job import Rates
from musc_ray.settings.limits import MAX_PIXELS
from musc_ray.sources.decoding import decode_for_model
from musc_ray.sources.deep import BY_FORMAT
from musc_ray.sources.reading import read_image

CALIBRATION_SECONDS = 2.0

NEAR_SIDE = 32
"""Images along the side of a measured tile of matching near: few products a pair, so that more pairs are needed."""

MODEL_SHARE, MUTUAL_SHARE = 0.4, 0.35
"""Assumed shares of the data sheet's rate: of a ViT's forward pass, and of products followed by two maxima."""


@dataclass(frozen=True)
class Workload:
    """What each worker of this machine does while it is measured.

    Attributes:
        degrees, aggregation: of the neighbourhoods.
        group: the format of the features that are compared: channels, and precision of the tile product.
        batch_size: images per forward pass.
        workers: how many work at the same time.
        threads: of each worker.
        radius: of matching near, in patches; None means anywhere.
        crops: where the images of the sample are cut; None where they are not.
    """

    degrees: Sequence[int]
    aggregation: str
    group: GroupFormat
    batch_size: int
    workers: int
    threads: int
    radius: int | None = None
    crops: CropInput | None = None


def measured_rates(backbone: Backbone, workload: Workload, sample: Sequence[str]) -> Rates:
    """Measure the rates of one worker on this machine while all of them are busy.

    Args:
        backbone: of the job's shape, on the device to measure; its weights do not matter.
        workload: what to measure, and on how many workers.
        sample: URIs of images to read; if one cannot be read, reading is not counted.
    """
    workers, threads = workload.workers, workload.threads
    device = backbone.device
    reading = _reading(sample, backbone.info.image_size, workload.crops)
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(threads,)) as pool:
        model = _rate(pool, workers, device, lambda: _forward(backbone, workload.batch_size))
        mutual = _rate(pool, workers, device, lambda: _tile(backbone.info, workload, device))
        search = _rate(pool, workers, torch.device("cpu"), lambda: _search(backbone.info.class_channels))
    torch.set_num_threads(threads)
    cpu = f"{threads} CPU thread{'' if threads == 1 else 's'} of this machine"
    what = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu
    return reading.rates(model, mutual, search, f"measured just now on {what}")


def measured_mutual(info: BackboneInfo, workload: Workload, device: str) -> float:
    """Measure the operations per second of one worker in mutual scoring alone, while all of them are busy."""
    target = torch.device(device)
    with ThreadPoolExecutor(workload.workers, initializer=torch.set_num_threads, initargs=(workload.threads,)) as pool:
        rate = _rate(pool, workload.workers, target, lambda: _tile(info, workload, target))
    torch.set_num_threads(workload.threads)
    return rate


def assumed_rates(kind: str, info: BackboneInfo, sample: Sequence[str], crops: CropInput | None = None) -> Rates:
    """Return assumed rates of a GPU type that this machine lacks.

    Raises:
        SettingsError: an unknown GPU type.
    """
    peak = gpu_rate(kind)
    reading = _reading(sample, info.image_size, crops)
    with ThreadPoolExecutor(1) as pool:
        search = _rate(pool, 1, torch.device("cpu"), lambda: _search(info.class_channels))
    source = (
        f"not measured: {MODEL_SHARE:.0%} and {MUTUAL_SHARE:.0%} of the {kind.upper()}'s {peak / 1e12:,.0f} TFLOP/s"
    )
    return reading.rates(MODEL_SHARE * peak, MUTUAL_SHARE * peak, search, source)


Work = tuple[float, Callable[[], object]]
"""Number of operations of some work, and the work itself."""


def _forward(backbone: Backbone, batch_size: int) -> Work:
    height, width = backbone.info.image_size
    images = torch.zeros(batch_size, height, width, 3, dtype=torch.uint8)
    return batch_size * forward_operations(backbone.info), lambda: [
        layer.half().cpu() for layer in backbone.forward(images).layers
    ]


def _tile(info: BackboneInfo, workload: Workload, device: torch.device) -> Work:
    """Multiply a tile of noise around a common image, since images of one product are alike."""
    length = info.grid[0] * info.grid[1]
    side = max(2, min(16, 4096 // length)) if device.type == "cpu" else max(8, min(64, 2**16 // length))
    group = workload.group
    if workload.radius is not None:
        side = NEAR_SIDE
    common = torch.randn(1, length, group.channels)
    a, b = (
        prepare(
            (common + torch.randn(side, length, group.channels)).to(device),
            info.grid,
            workload.degrees,
            DTYPES[group.precision],
            workload.aggregation,
            workload.radius,
            normalised=group.compressed,
        )
        for _ in range(2)
    )
    products = products_per_tile(device.type == "cuda", group.precision, len(a.degrees), workload.radius)
    compared = length * candidates(info.grid, workload.radius)
    return 2.0 * side**2 * compared * group.channels * products, lambda: multiply_tile(a, b, torch.float16)


def _search(channels: int) -> Work:
    tokens = np.random.default_rng(0).standard_normal((4096, channels), dtype=np.float32)
    return 2.0 * len(tokens) ** 2 * channels, lambda: faiss.knn(tokens, tokens, 3, metric=faiss.METRIC_INNER_PRODUCT)


def _rate(pool: ThreadPoolExecutor, workers: int, device: torch.device, make: Callable[[], Work]) -> float:
    """Measure the median operations per second of one worker while all work, each on its own data."""

    def measure(_: int) -> float:
        operations, work = make()
        work()
        times: list[float] = []
        deadline = time.perf_counter() + CALIBRATION_SECONDS
        while not times or time.perf_counter() < deadline:
            started = time.perf_counter()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times.append(time.perf_counter() - started)
        return operations / float(np.median(times))

    return float(np.mean(list(pool.map(measure, range(workers)))))


@dataclass(frozen=True)
class Reading:
    """Reading and decoding of a sample: means an image, all 0 if it was not measured, and a sentence about it."""

    said: str
    seconds: float = 0.0
    bytes: float = 0.0
    pixels: float = 0.0

    def rates(self, model: float, mutual: float, search: float, source: str) -> Rates:
        """Return all rates of a worker."""
        about = f"{source}; {self.said}"
        return Rates(model, mutual, search, self.seconds, self.bytes, about, self.pixels)


def _reading(sample: Sequence[str], image_size: tuple[int, int], crops: CropInput | None) -> Reading:
    """Measure reading and decoding, with the crops of each image at the model's size."""
    if not sample:
        return Reading("reading and decoding not counted")
    seconds, sizes, pixels = [], [], []
    for uri in sample:
        started = time.perf_counter()
        try:
            data = read_image(uri)
            decoded = decode_for_model(data, InputShape(image_size, crops), MAX_PIXELS, BY_FORMAT)
            pixels.append(decoded.size[0] * decoded.size[1])
        except Exception as error:  # noqa: BLE001 - drivers of object stores raise errors of many libraries
            reason = " ".join(str(error).split()) or type(error).__name__
            return Reading(f"reading and decoding not counted, since {uri} cannot be read: {reason}")
        seconds.append(time.perf_counter() - started)
        sizes.append(len(data))
    said = f"reading and decoding measured on {len(sizes)} images"
    return Reading(said, *(float(np.mean(values)) for values in (seconds, sizes, pixels)))
