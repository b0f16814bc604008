"""How many requests a replica takes at a time: as many as it keeps pace with, shared by tenants.

A model on the CPU answers on the event loop, and so does everything else; a replica that is asked
too much has no queue that could be looked at, but turns of its loop that grow, for which every
request waits. So the limit follows their length: one more for each short turn in which it was
reached, a fifth less for each long one (additive increase, multiplicative decrease: Chiu and Jain,
1989, doi:10.1016/0169-7552(89)90019-6). A turn's length is the CPU time that it took: a loop that
only waits for its core, because another process has it, refuses nobody.

Where the limit is reached, a tenant that has its fair share of it or more is refused; one that has
less is not, so a crowd of one caller does not shut out the others. Shares are by weight, among
those that asked lately: a tenant of the weight 4 has four times what one of the weight 1 has.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping

from rayapp.errors import Overloaded

TICK_S = 0.02
"""How often the turns are looked at. Shorter ones cannot be told apart, so this much is added to
what a turn may take."""
MIN_LIMIT = 32.0
"""So many a replica always takes: under a flood the refusals alone make turns long."""
MOST = 2
"""Times max_ongoing: so many at a time, whoever they are."""
_LESS = 0.8
_WINDOW_TICKS = 50
"""For one to two of these windows a tenant that asked counts among those that share."""
NO_WEIGHTS: Mapping[str, float] = {}


class Admission:
    """max_ongoing: the highest limit. max_turn_s: turns of the loop may take so much CPU time.
    weights: of tenants whose share is not that of the others, who have 1. Called on the event loop
    only; it looks at the turns while there is something to do."""

    def __init__(
        self,
        max_ongoing: int,
        max_turn_s: float,
        weights: Mapping[str, float] = NO_WEIGHTS,
        cpu_s: Callable[[], float] = time.thread_time,
    ) -> None:
        self.limit = float(max_ongoing)
        self.num_ongoing = 0
        self._max_ongoing, self._max_turn_s = max_ongoing, max_turn_s
        self._weights = weights
        self._cpu_s = cpu_s
        self._of_tenant: Counter[str | None] = Counter()
        self._recent: set[str | None] = set()
        self._before: set[str | None] = set()
        self._weight = 0.0
        """Of all who asked lately, together."""
        self._was_full = False
        self._peak = 0
        self._num_ticks = 0
        self._last_cpu_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def enter(self, tenant: str | None) -> None:
        """Raises Overloaded where there are enough already; otherwise `leave` must follow."""
        if tenant not in self._recent:
            self._recent.add(tenant)
            if tenant not in self._before:
                self._weight += self._weight_of(tenant)
        if self._timer is None:
            self._last_cpu_s = self._cpu_s()
            self._schedule()
        if self.num_ongoing >= self.limit:
            self._was_full = True
            share = self.limit * self._weight_of(tenant) / self._weight
            if self._of_tenant[tenant] >= share or self.num_ongoing >= MOST * self._max_ongoing:
                raise self._full()
        self.num_ongoing += 1
        self._peak = max(self._peak, self.num_ongoing)
        self._of_tenant[tenant] += 1

    def _full(self) -> Overloaded:
        requests = "1 request" if self.num_ongoing == 1 else f"{self.num_ongoing} requests"
        if self.limit < self._max_ongoing:
            why = ", which is as many as it keeps pace with"
        else:
            why = f"; max_ongoing_requests of its config lets it take {self._max_ongoing} at a time"
        return Overloaded(
            f"this replica answers {requests} already{why}",
            "try again after the seconds in retry-after",
        )

    def leave(self, tenant: str | None) -> None:
        self.num_ongoing -= 1
        self._of_tenant[tenant] -= 1
        if not self._of_tenant[tenant]:
            del self._of_tenant[tenant]

    def tick(self) -> None:
        """Look at what the loop did since the last time."""
        cpu_s = self._cpu_s()
        used_s, self._last_cpu_s = cpu_s - self._last_cpu_s, cpu_s
        is_crowd = self._peak >= self.limit / 2  # one dear request says nothing about many
        if used_s > TICK_S + self._max_turn_s and is_crowd:
            self.limit = max(min(MIN_LIMIT, self._max_ongoing), self.limit * _LESS)
        elif self._was_full:
            self.limit = min(self._max_ongoing, self.limit + 1)
        self._was_full, self._peak = False, self.num_ongoing
        self._num_ticks += 1
        if self._num_ticks % _WINDOW_TICKS == 0:
            self._before, self._recent = self._recent, set()
            self._weight = sum(map(self._weight_of, self._before))
        if self.num_ongoing or self._recent or self._before:
            self._schedule()
        else:
            self._timer = None

    def _weight_of(self, tenant: str | None) -> float:
        return 1.0 if tenant is None else self._weights.get(tenant, 1.0)

    def _schedule(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(TICK_S, self.tick)
