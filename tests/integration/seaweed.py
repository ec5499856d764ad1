"""A real S3 server for tests: SeaweedFS from PyPI, on free ports of the loopback, gone when the block ends."""

import json
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import s3fs

READY_SECONDS = 60
SERVICES = ("master", "volume", "filer", "s3")


@dataclass(frozen=True)
class S3Server:
    """Where the server listens, and the one who may use it."""

    endpoint: str
    access_key: str
    secret_key: str

    @property
    def environment(self) -> dict[str, str]:
        """What s3fs and boto read."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def filesystem(self) -> s3fs.S3FileSystem:
        """An uncached client for the test's own looking."""
        return s3fs.S3FileSystem(
            key=self.access_key,
            secret=self.secret_key,
            endpoint_url=self.endpoint,
            skip_instance_cache=True,
            use_listings_cache=False,
        )


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on, different ones."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    """Run `weed server -s3` with credentials of its own; its data lies in `folder`."""
    access, secret = "test" + secrets.token_hex(8), secrets.token_hex(20)
    config = folder / "s3.json"
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    identity = {"name": "test", "credentials": [{"accessKey": access, "secretKey": secret}], "actions": actions}
    config.write_text(json.dumps({"identities": [identity]}))
    ports = iter(free_ports(2 * len(SERVICES)))
    command = [str(Path(sys.executable).with_name("weed")), "server", f"-dir={folder}", "-ip=127.0.0.1"]
    command += ["-ip.bind=127.0.0.1", "-s3", f"-s3.config={config}", "-master.volumeSizeLimitMB=64", "-volume.max=40"]
    command += ["-master.telemetry=false", "-s3.port.iceberg=0", "-s3.port.lance=0"]
    chosen = {service: (next(ports), next(ports)) for service in SERVICES}
    for service, (http, grpc) in chosen.items():
        command += [f"-{service}.port={http}", f"-{service}.port.grpc={grpc}"]
    server = S3Server(f"http://127.0.0.1:{chosen['s3'][0]}", access, secret)
    with (folder / "weed.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            _wait_until_ready(server, process, folder / "weed.log")
            yield server
        finally:
            process.kill()  # its data goes with it: no need to wait for a tidy end
            process.wait()


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
