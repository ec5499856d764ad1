"""A real S3 server for tests: SeaweedFS from PyPI, on free ports of the loopback, gone when the block ends."""

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pyiceberg.catalog import load_catalog
from pyiceberg.exceptions import RESTError

from cluster.local.seaweed import S3Server, free_ports, weed_command

READY_SECONDS = 60


@contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    """Run `weed server -s3` with credentials of its own; its data lies in `folder`."""
    command, server = weed_command(folder)
    with (folder / "weed.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            _wait_until_ready(server, process, folder / "weed.log")
            yield server
        finally:
            process.kill()  # its data goes with it: no need to wait for a tidy end
            process.wait()


@dataclass(frozen=True)
class LakeServer:
    """An S3 server with an Iceberg REST catalog, whose tables lie in the bucket `lake`."""

    catalog: str
    warehouse: str
    s3: S3Server

    @property
    def environment(self) -> dict[str, str]:
        """What s3fs, pyarrow and pyiceberg read."""
        credential = f"{self.s3.access_key}:{self.s3.secret_key}"
        return {**self.s3.environment, "PYICEBERG_CATALOG__LAKE__CREDENTIAL": credential}


@contextmanager
def lake_server(folder: Path) -> Iterator[LakeServer]:
    """Run `weed mini` on free ports; its data lies in `folder`."""
    services = ("master", "volume", "filer", "s3", "admin")
    *ports, iceberg = free_ports(2 * len(services) + 1)
    command = [str(Path(sys.executable).with_name("weed")), "mini", f"-dir={folder}", "-ip=127.0.0.1"]
    command += ["-ip.bind=127.0.0.1", "-webdav=false", "-s3.port.lance=0", "-master.telemetry=false"]
    command += ["-tableBucket=lake", f"-s3.port.iceberg={iceberg}"]
    for number, service in enumerate(services):
        command += [f"-{service}.port={ports[2 * number]}", f"-{service}.port.grpc={ports[2 * number + 1]}"]
    access, secret = "musc" + secrets.token_hex(8), secrets.token_hex(20)
    server = S3Server(f"http://127.0.0.1:{ports[2 * services.index('s3')]}", access, secret)
    lake = LakeServer(f"http://127.0.0.1:{iceberg}", "s3://lake", server)
    with (folder / "weed.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **server.environment})
        try:
            _wait_until_ready(server, process, folder / "weed.log")
            _wait_for_catalog(lake, process, folder / "weed.log")
            yield lake
        finally:
            process.kill()
            process.wait()


def _wait_for_catalog(lake: LakeServer, process: subprocess.Popen, log: Path) -> None:
    """The bucket of the tables comes last."""
    deadline = time.monotonic() + READY_SECONDS
    credential = lake.environment["PYICEBERG_CATALOG__LAKE__CREDENTIAL"]
    while True:
        assert process.poll() is None, f"weed ended: {log.read_text()[-2000:]}"
        try:
            catalog = load_catalog("ready", uri=lake.catalog, warehouse=lake.warehouse, credential=credential)
            catalog.create_namespace("ready")
            return
        except (OSError, RESTError):  # requests' errors are OSErrors
            assert time.monotonic() < deadline, f"weed is not ready: {log.read_text()[-2000:]}"
            time.sleep(0.3)


def _wait_until_ready(server: S3Server, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while True:
        assert process.poll() is None, f"weed ended: {log.read_text()[-2000:]}"
        try:
            fs = server.filesystem()
            if not fs.exists("ready"):
                fs.mkdir("ready")
            fs.pipe_file("ready/probe", b"probe")
            return
        except OSError:
            assert time.monotonic() < deadline, f"weed is not ready: {log.read_text()[-2000:]}"
            time.sleep(0.3)
