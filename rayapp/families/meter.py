"""What a fit costs: CPU seconds of a process."""

import resource


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
