"""An engine as Ray Serve's handle knows it: there once a replica has loaded, and not while its next
one loads, though one was there before."""

import asyncio
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from ray import serve
from ray.serve import Application

from rayapp.serve.language.client import ServeLlm

pytestmark = pytest.mark.usefixtures("ray_local")
ENGINE = "engine"


@pytest.fixture(autouse=True)
def serving(ray_local: None) -> Iterator[None]:
    serve.start(proxy_location="Disabled")
    yield
    serve.shutdown()


def loading_until(loaded: Path) -> Application:
    """A replica is there once the file is."""

    class Engine:
        def __init__(self, path: str) -> None:
            while not Path(path).exists():
                time.sleep(0.05)

        async def open(self) -> None: ...

    deploy = serve.deployment(name=ENGINE, ray_actor_options={"num_cpus": 0.1})
    bound: Application = deploy(Engine).bind(str(loaded))
    return bound


def begun(loaded: Path) -> None:
    target = serve.RunTarget(loading_until(loaded), name=ENGINE, route_prefix=None)
    serve.run_many([target], wait_for_applications_running=False)


async def comes_to(client: ServeLlm, is_there: bool) -> None:
    async with asyncio.timeout(60):
        while await client.is_there() != is_there:
            await asyncio.sleep(0.05)


async def test_an_engine_is_there_while_a_replica_has_loaded(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    client = ServeLlm(ENGINE, partial(serve.get_app_handle, ENGINE))
    assert not await client.is_there()  # it is not deployed
    begun(first)
    async with asyncio.timeout(60):
        while client._ask is None:
            assert not await client.is_there()
            await asyncio.sleep(0.05)
    assert not await client.is_there()
    first.touch()
    await comes_to(client, is_there=True)
    begun(second)
    await comes_to(client, is_there=False)
    second.touch()
    await comes_to(client, is_there=True)
