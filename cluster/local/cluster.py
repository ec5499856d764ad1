"""Start a Ray cluster and an S3 server on this machine, to try a cluster without a cloud.

    python cluster/local/cluster.py start --workers 2
    . musc-ray-cluster/env.sh
    python cluster/local/cluster.py put photos images
    ray job submit --working-dir . -- python jobs/archive.py --config jobs/archive.yaml
    python cluster/local/cluster.py stop

Starts a head without CPUs, workers as separate nodes, and SeaweedFS, on free ports of the loopback interface, with
Ray's token authentication. Everything except Ray's sockets and logs is in one folder. Needs the extra `cluster`.
"""

import argparse
import json
import os
import secrets
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.request import Request, urlopen

import fsspec
import psutil
from seaweed import free_ports, weed_command

BUCKET = "plant"
READY_SECONDS = 300
MAX_ATTEMPTS = 5
OBJECT_STORE_BYTES = 256 * 2**20
HOST = "127.0.0.1"


def main() -> None:
    """Run the verb of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("musc-ray-cluster"), help="folder of keys, logs and data")
    verbs = parser.add_subparsers(required=True)
    starting = verbs.add_parser("start", help="start the cluster and write env.sh")
    starting.add_argument("--workers", type=int, default=2, help="worker nodes")
    starting.add_argument("--cpus", type=int, default=1, help="CPUs of a worker node")
    starting.set_defaults(verb=lambda given: start(given.folder.absolute(), given.workers, given.cpus))
    putting = verbs.add_parser("put", help=f"copy a file or folder to s3://{BUCKET}")
    putting.add_argument("path", type=Path)
    putting.add_argument("key", help="name in the bucket")
    putting.set_defaults(verb=lambda given: put(given.folder.absolute(), given.path, given.key))
    stopping = verbs.add_parser("stop", help="stop the cluster and delete its data")
    stopping.set_defaults(verb=lambda given: stop(given.folder.absolute()))
    given = parser.parse_args()
    given.verb(given)


def start(folder: Path, workers: int, cpus: int) -> None:
    """Start all processes, wait until they are ready, and write the variables of a client to `env.sh`."""
    if folder.exists():
        sys.exit(f"Error: {folder} exists already: stop that cluster first, or choose another --folder.")
    folder.mkdir(mode=0o700, parents=True)
    (folder / "weed").mkdir()
    (folder / ".gitignore").write_text("*\n")  # keeps keys out of git and of `ray job submit --working-dir`
    sockets = Path(tempfile.mkdtemp(prefix="musc-ray-"))  # short: a socket's path has at most 107 bytes
    token = _write_token(folder / "token")
    weed, s3 = weed_command(folder / "weed")
    gcs, dashboard, *metrics = free_ports(3 + workers)
    client = {
        **s3.environment,
        "MUSC_RAY_STORE": f"s3://{BUCKET}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_ADDRESS": f"{HOST}:{gcs}",  # for musc-ray and ray.init
        "RAY_API_SERVER_ADDRESS": f"http://{HOST}:{dashboard}",  # for ray job
    }
    options = [f"--port={gcs}", f"--dashboard-host={HOST}", f"--dashboard-port={dashboard}", "--num-cpus=0"]
    commands = {"weed": weed, "head": _node(metrics[0], ["--head", *options, f"--temp-dir={sockets}"])}
    for number in range(1, workers + 1):
        commands[f"worker-{number}"] = _node(metrics[number], [f"--address={HOST}:{gcs}", f"--num-cpus={cpus}"])
    environment = _node_environment(client)
    processes: list[psutil.Popen] = []

    def run(name: str, ready: Callable[[], bool]) -> None:
        """Start a process and wait for it; retry, because on a busy machine a Ray node may fail to reach its agents."""
        for _ in range(MAX_ATTEMPTS):
            processes.append(_started(commands[name], environment, folder / f"{name}.log"))
            _remember(folder, sockets, processes)
            if _is_ready(ready, processes[-1], folder):
                return
        sys.exit(f"Error: {name} ended {MAX_ATTEMPTS} times; see the logs in {folder}.")

    try:
        run("weed", lambda: s3.filesystem().ls("") == [])
        s3.filesystem().mkdir(BUCKET)
        for number, name in enumerate(name for name in commands if name != "weed"):
            run(name, lambda nodes=number + 1: _nodes(client) == nodes)  # sequentially, for the same reason
    except BaseException:
        stop(folder, keep_logs=True)
        raise
    _write_exports(folder / "env.sh", client)
    print(f"Ray: a head and {workers} workers of {cpus} CPUs at RAY_ADDRESS={client['RAY_ADDRESS']}")
    print(f"Metrics: {' '.join(f'http://{HOST}:{port}/metrics' for port in metrics)}")
    print(f"S3: {s3.endpoint}, bucket s3://{BUCKET}")
    _print_usage(folder, client)


def _print_usage(folder: Path, client: Mapping[str, str]) -> None:
    """Print where the job server is and how to submit a job."""
    print(f"Dashboard and job server: {client['RAY_API_SERVER_ADDRESS']} (token in {client['RAY_AUTH_TOKEN_PATH']})")
    print(f"\n. {shlex.quote(str(folder / 'env.sh'))}")
    print("ray job submit --working-dir . -- python jobs/archive.py --config jobs/archive.yaml")


def _write_token(path: Path) -> Path:
    """Write a random token that only this user can read; return its path."""
    path.touch(mode=0o600)
    path.write_text(secrets.token_hex(32))
    return path


def _write_exports(path: Path, variables: dict[str, str]) -> None:
    """Write a file for the shell that exports the variables."""
    path.write_text("".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items()))


def put(folder: Path, path: Path, key: str) -> None:
    """Copy a file, or a folder's content, into the bucket."""
    if not (folder / "env.sh").exists():
        sys.exit(f"Error: there is no cluster in {folder}: start one first.")
    if not path.exists():
        sys.exit(f"Error: {path} does not exist.")
    os.environ.update(_read_exports(folder / "env.sh"))
    fs = fsspec.filesystem("s3")
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    for file in files:
        fs.put_file(str(file), f"{BUCKET}/{key}" if path.is_file() else f"{BUCKET}/{key}/{file.relative_to(path)}")
    print(f"{len(files)} file{'' if len(files) == 1 else 's'} at s3://{BUCKET}/{key}")


def stop(folder: Path, keep_logs: bool = False) -> None:
    """End the processes that `start` started, and only those; delete the folder."""
    state = folder / "processes.json"
    if not state.exists():
        sys.exit(f"Error: there is no cluster in {folder}.")
    remembered = json.loads(state.read_text())
    family = [each for pid, created in remembered["processes"] for each in _family(pid, created)]
    for each in family:
        with suppress(psutil.NoSuchProcess):
            each.kill()  # their data is deleted, so they need no orderly end
    psutil.wait_procs(family, timeout=30)
    if keep_logs:
        state.unlink()
        for logs in Path(remembered["sockets"]).glob("session_2*/logs"):
            shutil.copytree(logs, folder / "ray", dirs_exist_ok=True)
    else:
        shutil.rmtree(folder)
    shutil.rmtree(remembered["sockets"], ignore_errors=True)
    print("Stopped.")


def _family(pid: int, created: float) -> list[psutil.Process]:
    """Return a process and its descendants; an empty list if its pid belongs to another process now."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)] if process.create_time() == created else []
    except psutil.NoSuchProcess:
        return []


def _node(metrics_port: int, options: Sequence[str]) -> list[str]:
    """Return the command of a Ray node that stays in the foreground."""
    http, grpc, runtime_env, client = free_ports(4)
    return [
        str(Path(sys.executable).with_name("ray")),
        "start",
        "--block",
        "--disable-usage-stats",
        f"--metrics-export-port={metrics_port}",
        f"--dashboard-agent-listen-port={http}",
        f"--dashboard-agent-grpc-port={grpc}",
        f"--runtime-env-agent-port={runtime_env}",
        f"--object-store-memory={OBJECT_STORE_BYTES}",
        *([f"--ray-client-server-port={client}"] if "--head" in options else []),
        *options,
    ]


def _node_environment(client: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of nodes, which jobs inherit: the store and its key, and this Python first on PATH."""
    own = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")}
    told = {name: client[name] for name in client if name not in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")}
    return {**own, **told, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def _started(command: Sequence[str], environment: Mapping[str, str], log: Path) -> psutil.Popen:
    """Start a process that outlives this one."""
    with log.open("wb") as file:
        return psutil.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
        )


def _remember(folder: Path, sockets: Path, processes: Sequence[psutil.Popen]) -> None:
    content = {"sockets": str(sockets), "processes": [(each.pid, each.create_time()) for each in processes]}
    (folder / "processes.json").write_text(json.dumps(content))


def _nodes(client: Mapping[str, str]) -> int:
    """Return the number of live nodes according to Ray's state API."""
    token = Path(client["RAY_AUTH_TOKEN_PATH"]).read_text()
    request = Request(f"{client['RAY_API_SERVER_ADDRESS']}/api/v0/nodes", headers={"Authorization": f"Bearer {token}"})
    with urlopen(request, timeout=30) as answer:
        return sum(node["state"] == "ALIVE" for node in json.load(answer)["data"]["result"]["result"])


def _is_ready(ready: Callable[[], bool], process: psutil.Popen, folder: Path) -> bool:
    """Wait until a process is ready; return False if it has ended."""
    deadline, reason = time.monotonic() + READY_SECONDS, ""
    while process.poll() is None:
        try:
            if ready():
                return True
        except OSError as error:
            reason = f" ({error})"
        if time.monotonic() > deadline:
            sys.exit(f"Error: not ready after {READY_SECONDS} s{reason}; see the logs in {folder}.")
        time.sleep(0.5)
    return False


def _read_exports(path: Path) -> dict[str, str]:
    lines = [shlex.split(line)[1] for line in path.read_text().splitlines()]
    return dict(line.split("=", 1) for line in lines)


if __name__ == "__main__":
    main()
