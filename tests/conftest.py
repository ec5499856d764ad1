"""What tests share, once in each process that runs them: a Ray, the command, weights of a small model, an S3 server."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from click.testing import Result

    from cluster.local.seaweed import S3Server

SLOW_TIMEOUT_SECONDS = 1200
RAY_ATTEMPTS = 3

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # processes side by side would fight for the same cores

# Timings are benchmarks: a slow example on a busy machine is no failure.
settings.register_profile("musc_ray", deadline=None)
settings.load_profile("musc_ray")


def pytest_addoption(parser: pytest.Parser) -> None:
    """How long the campaign of faults is (make chaos)."""
    parser.addoption("--chaos-rounds", type=int, default=20, help="jobs that are disturbed, by three faults each")
    parser.addoption("--chaos-seed", type=int, default=0, help="which faults strike, and when")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give slow tests more time than the `timeout` of pyproject.toml, and campaigns of faults as much as they take."""
    for item in items:
        if item.get_closest_marker("timeout") is None:
            if item.get_closest_marker("chaos"):
                item.add_marker(pytest.mark.timeout(0))
            elif item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.timeout(SLOW_TIMEOUT_SECONDS))


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """PyTorch on one thread: a direct run and the product then add in the same order."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def shared_ray() -> Iterator[None]:
    """One local Ray for all tests of a module that neither start nor kill anything of it."""
    import ray  # here, since most tests need none of what these fixtures import

    options = {"object_store_memory": 2**28, "include_dashboard": False, "log_to_driver": False}
    for attempt in range(RAY_ATTEMPTS):
        try:
            ray.init(address="local", num_cpus=2, **options)
            break
        except Exception:  # a bare one: Ray gives a node 30 seconds to start, which a busy machine may not
            ray.shutdown()
            if attempt == RAY_ATTEMPTS - 1:
                raise
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def invoke() -> "Callable[..., Result]":
    """The musc-ray command in this process: arguments in, click's result out."""
    from typer.testing import CliRunner

    from musc_ray.cli.app import app

    runner = CliRunner()
    return lambda *arguments: runner.invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a small ViT, random but the same ones each time."""
    from tests.helpers.weights import write_tiny_weights

    return write_tiny_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[S3Server]":
    """One S3 server (SeaweedFS) for all tests that do not disturb it; each uses buckets of its own."""
    from tests.helpers.seaweed import s3_server

    with s3_server(tmp_path_factory.mktemp("weed")) as server:
        yield server
