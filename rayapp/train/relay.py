"""From the workers to whoever watches: progress as it happens, and what it cost.

Ray Train keeps only the metrics of checkpoints, and shows them after the run; so each worker also
tells this actor, and the driver asks it twice a second.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

import ray

from rayapp.errors import RayappError

POLL_S = 0.5


@dataclass(frozen=True)
class Step:
    """One report of a fit: rounds or epochs done, and the tune-split metrics then."""

    step: int
    total_steps: int
    metrics: dict[str, float]


@dataclass
class Spent:
    """What a run has reported and used so far; it travels with every checkpoint."""

    cpu_s: float = 0.0
    history: list[Step] = field(default_factory=list)


class Relay:
    """An actor of one run. cpu_s is counted per process, so that a lost worker's time stays."""

    def __init__(self) -> None:
        self._before = Spent()
        self._cpu_s: dict[tuple[str, int], float] = {}
        self._history: dict[int, Step] = {}
        self._new: list[Step] = []
        self._error: RayappError | None = None

    def went_on(self, before: Spent) -> None:
        """A checkpoint was resumed; counts only where this actor has not seen the run yet."""
        if not self._cpu_s and not self._history:
            self._before = before
            self._history = {s.step: s for s in before.history}

    def used(self, node: str, pid: int, cpu_s: float) -> None:
        self._cpu_s[node, pid] = cpu_s

    def advanced(self, step: Step) -> None:
        self._history[step.step] = step
        self._new.append(step)

    def failed(self, error: RayappError) -> None:
        self._error = error

    def take(self) -> list[Step]:
        """What is new since the last call."""
        taken, self._new = self._new, []
        return taken

    def spent(self) -> Spent:
        history = [self._history[step] for step in sorted(self._history)]
        return Spent(self._before.cpu_s + sum(self._cpu_s.values()), history)

    def error(self) -> RayappError | None:
        return self._error


class Listener:
    """Calls `heard` in this process for every step, from a thread, while the block runs.

    What `heard` raises is raised again when the block ends.
    """

    def __init__(self, relay: Any, heard: Callable[[Step], None]) -> None:
        self._relay = relay
        self._heard = heard
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._listen, name="train-listener", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._error is not None and kind is None:
            raise self._error

    def _listen(self) -> None:
        try:
            stopping = False
            while not stopping:
                stopping = self._stop.wait(POLL_S)
                for step in ray.get(self._relay.take.remote()):
                    self._heard(step)
        except BaseException as error:  # noqa: BLE001 - raised again by __exit__, in the caller's thread
            self._error = error
