"""Nodes of a Ray cluster on one Linux machine: each has an IP address, processes, and a /tmp of its
own, as machines have, and starts Ray with the commands of cluster.yaml.

A node is a network, a mount and a process namespace. Its network ends in a bridge, through which
nodes reach one another and this process reaches them; no port of the machine is taken. What nodes
share is what machines share: the files outside /tmp, and those below it that are named.
"""

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml

from benchmarks.trials import titled

CLUSTER_YAML = Path("cluster.yaml")
NETWORK = "198.18.{}.{}"  # RFC 2544: addresses for benchmarks, which nobody routes
GCS_PORT, DASHBOARD_PORT = 6379, 8265
STARTED_S = 120
TOOLS = ("ip", "unshare", "nsenter", "mount")
TMP = Path("/tmp")


@dataclass(frozen=True)
class Node:
    """name: also that of its network. link: the end of its cable that is out here. first: the
    process of its namespace with whose death the kernel ends all the others."""

    name: str
    address: str
    link: str
    first: psutil.Process

    def processes(self, title: str) -> list[psutil.Process]:
        """Those whose command line holds `title`, eldest first."""
        return titled(self.first, title) if self.is_alive else []

    @property
    def is_alive(self) -> bool:
        """And others can reach it."""
        try:
            runs = self.first.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False
        return runs and Path(f"/sys/class/net/{self.link}/carrier").read_text() == "1\n"

    def seen(self, path: Path) -> Path:
        """A path of the node's, as it is reached from here."""
        return Path(f"/proc/{self.first.pid}/root{path}")

    def cut_off(self) -> None:
        """From the network; its processes go on."""
        _ip("-n", self.name, "link", "set", "eth0", "down")

    def inside(self, *command: str) -> list[str]:
        """`command`, in the node's network."""
        return ["ip", "netns", "exec", self.name, *command]


def require_root() -> None:
    """Raises SystemExit where this machine cannot have nodes, or this user may not make them."""
    lacking = [tool for tool in TOOLS if shutil.which(tool) is None]
    if sys.platform != "linux" or lacking:
        raise SystemExit(
            f"nodes are Linux namespaces; this is {sys.platform}, without {lacking or 'them'}: "
            "run it on Linux with iproute2 and util-linux installed"
        )
    if os.geteuid() != 0:
        raise SystemExit(
            f"nodes are Linux namespaces, which root alone may make; this is user {os.geteuid()}: "
            "run it with sudo -E, or in a virtual machine of your own"
        )


@contextlib.contextmanager
def cluster(
    num_nodes: int, folder: Path, environ: Mapping[str, str], shared: Sequence[Path]
) -> Iterator[list[Node]]:
    """A cluster whose first node is its head; all of it is gone afterwards.

    folder: for logs. environ: of every node, beside this process's. shared: what every node sees
    below /tmp, if it is there. Raises SystemExit when a node does not come up.
    """
    subnet = os.getpid() % 256
    names = [f"rayapp-{os.getpid()}-{i}" for i in range(num_nodes)]
    addresses = [NETWORK.format(subnet, 2 + i) for i in range(num_nodes)]
    known = {**os.environ, **environ, "RAY_HEAD_IP": addresses[0]}
    with contextlib.ExitStack() as stack:
        bridge = _bridge(stack, subnet)
        nodes: list[Node] = []
        for i, (name, address) in enumerate(zip(names, addresses, strict=True)):
            link = f"{bridge}{i}"
            _namespace(stack, name, address, bridge, link)
            script = folder / f"{name}.sh"
            script.write_text(_script(folder / name, shared, _start_command(i == 0, address)))
            log = folder / f"{name}.log"
            first = _started(stack, name, script, log, known)
            nodes.append(Node(name, address, link, first))
        yield nodes


def _bridge(stack: contextlib.ExitStack, subnet: int) -> str:
    name = f"rayapp{subnet}-"  # an interface's name has at most 15 characters
    _ip("link", "add", name, "type", "bridge")
    stack.callback(_ip, "link", "del", name)
    _ip("addr", "add", NETWORK.format(subnet, 1) + "/24", "dev", name)
    _ip("link", "set", name, "up")
    return name


def _namespace(
    stack: contextlib.ExitStack, name: str, address: str, bridge: str, outer: str
) -> None:
    _ip("netns", "add", name)
    stack.callback(_ip, "netns", "del", name)
    _ip("link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", name)
    stack.callback(_ip, "link", "del", outer)  # the kernel would do it too, some time
    _ip("link", "set", outer, "master", bridge, "up")
    _ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
    for device in ("lo", "eth0"):
        _ip("-n", name, "link", "set", device, "up")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def _start_command(is_head: bool, address: str) -> str:
    """The one of cluster.yaml, less what only a cloud has; room for one replica of 0.6 cores."""
    cluster = yaml.safe_load(CLUSTER_YAML.read_text())
    kind = "head" if is_head else "worker"
    command = re.sub(r" --autoscaling-config=\S+", "", cluster[f"{kind}_start_ray_commands"][-1])
    own = f"--node-ip-address={address} --num-cpus=1 --object-store-memory={200 << 20}"
    return f"{command} {own}"


def _script(stage: Path, shared: Sequence[Path], start: str) -> str:
    """What a node does first: a /tmp of its own, then `ray start`, then it waits, and buries the
    processes whose parents are gone."""
    lines = ["set -e", f"mkdir {stage}", f"mount -t tmpfs -o mode=1777 none {stage}"]
    for path in shared:
        if path.is_relative_to(TMP):
            seen = stage / path.relative_to(TMP)
            lines += [f"mkdir -p {seen}", f"mount --rbind {shlex.quote(str(path))} {seen}"]
    lines += [f"mount --move {stage} {TMP}", f"cd {shlex.quote(str(Path.cwd()))}"]
    return "\n".join([*lines, "set +e", start, "while true; do sleep 3600 & wait; done", ""])


def _started(
    stack: contextlib.ExitStack,
    name: str,
    script: Path,
    log: Path,
    environ: Mapping[str, str],
) -> psutil.Process:
    """Its first process, once its `ray start` has said that it runs."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{environ['PATH']}"
    own = ("unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child")
    with log.open("wb") as file:
        child = subprocess.Popen(
            ["ip", "netns", "exec", name, *own, "bash", str(script)],
            env=dict(environ) | {"PATH": path},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    stack.callback(_end, child)
    deadline_s = time.monotonic() + STARTED_S
    while "Ray runtime started" not in log.read_text():
        if child.poll() is not None or time.monotonic() > deadline_s:
            raise SystemExit(f"node {name} did not start within {STARTED_S} s: {log.read_text()}")
        time.sleep(0.3)
    return psutil.Process(child.pid).children()[0]


def _end(child: "subprocess.Popen[bytes]") -> None:
    """--kill-child hands its death on."""
    child.kill()
    child.wait()
