"""A Ray that tests share, and the command in this process."""

from collections.abc import Callable, Iterator

import pytest
import ray
from click.testing import Result
from typer.testing import CliRunner

from musc_ray.cli.verbs import app


@pytest.fixture(scope="session")
def shared_ray() -> Iterator[None]:
    """One local Ray for all tests that do not look at starting and stopping."""
    ray.init(address="local", num_cpus=2, object_store_memory=2**28, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def invoke() -> Callable[..., Result]:
    """The musc-ray command in this process: arguments in, click's result out."""
    runner = CliRunner()
    return lambda *arguments: runner.invoke(app, [str(argument) for argument in arguments])
