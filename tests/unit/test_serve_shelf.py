import asyncio
from collections import defaultdict

import pytest

from rayapp.errors import Unavailable
from rayapp.shelf import HALF_LIFE_S, Shelf


class Site:
    """A shelf of 100 bytes, 10 of them for newcomers, whose models are their own names."""

    def __init__(self, max_bytes: int = 100, num_loads: int = 2, yields_idle: bool = False) -> None:
        self.now_s = 0.0
        self.loads: dict[str, int] = defaultdict(int)
        self.gates: dict[str, asyncio.Event] = {}
        self.error: Exception | None = None
        self.asks: list[bool] = []
        self.num_loading = self.most_loading = 0
        self.shelf: Shelf[str] = Shelf(
            self._load,
            max_bytes,
            num_loads,
            self.asks.append,
            lambda: self.now_s,
            yields_idle=yields_idle,
        )

    async def _load(self, model_id: str) -> str:
        self.loads[model_id] += 1
        self.num_loading += 1
        self.most_loading = max(self.most_loading, self.num_loading)
        try:
            if model_id in self.gates:
                await self.gates[model_id].wait()
            if self.error is not None:
                raise self.error
        finally:
            self.num_loading -= 1
        return model_id

    async def ask(self, model_id: str, num_bytes: int = 10, times: int = 1) -> str:
        for _ in range(times):
            async with self.shelf.use(model_id, num_bytes) as model:
                pass
        return model


async def test_a_model_is_loaded_once_however_many_ask() -> None:
    site = Site()
    site.gates["a"] = asyncio.Event()
    asked = [asyncio.create_task(site.ask("a")) for _ in range(5)]
    await asyncio.sleep(0)
    site.gates["a"].set()
    assert await asyncio.gather(*asked) == ["a"] * 5
    assert site.loads == {"a": 1}
    await site.ask("a")
    assert site.asks == [False] * 5 + [True]


async def test_different_models_load_side_by_side_up_to_the_limit() -> None:
    site = Site(num_loads=2)
    site.gates = {name: asyncio.Event() for name in "abc"}
    asked = [asyncio.create_task(site.ask(name)) for name in "abc"]
    for _ in range(5):
        await asyncio.sleep(0)
    assert site.num_loading == 2
    for gate in site.gates.values():
        gate.set()
    await asyncio.gather(*asked)
    assert site.most_loading == 2


async def test_a_failed_load_is_told_to_all_who_wait_and_tried_again() -> None:
    site = Site()
    site.error = ValueError("broken")
    found = await asyncio.gather(*(site.ask("a") for _ in range(2)), return_exceptions=True)
    assert [str(error) for error in found] == ["broken"] * 2
    assert site.shelf.used_bytes == 0
    site.error = None
    assert await site.ask("a") == "a"


async def test_a_cold_model_is_answered_and_unloads_nobody_who_is_asked_for() -> None:
    site = Site()
    for name in "abc":
        await site.ask(name, 30, times=5)
    for number in range(8):  # each asked for once: only ever one of them is there
        assert await site.ask(f"cold{number}", 10) == f"cold{number}"
        assert {"a", "b", "c"} <= site.shelf.held()
        assert site.shelf.used_bytes <= 100


@pytest.mark.parametrize("yields_idle", [False, True])
async def test_while_a_newcomer_is_in_use_an_idle_one_may_go_for_the_next(
    yields_idle: bool,
) -> None:
    site = Site(yields_idle=yields_idle)
    for name, times in (("a", 5), ("b", 4), ("c", 6)):
        await site.ask(name, 30, times=times)
    async with site.shelf.use("long", 10):
        if not yields_idle:
            with pytest.raises(Unavailable, match="10 bytes, 10 more than can be freed"):
                await site.ask("cold", 10)
            return
        assert await site.ask("cold", 10) == "cold"
        assert site.shelf.held() == {"a", "c", "long", "cold"}


async def test_a_model_that_is_asked_for_more_takes_the_place_of_the_coldest_by_the_byte() -> None:
    site = Site()
    await site.ask("large", 60, times=4)
    await site.ask("small", 30, times=3)
    await site.ask("new", 10, times=3)
    assert site.shelf.held() == {"large", "small", "new"}
    await site.ask("new", 10, times=2)
    await site.ask("other", 10)
    assert site.shelf.held() == {"small", "new", "other"}  # large had 4 asks for its 60 bytes


async def test_what_is_in_use_is_never_unloaded() -> None:
    site = Site()
    async with site.shelf.use("a", 90):
        await site.ask("b", 10, times=50)
        assert "a" in site.shelf.held()
    await site.ask("b", 10)
    assert site.shelf.held() == {"b"}


async def test_favour_is_forgotten_with_time() -> None:
    site = Site()
    await site.ask("old", 90, times=8)
    site.now_s += 4 * HALF_LIFE_S
    await site.ask("new", 50)
    assert site.shelf.held() == {"new"}


async def test_without_room_the_caller_hears_what_it_lacks() -> None:
    site = Site()
    await site.ask("a", 90, times=9)
    with pytest.raises(Unavailable, match="needs 50 bytes, 40 more than can be freed of the 100"):
        await site.ask("b", 50)
    with pytest.raises(Unavailable, match="needs 101 bytes"):
        await site.ask("c", 101)
    assert site.shelf.held() == {"a"}


async def test_a_pinned_model_stays_and_comes_at_any_cost() -> None:
    site = Site()
    await site.ask("hot", 60, times=50)
    await site.shelf.prepare("pinned", 60, is_pinned=True)
    assert site.shelf.held() == {"pinned"}
    await site.ask("b", 10, times=50)
    with pytest.raises(Unavailable):
        await site.shelf.prepare("second", 60, is_pinned=True)
    assert "pinned" in site.shelf.held()
    site.shelf.pin(frozenset(), are_all=False)
    with pytest.raises(Unavailable):
        await site.shelf.prepare("second", 60, is_pinned=True)
    site.shelf.pin(frozenset())
    await site.shelf.prepare("second", 60, is_pinned=True)
    assert "pinned" not in site.shelf.held()


async def test_one_that_is_pinned_while_it_loads_stays_so() -> None:
    site = Site()
    site.gates["pinned"] = asyncio.Event()
    preparing = asyncio.create_task(site.shelf.prepare("pinned", 60, is_pinned=True))
    await asyncio.sleep(0)
    site.shelf.pin({"before it"})  # what is known of by whoever does not know that it comes
    site.gates["pinned"].set()
    await preparing
    with pytest.raises(Unavailable):
        await site.ask("hot", 60, times=50)
    assert "pinned" in site.shelf.held()


async def test_a_successor_inherits_the_place_of_the_one_before() -> None:
    site = Site()
    await site.ask("r1", 40, times=20)
    await site.ask("x", 40, times=5)
    await site.shelf.prepare("r2", 40, like="r1")
    assert {"r1", "r2"} <= site.shelf.held()
    assert site.shelf.heat("r2") == pytest.approx(site.shelf.heat("r1"))
    await site.ask("cold", 5)
    assert {"r1", "r2"} <= site.shelf.held()


async def test_a_caller_who_goes_does_not_stop_the_load() -> None:
    site = Site()
    site.gates["a"] = asyncio.Event()
    asked = asyncio.create_task(site.ask("a"))
    await asyncio.sleep(0)
    asked.cancel()
    site.gates["a"].set()
    assert await site.ask("a") == "a"
    assert site.loads == {"a": 1}


async def test_a_model_that_is_loading_keeps_its_place_though_nobody_waits() -> None:
    """Its memory is taken all the same, and who asks again must not start a second load."""
    site = Site()
    site.gates["a"] = asyncio.Event()
    asked = asyncio.create_task(site.ask("a", 90))
    await asyncio.sleep(0)
    asked.cancel()
    await asyncio.wait([asked])
    with pytest.raises(Unavailable, match="loading or in use"):
        await site.ask("b", 50, times=5)
    assert site.shelf.used_bytes == 90
    site.gates["a"].set()
    assert await site.ask("a", 90) == "a"
    assert site.loads == {"a": 1}


async def test_stock_takes_what_fits() -> None:
    site = Site()
    assert site.shelf.stock("a", 80, "a")
    assert not site.shelf.stock("b", 20, "b")
    assert await site.ask("a") == "a"
    assert site.loads == {}


async def test_asks_of_many_absent_models_are_forgotten_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rayapp.shelf.MAX_REMEMBERED", 10)
    site = Site()
    await site.ask("hot", 90, times=9)
    for number in range(100):
        await site.ask(f"m{number}", 10)
    assert len(site.shelf._heats) <= 12
    assert site.shelf.heat("hot") == 9
