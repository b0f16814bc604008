"""The same promises from MLflow's registry and from the one in memory."""

import uuid

import pytest

from rayapp.errors import UserError
from rayapp.register.registry import CHAMPION, MemoryRegistry, Registry, open_registry
from rayapp.register.store import open_client
from rayapp.register.tracking import open_tracker


@pytest.fixture(scope="module")
def mlflow_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('registry')}/mlflow.db"


@pytest.fixture(params=["mlflow", "memory"])
def registry(request: pytest.FixtureRequest, mlflow_url: str) -> Registry:
    return open_registry(mlflow_url) if request.param == "mlflow" else MemoryRegistry()


@pytest.fixture
def endpoint() -> str:
    return f"endpoint-{uuid.uuid4().hex[:8]}"


def _register(registry: Registry, endpoint: str, release_id: str) -> str:
    return registry.register(endpoint, "", "/bundles/1", release_id, {"family": "tabular"})


def test_each_release_is_one_version(registry: Registry, endpoint: str) -> None:
    first = _register(registry, endpoint, "a" * 64)
    second = _register(registry, endpoint, "b" * 64)
    assert _register(registry, endpoint, "a" * 64) == first != second
    assert registry.versions(endpoint) == {first: "a" * 64, second: "b" * 64}


def test_the_champion_moves_forth_and_back(registry: Registry, endpoint: str) -> None:
    assert registry.champion(endpoint) is None
    first = _register(registry, endpoint, "a" * 64)
    second = _register(registry, endpoint, "b" * 64)
    assert registry.champion(endpoint) is None
    for version in (first, second, first):
        registry.set_champion(endpoint, version)
        assert registry.champion(endpoint) == version


def test_endpoints_do_not_share_versions(registry: Registry, endpoint: str) -> None:
    _register(registry, endpoint, "a" * 64)
    assert registry.versions(f"{endpoint}-other") == {}
    assert _register(registry, f"{endpoint}-other", "a" * 64) == "1"


def test_an_unknown_version_is_refused(registry: Registry, endpoint: str) -> None:
    with pytest.raises(UserError, match="no version '7'"):
        registry.set_champion(endpoint, "7")
    _register(registry, endpoint, "a" * 64)
    with pytest.raises(UserError, match="no version '7'"):
        registry.set_champion(endpoint, "7")


def test_mlflow_shows_release_run_and_alias(
    mlflow_url: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = str(tmp_path_factory.mktemp("artifacts"))
    with open_tracker(mlflow_url, folder, "shown", "run", {}) as tracker:
        run_id = tracker.run_id
    registry = open_registry(mlflow_url)
    version = registry.register("shown", run_id, "/bundles/1", "a" * 64, {"family": "tabular"})
    registry.set_champion("shown", version)
    found = open_client(mlflow_url).get_model_version_by_alias("shown", CHAMPION)
    assert (found.run_id, found.source) == (run_id, "/bundles/1")
    assert found.tags == {"family": "tabular", "release_id": "a" * 64}
