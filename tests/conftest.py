"""For every test: the marker of its tier, no telemetry, no stray cluster, a fresh workspace."""

import gc
import os
from collections.abc import Generator, Iterator
from pathlib import Path

import hypothesis
import pytest
import pytest_socket

from rayapp.storage import Workspace

TIERS = ("unit", "contract", "local", "e2e", "gpu")

# Before anything imports Ray or MLflow. "disabled" must be said: a bare ray.init() would turn
# authentication on by itself and write a token into the home directory.
os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
for _name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAYAPP_WORKSPACE", "RAYAPP_ENVIRONMENT"):
    os.environ.pop(_name, None)

# A deadline per example would make a test depend on what else the machine does.
hypothesis.settings.register_profile("rayapp", deadline=None, derandomize=True)
hypothesis.settings.load_profile("rayapp")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test's marker is the folder that it lies in."""
    here = Path(__file__).parent
    for item in items:
        tier = item.path.relative_to(here).parts[0]
        if tier in TIERS:
            item.add_marker(getattr(pytest.mark, tier))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What collection makes stays until the end: to search it for garbage, again and again as it
    grows, took a sixth of the time, and no later search need go through it."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.collect()
        gc.freeze()


@pytest.fixture(autouse=True)
def _no_network_in_unit_tests(request: pytest.FixtureRequest) -> Iterator[None]:
    """Unix sockets stay: every asyncio event loop opens a pair of them."""
    if request.node.get_closest_marker("unit") is None:
        yield
        return
    pytest_socket.disable_socket(allow_unix_socket=True)
    yield
    pytest_socket.enable_socket()


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.from_environment({"RAYAPP_WORKSPACE": str(tmp_path / "workspace")})
