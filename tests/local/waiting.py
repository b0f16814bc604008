"""Waiting for what other processes do in the background, where they offer no event to wait for."""

import time
from collections.abc import Callable

WAIT_S = 120
EVERY_S = 0.5
"""A condition may be a request; refused more often than that, a breaker would open."""
AT_ONCE_S = 0.05
"""Between looks for what must be met soon after it happened."""


def until(condition: Callable[[], bool], wait_s: float = WAIT_S, every_s: float = EVERY_S) -> None:
    deadline_s = time.monotonic() + wait_s
    while not condition():
        assert time.monotonic() < deadline_s, "not seen in time"
        time.sleep(every_s)
