"""How many gateway replicas are wanted: Ray Serve's autoscaling, told what it does not see itself.

Serve counts requests that pass through its wrapper; the gateway answers most of them ahead of it
(door.py). So each replica reports two figures, and the policy takes the larger demand of both:

    busy      share of one core that its process used since the last report. A model on the CPU
              answers within the event loop, where few requests are ever seen waiting.
    ongoing   requests that are being answered, those that wait for something else included.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ray.serve.config import AutoscalingContext

BUSY, ONGOING = "rayapp_busy", "rayapp_ongoing"


class Load:
    """One replica's figures. Each call of `figures` begins the next interval."""

    def __init__(
        self,
        num_ongoing: Callable[[], int],
        cpu_s: Callable[[], float] = time.process_time,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._num_ongoing = num_ongoing
        self._cpu_s, self._clock_s = cpu_s, clock_s
        self._last_cpu_s, self._last_s = cpu_s(), clock_s()

    def figures(self) -> dict[str, float]:
        cpu_s, now_s = self._cpu_s(), self._clock_s()
        passed_s = max(now_s - self._last_s, 1e-3)
        busy = (cpu_s - self._last_cpu_s) / passed_s
        self._last_cpu_s, self._last_s = cpu_s, now_s
        return {BUSY: busy, ONGOING: float(self._num_ongoing())}


class ScalingPolicy:
    """What AutoscalingConfig.policy names. Both targets are of each replica."""

    def __init__(self, target_busy_share: float, target_ongoing: float) -> None:
        self._target_busy_share = target_busy_share
        self._target_ongoing = target_ongoing

    def __call__(self, context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
        reported: Mapping[str, Mapping[Any, float]] = context.aggregated_metrics or {}
        return wanted_replicas(
            list(reported.get(BUSY, {}).values()),
            list(reported.get(ONGOING, {}).values()),
            context.total_num_requests,
            self._target_busy_share,
            self._target_ongoing,
        ), {}


def wanted_replicas(
    busy: Sequence[float],
    ongoing: Sequence[float],
    ongoing_in_serve: float,
    target_busy_share: float,
    target_ongoing: float,
) -> float:
    """A fraction; Serve rounds it up and keeps it within its bounds and delays.

    ongoing_in_serve: those that came through Serve's wrapper, which `ongoing` has too, and those
    that still wait in it.
    """
    return max(sum(busy) / target_busy_share, max(sum(ongoing), ongoing_in_serve) / target_ongoing)
