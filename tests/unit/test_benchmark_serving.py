"""How the benchmark of serving finds the highest rate that a server sustains."""

from collections import Counter

import numpy as np
import pytest

from benchmarks.open_loop import Outcome
from benchmarks.serving import FIRST_RATE_RPS, STALL, Climber, Step


def outcome(rate_rps: float, latency_ms: float) -> Outcome:
    latencies_ms = np.full(100, latency_ms)
    due_s, is_ok = np.linspace(0, 1, 100), np.ones(100, bool)
    counts = {"num_sent": 100, "num_ok": 100, "num_wrong": 0, "num_lost": 0}
    return Outcome(
        rate_rps=rate_rps,
        seconds=1.0,
        statuses={},
        latencies_ms=latencies_ms,
        other_ms=np.empty(0),
        due_s=due_s,
        is_ok=is_ok,
        late_ms=0.0,
        **counts,
    )


class Server(Climber):
    """Sustains rates up to most_rps; num_stalls of the first tries of a rate stall all the same."""

    def __init__(self, most_rps: float, num_stalls: int) -> None:
        self._most_rps, self._left = most_rps, num_stalls
        self.num_stalls = 0
        self.tries: Counter[float] = Counter()

    def step(self, rate_rps: float, seconds: float, batch: bool = False) -> Step:
        self.tries[rate_rps] += 1
        stalls = rate_rps > self._most_rps
        if not stalls and self.tries[rate_rps] == 1 and self._left:
            self._left -= 1
            stalls = True
        return Step(outcome(rate_rps, 200.0 if stalls else 5.0), cpu_s=0.5, wall_s=1.0)


@pytest.mark.parametrize("num_stalls", [0, 3])
def test_one_stall_does_not_end_the_climb(num_stalls: int) -> None:
    server = Server(700, num_stalls)
    best, ended_by = server.climb()
    assert 700 / 1.15 < best.outcome.rate_rps <= 700
    assert ended_by == STALL
    # the rate that is too high stalled twice, and counts once
    assert server.num_stalls == num_stalls + 1
    assert set(server.tries.values()) == {1, 2}


def test_a_rate_that_stalls_twice_is_not_sustained() -> None:
    server = Server(FIRST_RATE_RPS, 0)
    best, _ = server.climb()
    assert best.outcome.rate_rps == FIRST_RATE_RPS
