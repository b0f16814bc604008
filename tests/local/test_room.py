"""What a stage would wait for on a cluster whose CPUs somebody holds."""

from dataclasses import dataclass, field
from typing import Any

import ray

from rayapp.flows.room import ONE_CPU, tell_if_it_waits


@dataclass
class Told:
    """The part of a session that is asked for."""

    dashboard_url: str | None = None
    lines: list[str] = field(default_factory=list)

    def say(self, line: str) -> None:
        self.lines.append(line)


class Holder:
    def ready(self) -> None:
        pass


def test_what_is_not_free_is_told(ray_local: None) -> None:
    told: Any = Told()
    holder: Any = ray.remote(num_cpus=1.5)(Holder).remote()
    ray.get(holder.ready.remote())
    tell_if_it_waits(told, {"CPU": 0.25}, times=2)
    assert told.lines == []
    tell_if_it_waits(told, ONE_CPU)
    tell_if_it_waits(told, {"CPU": 0.25, "GPU": 1}, times=3)
    ray.kill(holder)
    free, jobs = (
        "the cluster has 2 of which 0.5 are free",
        "jobs and what they have started hold 1.5",
    )
    patience = "it goes on when jobs end; or rayapp down && rayapp up --num-cpus"
    assert told.lines == [
        f"waiting for CPU: this needs 1, {free}; {jobs}\n  next: {patience} 1",
        f"waiting for CPU: this needs 0.75, {free}; {jobs}\n  next: {patience} 1",
        "waiting for GPU: this needs 3, the cluster has 1 of which 1 are free\n"
        "  next: the cluster never has so many: ask for less, or add a node that has them",
    ]
