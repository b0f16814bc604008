"""The models that one replica holds, within the room that it was given: bytes of memory for whole
models, places in an engine for adapters.

Who stays is decided by how much each is asked for, not by who came last: a newcomer gets a place in
the main part only where those that would have to go are, together, asked for less than it is. Until
then it lives in a small part of its own, where newcomers push out one another. So a model that few
ask for is answered, and one that serves many is never unloaded for it. After G. Einziger, R.
Friedman and B. Manes, "TinyLFU: A Highly Efficient Cache Admission Policy" (2017), with exact
counts in the place of a sketch, and sizes in that of entries.

Ray Serve's own multiplexing counts models rather than bytes, unloads the least recently used even
while it is being used, and loads one model at a time.
"""

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from rayapp.errors import Unavailable
from rayapp.schemas.record import short

log = logging.getLogger("rayapp.shelf")

HELD = "held"
"""What a replica reports to Ray Serve under this name: the models that it can answer with at
once."""
HALF_LIFE_S = 60.0
NEWCOMERS_SHARE = 0.1
"""Of the room."""
MAX_REMEMBERED = 4096
"""So many models that are not held have their asks counted."""

M = TypeVar("M")


class Heat:
    """How much something is asked for: a count of asks in which each one weighs half as much after
    every half_life_s. Times are of one clock, in seconds."""

    __slots__ = ("_at_s", "_half_life_s", "_value")

    def __init__(self, half_life_s: float, now_s: float, value: float = 0.0) -> None:
        self._half_life_s = half_life_s
        self._value, self._at_s = value, now_s

    def at(self, now_s: float) -> float:
        return self._value * math.exp2(-max(0.0, now_s - self._at_s) / self._half_life_s)

    def add(self, now_s: float, amount: float = 1.0) -> None:
        self._value = self.at(now_s) + amount
        self._at_s = max(self._at_s, now_s)


@dataclass(slots=True, eq=False)
class _Place(Generic[M]):
    """loading: done once the model is there. num_using: requests that have it in their hands, or
    wait for it. is_newcomer: it is in the small part."""

    num_bytes: int
    loading: "asyncio.Task[M]"
    num_using: int = 0
    is_newcomer: bool = False
    is_pinned: bool = False

    @property
    def is_idle(self) -> bool:
        """It may go. A load cannot be stopped: its memory is taken though nobody waits for it."""
        return self.loading.done() and not self.num_using and not self.is_pinned


class Shelf(Generic[M]):
    """load: the model of an id; different ones load side by side, num_loads at a time, and one
    model once however many ask. on_unload: told of each that goes, which nobody uses then. unit:
    what `bytes` are where room is not memory; newcomers_bytes: of the small part. yields_idle:
    while that is in use, the one that is least asked for of those that nobody uses goes for a
    newcomer, which would be refused else: right where a use takes long and a load does not. Used on
    one event loop."""

    def __init__(
        self,
        load: Callable[[str], Awaitable[M]],
        max_bytes: int,
        num_loads: int = 2,
        on_ask: Callable[[bool], None] = lambda is_held: None,
        clock_s: Callable[[], float] = time.monotonic,
        *,
        on_unload: Callable[[str, M], None] = lambda model_id, model: None,
        newcomers_bytes: int | None = None,
        unit: str = "bytes",
        yields_idle: bool = False,
    ) -> None:
        self._load = load
        self._on_unload = on_unload
        self._unit = unit
        self._yields_idle = yields_idle
        self._max_bytes = max_bytes
        if newcomers_bytes is None:
            newcomers_bytes = int(max_bytes * NEWCOMERS_SHARE)
        self._newcomers_bytes = newcomers_bytes
        self._loads = asyncio.Semaphore(num_loads)
        self._on_ask = on_ask
        self._clock_s = clock_s
        self._places: dict[str, _Place[M]] = {}
        self._heats: dict[str, Heat] = {}

    @property
    def main_bytes(self) -> int:
        return self._max_bytes - self._newcomers_bytes

    @property
    def used_bytes(self) -> int:
        return sum(place.num_bytes for place in self._places.values())

    def held(self) -> frozenset[str]:
        """Models that are here, or on their way."""
        return frozenset(self._places)

    def loaded(self) -> Mapping[str, tuple[int, M]]:
        """Models that can be asked at once, with their bytes."""
        done = {i: p for i, p in self._places.items() if p.loading.done()}
        return {i: (place.num_bytes, place.loading.result()) for i, place in done.items()}

    def pin(self, model_ids: AbstractSet[str], are_all: bool = True) -> None:
        """These are never unloaded. are_all: of those that are held no others."""
        for model_id, place in self._places.items():
            place.is_pinned = model_id in model_ids or (place.is_pinned and not are_all)

    def heat(self, model_id: str) -> float:
        heat = self._heats.get(model_id)
        return 0.0 if heat is None else heat.at(self._clock_s())

    @asynccontextmanager
    async def use(self, model_id: str, num_bytes: int) -> AsyncIterator[M]:
        """The model, which stays at least until the block ends. Raises what `load` raises, and
        Unavailable where it finds no room."""
        self._heated(model_id).add(self._clock_s())
        place = self._places.get(model_id)
        self._on_ask(place is not None and place.loading.done())
        if place is None:
            place = self._placed(model_id, num_bytes)
        elif place.is_newcomer:
            self._promote(model_id, place)
        place.num_using += 1
        try:
            yield await asyncio.shield(place.loading)
        finally:
            place.num_using -= 1

    async def prepare(
        self, model_id: str, num_bytes: int, like: str | None = None, is_pinned: bool = False
    ) -> None:
        """Have the model before somebody asks. like: a model that it follows: it counts as asked
        for as much as that one, so it is not unloaded first. is_pinned: it is never unloaded;
        raises Unavailable where there is no room for it beside the other pinned ones."""
        if like is not None:
            inherited = self.heat(like) - self.heat(model_id)
            self._heated(model_id).add(self._clock_s(), max(0.0, inherited))
        place = self._places.get(model_id)
        if place is None:
            place = self._placed(model_id, num_bytes, at_any_cost=is_pinned)
        elif is_pinned and place.is_newcomer:
            self._promote(model_id, place, at_any_cost=True)
        place.num_using += 1
        try:
            await asyncio.shield(place.loading)
            place.is_pinned = place.is_pinned or is_pinned
        finally:
            place.num_using -= 1

    def stock(self, model_id: str, num_bytes: int, model: M) -> bool:
        """Place a model that is loaded already, if there is room beside those that are held."""
        if self._main_used() + num_bytes > self.main_bytes or model_id in self._places:
            return False
        self._heated(model_id)
        loading = asyncio.get_running_loop().create_task(_the(model))
        self._places[model_id] = _Place(num_bytes, loading)
        return True

    def _placed(self, model_id: str, num_bytes: int, at_any_cost: bool = False) -> _Place[M]:
        is_newcomer = not self._clear(model_id, num_bytes, at_any_cost)
        if is_newcomer:
            self._clear_newcomers(model_id, num_bytes)
        loading = asyncio.get_running_loop().create_task(self._loaded(model_id))
        place = _Place(num_bytes, loading, is_newcomer=is_newcomer)
        self._places[model_id] = place
        return place

    async def _loaded(self, model_id: str) -> M:
        try:
            async with self._loads:
                return await self._load(model_id)
        except BaseException:
            # The next one who asks tries again. It is this load's own place that goes: while one is
            # loading it is not unloaded, so there can be no second.
            del self._places[model_id]
            raise

    def _promote(self, model_id: str, place: _Place[M], at_any_cost: bool = False) -> None:
        if self._clear(model_id, place.num_bytes, at_any_cost):
            place.is_newcomer = False

    def _clear(self, model_id: str, num_bytes: int, at_any_cost: bool = False) -> bool:
        """Make room in the main part. False, and nobody goes, where those that would have to are
        asked for more than this one, or are in use."""
        lacking = self._main_used() + num_bytes - self.main_bytes
        going: list[str] = []
        heat = 0.0
        for found in self._idle(is_newcomer=False):
            if lacking <= 0:
                break
            going.append(found)
            heat += self.heat(found)
            lacking -= self._places[found].num_bytes
        if lacking > 0 or (not at_any_cost and going and heat > self.heat(model_id)):
            return False
        self._unload(going)
        return True

    def _clear_newcomers(self, model_id: str, num_bytes: int) -> None:
        """Raises Unavailable."""
        lacking = self.used_bytes + num_bytes - self._max_bytes
        going: list[str] = []
        hot = self._idle(is_newcomer=False) if self._yields_idle else []
        for found in self._idle(is_newcomer=True) + hot:
            if lacking <= 0:
                break
            going.append(found)
            lacking -= self._places[found].num_bytes
        if lacking > 0:
            raise Unavailable(
                f"model {short(model_id)} needs {num_bytes:,} {self._unit}, {lacking:,} more than "
                f"can be freed of the {self._max_bytes:,} of a replica: the models there are asked "
                "for more, pinned, loading or in use",
                "try again; raise the room of a replica, or how many there may be",
            )
        self._unload(going)

    def _idle(self, is_newcomer: bool) -> list[str]:
        """Those that may go, the one that is least asked for by the byte first."""
        found = [
            model_id
            for model_id, place in self._places.items()
            if place.is_newcomer == is_newcomer and place.is_idle
        ]
        return sorted(found, key=lambda m: self.heat(m) / max(1, self._places[m].num_bytes))

    def _unload(self, going: list[str]) -> None:
        for model_id in going:
            place = self._places.pop(model_id)
            log.info("model_unloaded", extra={"model_id": model_id, "heat": self.heat(model_id)})
            self._on_unload(model_id, place.loading.result())

    def _main_used(self) -> int:
        return sum(p.num_bytes for p in self._places.values() if not p.is_newcomer)

    def _heated(self, model_id: str) -> Heat:
        heat = self._heats.get(model_id)
        if heat is None:
            now_s = self._clock_s()
            if len(self._heats) >= MAX_REMEMBERED + len(self._places):
                self._forget(now_s)
            heat = self._heats[model_id] = Heat(HALF_LIFE_S, now_s)
        return heat

    def _forget(self, now_s: float) -> None:
        """The colder half of those that are not held."""
        absent = [m for m in self._heats if m not in self._places]
        absent.sort(key=lambda m: self._heats[m].at(now_s))
        for model_id in absent[: len(absent) // 2 + 1]:
            del self._heats[model_id]


async def _the(model: M) -> M:
    return model
