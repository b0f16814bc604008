"""A gateway's side of a pool: what it asks of replicas and planner, and what their silence does."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from serving_case import ENDPOINT, Case, MemoryMeter, make_bundle, until

from rayapp.config.replicas import PoolConfig
from rayapp.config.serving import ServingConfig
from rayapp.errors import Unavailable
from rayapp.schemas.operations import Pointer
from rayapp.serve.callers.identity import KeyRing
from rayapp.serve.cluster.shared import SharedActor
from rayapp.serve.follow import ChampionFollower, OpenRelease, release_key
from rayapp.serve.loading import Store
from rayapp.serve.pool import client
from rayapp.serve.pool.client import Pool
from rayapp.serve.replica import Lookout, make_opener

RELEASE = "f" * 64
CONFIG = ServingConfig.model_validate(
    {"placement": "small", "pools": {"small": {}}, "endpoints": {ENDPOINT: {"is_pinned": True}}}
)


class Asked:
    """As much of a deployment's handle, or an actor's, as a pool's client uses. It keeps what it is
    asked, and answers once `gate` is open."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: Exception | None = None

    def options(self, method_name: str = "", **options: Any) -> "_Method":
        return _Method(self, method_name)

    def broadcast(self, method_name: str, *args: Any) -> Any:
        self.asked.append((method_name, *args))
        return _Results()

    @property
    def tend(self) -> "_Method":
        return _Method(self, "tend")

    @property
    def pin(self) -> "_Method":
        return _Method(self, "pin")


class _Method:
    def __init__(self, of: Asked, name: str) -> None:
        self._of, self._name = of, name

    def options(self, method_name: str, **options: Any) -> "_Method":
        return _Method(self._of, method_name)

    def broadcast(self, method_name: str, *args: Any) -> Any:
        return self._of.broadcast(method_name, *args)

    async def remote(self, *args: Any) -> None:
        self._of.asked.append((self._name, *args))
        await self._of.gate.wait()
        if self._of.error is not None:
            raise self._of.error


class _Results:
    async def results_async(self) -> None:
        pass


def pool_of(replicas: Asked, planner: Asked | None = None) -> Pool:
    shared = SharedActor(lambda: planner or Asked())
    return Pool("small", PoolConfig(), replicas, shared)  # type: ignore[arg-type]


async def test_a_load_that_takes_too_long_is_not_waited_for_any_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client, "PREPARE_S", 0.001)
    replicas = Asked()
    replicas.gate.clear()
    pool = pool_of(replicas)
    before = asyncio.all_tasks()
    with pytest.raises(Unavailable, match="did not load release ffffffffffff"):
        await asyncio.to_thread(pool.prepare, RELEASE, 10, None, False)
    await until(lambda: asyncio.all_tasks() == before)


def opener_of(pool: Pool, folder: Path) -> OpenRelease:
    make_bundle(folder)
    case = Case(CONFIG, releases={release: folder for release in ("r1", "r2", RELEASE)})
    store = Store(case.read, case.fetch)
    return make_opener(CONFIG, store, {"small": pool}, MemoryMeter())  # type: ignore[arg-type]


async def test_only_a_champion_is_pinned(tmp_path: Path) -> None:
    replicas, planner = Asked(), Asked()
    opener = opener_of(pool_of(replicas, planner), tmp_path)
    await asyncio.to_thread(opener, ENDPOINT, "r1", None)
    await asyncio.to_thread(opener, release_key(ENDPOINT, RELEASE), RELEASE, None)
    assert replicas.asked == [("prepare", "r1", 0, True)]
    assert planner.asked == [("pin", {"r1": 0})]


async def test_a_release_is_pinned_once_it_is_loaded(tmp_path: Path) -> None:
    replicas, planner = Asked(), Asked()
    replicas.error = Unavailable("it cannot be loaded", "release another")
    opener = opener_of(pool_of(replicas, planner), tmp_path)
    with pytest.raises(Unavailable, match="it cannot be loaded"):
        await asyncio.to_thread(opener, ENDPOINT, "r1", None)
    assert planner.asked == []
    replicas.error, planner.error = None, ConnectionError("the planner is dead")
    await asyncio.to_thread(opener, ENDPOINT, "r1", None)  # which keeps nobody from answering
    assert planner.asked == [("pin", {"r1": 0})]


async def test_what_a_gateway_pins_is_said_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "PIN_EVERY_S", 0.001)
    planner = Asked()
    pool = pool_of(Asked(), planner)
    opener, pointers = opener_of(pool, tmp_path), dict[str, Pointer]()
    follower = ChampionFollower(lambda: pointers, opener)
    ring = KeyRing(dict, requires_key=False)
    lookout = Lookout(CONFIG, ring, follower, {"small": pool}, None, None)
    for release_id, said in ((None, {}), ("r1", {"r1": 0}), ("r2", {"r2": 0})):
        if release_id is not None:
            pointers[ENDPOINT] = Pointer(name="champion", target=release_id, revision=1)
            key = release_key(ENDPOINT, RELEASE)
            pointers[key] = Pointer(name=key, target=RELEASE, revision=0)
        await asyncio.to_thread(lookout.look, None)
        planner.asked.clear()
        async with asyncio.timeout(10):
            while len(planner.asked) < 3:  # the first may have been on its way before
                await asyncio.to_thread(lookout.look, None)
        assert planner.asked[1:] == [("pin", said)] * (len(planner.asked) - 1)
