"""Waiting for what other processes do in the background, where they offer no event to wait for."""

import time
from collections.abc import Callable

WAIT_S = 120
LOOK_EVERY_S = 0.05


def until(condition: Callable[[], bool], wait_s: float = WAIT_S) -> None:
    deadline_s = time.monotonic() + wait_s
    while not condition():
        assert time.monotonic() < deadline_s, "not seen in time"
        time.sleep(LOOK_EVERY_S)
