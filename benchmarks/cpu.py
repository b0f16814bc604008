"""What a tree of processes has used so far."""

import contextlib

import psutil


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
