"""Whether one who answers is quick enough, by what was measured in a sliding window.

The 95th percentile is within a limit exactly when at most one answer in twenty took longer; so
answers over the limit are counted, and no quantile is estimated. The window is ten parts long: what
it holds is between nine tenths of it and all of it old, in three numbers a part.

                 p95 ≤ limit                     p95 > limit
    unknown ───────────────────▶ quick ─────────────────────────▶ slow
                                   ▲     p95 ≤ 0.9 × limit          │
                                   └────────────────────────────────┘

What was said last holds until a window says otherwise (hysteresis): it says "quick" only with
`min_answers` in it, and "slow" as soon as one in twenty of those is over the limit, so that a
standstill is seen before it has filled a window. Between 0.9 of the limit and the limit nothing
changes, so a p95 that lies there, or a lull, does not make it flap.
"""

import math
from collections import deque
from typing import Literal

State = Literal["unknown", "quick", "slow"]
NUM_PARTS = 10
SLOWER_SHARE = 0.05
"""Of the answers, as many may take longer than their 95th percentile."""
BACK_SHARE = 0.9
"""Of the limit: a p95 below this ends "slow"."""
FAILED_S = math.inf
"""How long an answer took that never came."""


class Latency:
    """Of one who may answer. limit_s: for the p95. Times are seconds of one monotonic clock."""

    def __init__(self, limit_s: float, min_answers: int, window_s: float) -> None:
        self.limit_s = limit_s
        self._min_answers = min_answers
        self._part_s = window_s / NUM_PARTS
        self._parts: deque[list[int]] = deque()
        """Number of the part, its answers, those over BACK_SHARE of the limit, and over it."""
        self.num_answers = self._num_late = self.num_slow = 0
        self.state: State = "unknown"

    @property
    def is_measured(self) -> bool:
        """Whether the window says anything."""
        return self._is_breached or self.num_answers >= self._min_answers

    def note(self, took_s: float, now_s: float) -> None:
        part = int(now_s / self._part_s)
        if not self._parts or self._parts[-1][0] != part:
            self._forget(part)
            self._parts.append([part, 0, 0, 0])
        late, slow = took_s > self.limit_s * BACK_SHARE, took_s > self.limit_s
        counts = self._parts[-1]
        counts[1] += 1
        counts[2] += late
        counts[3] += slow
        self.num_answers += 1
        self._num_late += late
        self.num_slow += slow
        self._judge()

    def look(self, now_s: float) -> State:
        """What holds now."""
        self._forget(int(now_s / self._part_s))
        self._judge()
        return self.state

    @property
    def _is_breached(self) -> bool:
        return self.num_slow > SLOWER_SHARE * max(self.num_answers, self._min_answers)

    def _forget(self, part: int) -> None:
        while self._parts and self._parts[0][0] <= part - NUM_PARTS:
            _, answers, late, slow = self._parts.popleft()
            self.num_answers -= answers
            self._num_late -= late
            self.num_slow -= slow

    def _judge(self) -> None:
        if self._is_breached:
            self.state = "slow"
        elif self.num_answers >= self._min_answers:
            is_well_within = self._num_late <= SLOWER_SHARE * self.num_answers
            if self.state == "unknown" or is_well_within:
                self.state = "quick"
