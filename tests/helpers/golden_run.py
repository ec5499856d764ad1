"""A small run whose scores were stored before the code was rearranged: they must not move by a bit.

    python -m tests.helpers.golden_run tests/helpers/golden_scores.parquet

computes the runs of VARIANTS with the present code and stores their scores. Image ids are hashes of absolute paths and
decide the order of summation, so the images lie in a fixed folder, which one process uses at a time.
"""

import fcntl
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from tests.helpers.pictures import write_pictures
from tests.helpers.weights import write_tiny_weights

FOLDER = Path("/tmp/musc-ray-golden-run")  # noqa: S108
STORED = Path(__file__).with_name("golden_scores.parquet")
IMAGES = 18
COLUMNS = ["variant", "image", "group", "score_raw", "score", "rank", "percentile", "patch_map"]

COMMON = [
    "--backbone",
    "timm:vit_tiny_patch16_224",
    "--image-size",
    "64,96",
    "--precision",
    "float32",
    "--model-precision",
    "float32",
    "--shard-size",
    "4",
]
COMMON += ["--set", "workers=1", "--set", "threads=1", "--set", "report_thumbnails=0", "--set", "report_images=0"]
VARIANTS: dict[str, list[str]] = {
    "default": [],
    "grouped": ["--group-by", "{group}/**"],
    "ring of 6, snamd": ["--references", "6", "--aggregation", "snamd"],
    "repeated defects": ["--repeated-defects", "--degrees", "1,3"],
}


COMPILE = """
import torch
from musc_ray import score_features
features = [torch.rand(3, 24, 8, generator=torch.Generator().manual_seed(0))]
for degrees, aggregation in (((1, 3, 5), "lnamd"), ((1, 3), "lnamd"), ((1, 3, 5), "snamd")):
    score_features(features, (4, 6), degrees=degrees, aggregation=aggregation, precision="float32")
"""


def machine() -> str:
    """What decides the last bits of a matrix product: processor, its vector instructions, libraries."""
    cpu = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    fields = dict(line.split(":", 1) for line in cpu.splitlines() if ":" in line)
    known = {name.strip(): value.strip() for name, value in fields.items()}
    names = ("vendor_id", "cpu family", "model", "flags", "Features")
    parts = [known.get(name, "") for name in names]
    return "; ".join([platform.machine(), torch.__version__, numpy.__version__, *parts])


def compute(run: Callable[[list[str]], None], folder: Path = FOLDER) -> pa.Table:
    """The scores of all variants.

    Args:
        run: runs the command with these arguments and raises if it fails.
        folder: for images, weights and results.
    """
    compile_kernels()
    with _locked(folder):
        return _compute(run, folder)


def compile_kernels() -> None:
    """Fill numba's cache in a process of its own.

    The process that compiles the kernels links functions that were optimised one by one, in which sums have another
    order than in the cached code that all later processes load: its last bits differ.
    """
    subprocess.run([sys.executable, "-c", COMPILE], check=True, timeout=300)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other processes out of the folder."""
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _compute(run: Callable[[list[str]], None], folder: Path) -> pa.Table:
    shutil.rmtree(folder, ignore_errors=True)
    images = folder / "images"
    for path in write_pictures(images, IMAGES):  # as PNG: JPEG decoders differ between versions
        Image.open(path).convert("RGB").save(path.with_suffix(".png"))
        if path.suffix != ".png":
            path.unlink()
    weights = write_tiny_weights(folder)
    parts = []
    for variant, options in VARIANTS.items():
        run_id = variant.split(",")[0].replace(" ", "-")
        arguments = ["run", images, folder / "out", "--weights", weights, *COMMON, *options, "--run-id", run_id]
        run([str(argument) for argument in arguments])
        parts.append(_scores(folder / "out" / "runs" / run_id / "scores", images, variant))
    return pa.concat_tables(parts)


def in_a_process(arguments: list[str]) -> None:
    """Run the command on Ray, whose numbers of threads the stored bits are of."""
    subprocess.run([sys.executable, "-m", "musc_ray.cli", *arguments, "--executor", "ray"], check=True, timeout=300)


def _scores(scores: Path, images: Path, variant: str) -> pa.Table:
    """The scores of one run, by group and image."""
    files = sorted(scores.rglob("*.parquet"))
    table = pa.concat_tables([pq.ParquetFile(file).read() for file in files])
    names = [uri.partition(f"{images}/")[2] for uri in table["uri"].to_pylist()]
    table = table.append_column("image", pa.array(names)).append_column("variant", pa.array([variant] * len(names)))
    return table.select(COLUMNS).sort_by([("group", "ascending"), ("image", "ascending")])


def main() -> None:
    table = compute(in_a_process)
    pq.write_table(table.replace_schema_metadata({"machine": machine()}), sys.argv[1])


if __name__ == "__main__":
    main()
