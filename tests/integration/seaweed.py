"""A real S3 server for tests: SeaweedFS from PyPI, on free ports of the loopback, gone when the block ends."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.local.seaweed import S3Server, weed_command

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
