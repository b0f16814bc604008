"""What a stage would wait for on a cluster whose CPUs somebody holds."""

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from local_cluster import until_free

from rayapp.flows.room import ONE_CPU, tell_if_it_waits


@dataclass
class Told:
    """The part of a session that is asked for."""

    dashboard_url: str | None = None
    lines: list[str] = field(default_factory=list)

    def say(self, line: str) -> None:
        self.lines.append(line)


def test_what_is_not_free_is_told(ray_local: None) -> None:
    class Holder:  # in here, as a worker does not find the modules of tests
        def ready(self) -> None:
            pass

    told: Any = Told()
    until_free("CPU", 2)
    holder: Any = ray.remote(num_cpus=1.5)(Holder).remote()
    ray.get(holder.ready.remote())
    until_free("CPU", 0.5)
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
        f"too little CPU is free: this needs 1, {free}; {jobs}\n  next: {patience} 1",
        f"too little CPU is free: this needs 0.75, {free}; {jobs}\n  next: {patience} 1",
        "too little GPU is free: this needs 3, the cluster has 1 of which 1 are free\n"
        "  next: the cluster never has so many: ask for less, or add a node that has them",
    ]


HOLDER = """
import sys
import ray

class Holder:
    def ready(self):
        pass

head = ray.init(
    address="local", num_cpus=2, include_dashboard=True, log_to_driver=False, _temp_dir=sys.argv[1]
)
holder = ray.remote(num_cpus=1)(Holder).remote()
ray.get(holder.ready.remote())
print(head.address_info["gcs_address"], head.dashboard_url, flush=True)
sys.stdin.readline()
ray.kill(holder)
sys.stdin.readline()
"""
WAITER = """
import sys
import time
from types import SimpleNamespace
import ray
from ray.util.placement_group import placement_group, remove_placement_group
from rayapp.flows import room

sys.path.append(sys.argv[3])
from local_cluster import until_free

ray.init(address=sys.argv[1], log_to_driver=False)
room.LOOK_EVERY_S, room.TOLD_AT_S = 0.5, (4.0, 6.0, 600.0)
told = SimpleNamespace(
    dashboard_url="http://" + sys.argv[2], say=lambda line: print(line, flush=True)
)
class Slow:
    def __init__(self):
        time.sleep(7)

    def ready(self):
        pass

with room.telling_waits(told, {"CPU": 1.0}, times=2):
    group = placement_group([{"CPU": 1}, {"CPU": 1}])
    ray.get(group.ready())
    print("goes on", flush=True)
    time.sleep(6)
    remove_placement_group(group)
until_free("CPU", 2)
with room.telling_waits(told, {"CPU": 2.0}):
    actor = ray.remote(num_cpus=2)(Slow).remote()
    ray.get(actor.ready.remote())
    print("is there", flush=True)
"""

WAITING = re.compile(r"waiting for CPU, (\d+) s so far: this needs 2, the cluster has 2 of which 1")


@contextmanager
def python(script: str, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """Its lines, those of stderr left out. It is killed if it has not ended by itself."""
    pipe, command = subprocess.PIPE, [sys.executable, "-c", script, *arguments]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_what_still_waits_is_told_again_until_it_goes_on() -> None:
    """As workers do for CPUs that another job, or an engine, keeps."""
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # socket paths may have 107 bytes at most
    with python(HOLDER, folder) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        told = holder.stdout.readline().split()
        with python(WAITER, *told, str(Path(__file__).parent)) as waiter:
            assert waiter.stdout is not None
            lines, waited_s = [], []
            for line in waiter.stdout:
                lines.append(line)
                if found := WAITING.match(line):
                    waited_s.append(int(found[1]))
                    if len(waited_s) == 2:
                        print("free", file=holder.stdin, flush=True)
            assert waiter.wait(60) == 0
        holder.communicate("end\n", timeout=60)
    shutil.rmtree(folder, ignore_errors=True)
    assert lines[0].startswith("too little CPU is free: this needs 2, the cluster has 2 of which 1")
    assert WAITING.match(lines[2])
    # the second as soon as 6 s are over: a third would be said after 600
    first_s, second_s = waited_s
    assert 4 <= first_s < second_s
    assert second_s >= 6
    # a constructor that takes its time has its place, and waits for none
    assert lines[-2:] == ["goes on\n", "is there\n"]
