"""What a fit costs: CPU seconds of a process, and its place behind those who answer requests."""

import os
import resource

_NICENESS = 10


def step_back() -> None:
    """This process, whose work can wait, lets those that answer people go first. Once is enough,
    and one that is further back already stays there."""
    os.nice(max(0, _NICENESS - os.nice(0)))


class CpuMeter:
    """CPU seconds of this process since the meter was made: every thread, user and system."""

    def __init__(self) -> None:
        self._start_s = self._now_s()

    def read_s(self) -> float:
        return self._now_s() - self._start_s

    @staticmethod
    def _now_s() -> float:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return usage.ru_utime + usage.ru_stime
