"""A plant to disturb: three Ray nodes, a store that can fail, a small scratch volume, and the jobs on them."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs
import pyarrow.parquet as pq
import pytest
import s3fs
from ray.cluster_utils import Cluster

from musc_ray.storage.filesystem import read_json
from musc_ray.storage.garbage import collect_garbage
from tests.chaos.faulty_store import FaultyStore, faulty_store
from tests.helpers.pictures import write_pictures
from tests.helpers.seaweed import s3_server
from tests.helpers.weights import write_tiny_weights

BUCKET = "plant"
ARCHIVE, NEW = 40, 8
"""Images of the archive, and of the night after."""

NODES = 3
SCRATCH_MB = 96
"""Room on the volume of temporary files and of what Ray spills: the weights take a quarter of it."""

OPTIONS = ["--backbone", "timm:vit_tiny_patch16_224", "--weights", f"s3://{BUCKET}/vit_tiny.safetensors"]
OPTIONS += ["--image-size", "64", "--precision", "float32", "--model-precision", "float32", "--shard-size", "4"]
COMMON = ["--set", "workers=2", "--set", "report_images=2"]

RAY = {
    "RAY_gcs_rpc_server_reconnect_timeout_s": "10",  # how long nodes and drivers outlive the head
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "OMP_NUM_THREADS": "1",
}


@dataclass(frozen=True)
class Job:
    """A command to run on the plant, by the verb of `musc-ray`."""

    name: str
    arguments: tuple[str, ...]
    begins_with: str | None
    """The OUT whose copy it starts from; None for an empty one."""


JOBS = {
    "archive": Job("archive", ("run", f"s3://{BUCKET}/images/day-0", "OUT", *OPTIONS), None),
    "nightly": Job("nightly", ("rescore", "OUT", "--new", "--source", f"s3://{BUCKET}/images"), "base"),
}


class Attempt:
    """A command that is under way."""

    def __init__(self, command: list[str], folder: Path, clock: Path, environment: dict[str, str]) -> None:
        self.folder, self.clock = folder, clock
        self.log = folder / "stderr.log"
        with self.log.open("wb") as errors, (folder / "stdout.log").open("wb") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=errors, env=environment)
        self.started = time.monotonic()

    @property
    def over(self) -> bool:
        return self.process.poll() is not None

    @property
    def stderr(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def wait_for(self, happened: Callable[[], object], seconds: float) -> bool:
        """Wait for something; false if the command ends before, or it takes too long."""
        deadline = time.monotonic() + seconds
        while not self.over and time.monotonic() < deadline:
            if happened():
                return True
            time.sleep(0.1)
        return False

    def has_begun(self, stage: str) -> bool:
        return f"{stage}: started" in self.stderr


class Plant:
    """What the jobs run on.

    Attributes:
        store: the endpoint that the jobs see.
        fs: the store itself, past all faults.
        scratch: the volume of temporary files; None where none can be mounted.
        clock_library: what is preloaded to set a clock wrong; None where it is not installed.
    """

    def __init__(self, folder: Path, store: FaultyStore, scratch: Path | None) -> None:
        self.folder, self.store, self.scratch = folder, store, scratch
        self.fs: s3fs.S3FileSystem = store.behind.filesystem()
        self.clock_library = _clock_library(folder)
        self.cluster: Cluster | None = None
        self.attempts = 0

    def fill(self) -> None:
        """Put images and weights into the store."""
        self.fs.mkdir(BUCKET)
        pictures = write_pictures(self.folder / "images", ARCHIVE + NEW)
        for number, path in enumerate(pictures):
            day = "day-0" if number < ARCHIVE else "day-1"
            self.fs.put_file(str(path), f"{BUCKET}/images/{day}/{path.name}")
        weights = write_tiny_weights(self.folder)
        self.fs.put_file(str(weights), f"{BUCKET}/vit_tiny.safetensors")

    def start_cluster(self) -> None:
        """A head without CPUs and three nodes with one each."""
        spill = {} if self.scratch is None else {"object_spilling_directory": str(self.scratch)}
        self.cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **spill}
        )
        self.mend()

    def stop_cluster(self) -> None:
        if self.cluster is not None:
            for node in list(self.cluster.worker_nodes):
                self.cluster.remove_node(node, allow_graceful=False)
            if self.cluster.head_node is not None:
                self.cluster.remove_node(self.cluster.head_node, allow_graceful=False)
            self.cluster = None

    def mend(self) -> None:
        """Put right what is broken: the store, the volume, nodes that are dead; another cluster if its head is."""
        self.store.set(None)
        if self.scratch is not None:
            (self.scratch / "filler").unlink(missing_ok=True)
        if self.cluster is None or not self.cluster.head_node.remaining_processes_alive():
            self.stop_cluster()
            self.start_cluster()
            return
        for node in list(self.cluster.worker_nodes):
            if not node.remaining_processes_alive():
                self.cluster.remove_node(node, allow_graceful=False)
        while len(self.cluster.worker_nodes) < NODES:
            self.cluster.add_node(num_cpus=1, object_store_memory=2**27)

    def start(self, job: Job, out: str) -> Attempt:
        """Run a job's command, once more or for the first time, with the right time at first."""
        self.attempts += 1
        folder = self.folder / f"attempt-{self.attempts:03d}"
        folder.mkdir()
        clock = folder / "clock"
        clock.write_text("+0")
        environment = dict(os.environ)
        if self.clock_library is not None:
            environment |= _faked_clock(self.clock_library, clock)
        given = [self.uri(out) if argument == "OUT" else argument for argument in job.arguments]
        command = [sys.executable, "-m", "musc_ray.cli", *given, *COMMON, "--address", self.cluster.address]
        return Attempt(command, folder, clock, environment)

    def uri(self, out: str) -> str:
        return f"s3://{BUCKET}/{out}"

    def new_out(self, job: Job, name: str) -> str:
        """An OUT for a round of a job."""
        if job.begins_with is not None:
            root = f"{BUCKET}/{job.begins_with}"
            for path in self.fs.find(root):
                self.fs.cp_file(path, f"{BUCKET}/{name}{path.removeprefix(root)}")
        return name

    def forget(self, out: str) -> None:
        self.fs.rm(f"{BUCKET}/{out}", recursive=True)

    def files(self, out: str) -> set[str]:
        """What lies in an OUT."""
        self.fs.invalidate_cache()
        return {path.removeprefix(f"{BUCKET}/{out}/") for path in self.fs.find(f"{BUCKET}/{out}")}

    def last_run(self, out: str) -> dict[str, Any] | None:
        """run.json of the run that was scored last."""
        found = [read_json(self.fs, f"{BUCKET}/{out}/{path}") for path in self.files(out) if path.endswith("/run.json")]
        return max(found, key=lambda run: run["scored_at"], default=None)

    def scores(self, out: str) -> dict[str, dict[str, Any]]:
        """The rows of the last run by image."""
        folder = f"{BUCKET}/{out}/runs/{self.last_run(out)['run_id']}/scores"
        return {row["image_id"]: row for row in self._table(folder).to_pylist()}

    def unreadable(self, out: str) -> list[str]:
        """Tables of an OUT that are visible but not whole."""
        broken = []
        for path in (path for path in self.files(out) if path.endswith(".parquet")):
            try:
                pq.read_table(f"{BUCKET}/{out}/{path}", filesystem=self._arrow)
            except (pa.ArrowException, OSError):
                broken.append(path)
        return broken

    def collect_garbage(self, out: str) -> None:
        """What `musc-ray gc OUT --delete` does, when all that a run might still need is old."""
        s3fs.S3FileSystem.clear_instance_cache()
        collect_garbage(self.uri(out), older_than_days=7, delete=True, now=datetime.now(UTC) + timedelta(days=8))

    @cached_property
    def _arrow(self) -> pyarrow.fs.FileSystem:
        return pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(self.fs))

    def _table(self, folder: str) -> pa.Table:
        return ds.dataset(folder, format="parquet", filesystem=self._arrow).to_table()


@contextmanager
def plant(folder: Path, seed: int) -> Iterator[Plant]:
    """A plant with its images, and a cluster on it."""
    with ExitStack() as stack:
        (folder / "weed").mkdir()
        store = stack.enter_context(faulty_store(stack.enter_context(s3_server(folder / "weed")), seed))
        scratch = stack.enter_context(volume(folder / "scratch", SCRATCH_MB))
        sockets = Path(tempfile.mkdtemp(prefix="musc-chaos-"))  # short: a socket's path has at most 107 bytes
        stack.callback(shutil.rmtree, sockets, ignore_errors=True)
        environment = stack.enter_context(pytest.MonkeyPatch.context())
        temporary = {} if scratch is None else {"TMPDIR": str(scratch)}
        for name, value in {**store.server.environment, **RAY, "RAY_TMPDIR": str(sockets), **temporary}.items():
            environment.setenv(name, value)
        made = Plant(folder, store, scratch)
        made.fill()
        stack.callback(made.stop_cluster)
        made.start_cluster()
        yield made


@contextmanager
def volume(folder: Path, megabytes: int) -> Iterator[Path | None]:
    """A small file system of its own; None where this user cannot mount one."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _faked_clock(library: Path, file: Path) -> dict[str, str]:
    """An environment in which the clock is off by the seconds in a file, read at every look; timers are not."""
    where = {"LD_PRELOAD": str(library), "FAKETIME_TIMESTAMP_FILE": str(file)}
    return {**where, "FAKETIME_NO_CACHE": "1", "DONT_FAKE_MONOTONIC": "1"}


def _clock_library(folder: Path) -> Path | None:
    """libfaketime, where it is installed and works."""
    spec = find_spec("libfaketime")
    found = sorted(Path(spec.origin).parent.glob("vendor/libfaketime/src/libfaketime.so.*")) if spec else []
    if not found:
        return None
    (folder / "clock").write_text("+86400")
    command = [sys.executable, "-c", "import time; print(time.time())"]
    environment = {**os.environ, **_faked_clock(found[0], folder / "clock")}
    told = float(subprocess.run(command, env=environment, capture_output=True, check=True).stdout)
    return found[0] if told > time.time() + 80_000 else None
