"""What a tree of processes has used so far, and what it uses when nothing is asked of it."""

import contextlib
import math
import time
from collections.abc import Callable

import psutil

FALLING = 0.85
"""Less than this part of the figure before is a good deal less."""


def family(root: psutil.Process) -> list[psutil.Process]:
    """root and everything below it that is alive."""
    return [root, *root.children(recursive=True)]


def cpu_s(root: psutil.Process) -> float:
    """CPU seconds so far of root and everything below it, the ended ones included."""
    total = 0.0
    for process in family(root):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def idle_ms_per_s(root: psutil.Process, seconds: float) -> float:
    """CPU of root and everything below it, while the caller asks nothing of them."""
    before_s = cpu_s(root)
    time.sleep(seconds)
    return (cpu_s(root) - before_s) * 1e3 / seconds


def settled(
    idle: Callable[[], float],
    deadline_s: float,
    most: float = math.inf,
    clock_s: Callable[[], float] = time.monotonic,
) -> float:
    """What it costs to be there, once that is at most `most` and does not fall any more: what has
    just started is busy with itself for a while, some for longer than others. At the deadline, what
    it is then."""
    found = idle()
    while clock_s() < deadline_s:
        before, found = found, idle()
        if FALLING * before < found <= most:
            break
    return found
