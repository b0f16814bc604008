"""What is kept for a while, within so many bytes: the longest unused goes first."""

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from rayapp.config.serving import CacheConfig

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(slots=True)
class _Entry(Generic[V]):
    value: V
    until_s: float
    num_bytes: int


class Kept(Generic[K, V]):
    def __init__(self, config: CacheConfig, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._config = config
        self._clock_s = clock_s
        self._entries: OrderedDict[K, _Entry[V]] = OrderedDict()
        self.num_bytes = 0

    def get(self, key: K) -> V | None:
        entry = self._entries.get(key)
        if entry is None or entry.until_s <= self._clock_s():
            return None
        self._entries.move_to_end(key)
        return entry.value

    def put(self, key: K, value: V, num_bytes: int) -> None:
        """What is larger than everything together may be is not kept."""
        if num_bytes > self._config.max_bytes:
            return
        old = self._entries.pop(key, None)
        if old is not None:
            self.num_bytes -= old.num_bytes
        until_s = self._clock_s() + self._config.ttl_s
        self._entries[key] = _Entry(value, until_s, num_bytes)
        self.num_bytes += num_bytes
        while self.num_bytes > self._config.max_bytes:
            _, gone = self._entries.popitem(last=False)
            self.num_bytes -= gone.num_bytes
