"""Which TCP ports are free, and who has one that is not."""

import random
import socket
from collections.abc import Collection, Mapping

import psutil

from rayapp.errors import UserError

# Below the range that Linux hands out by itself (32768 and up), so that no connection grabs a port
# between our look and Ray's use of it.
_RANGE = range(20_000, 32_000)


def is_free(port: int) -> bool:
    """Nobody listens on this port of the loopback interface."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def free_ports(count: int, promised: Collection[int] = ()) -> list[int]:
    """`count` different ports that nobody listens on now, none of those `promised` to somebody.
    Raises UserError when there are none."""
    found: list[int] = []
    for port in random.sample(_RANGE, len(_RANGE)):
        if port not in promised and is_free(port):
            found.append(port)
        if len(found) == count:
            return found
    raise UserError(
        f"fewer than {count} free ports between {_RANGE.start} and {_RANGE.stop}",
        "stop what holds them: ss -ltnp lists it",
    )


def port_from(environ: Mapping[str, str], variable: str, default: int) -> int:
    """The port that an environment variable names. Raises UserError when it is not one."""
    text = environ.get(variable) or str(default)
    if not text.isdecimal() or not 1024 <= int(text) <= 65535:
        raise UserError(f"{variable}={text!r} is not a port (1024 to 65535)", f"unset {variable}")
    return int(text)


def require_different(ports: Mapping[str, int]) -> None:
    """ports: by the variable that names each. Raises UserError for a port that two of them name."""
    named: dict[int, str] = {}
    for variable, port in ports.items():
        if port in named:
            (other,) = free_ports(1, promised=ports.values())
            raise UserError(
                f"{named[port]} and {variable} are both {port}, each needs a port of its own",
                f"take another port for one of them: {variable}={other} rayapp up",
            )
        named[port] = variable


def require_free(port: int, variable: str, use: str) -> None:
    """Raises UserError naming the holder and the variable that moves us elsewhere."""
    if is_free(port):
        return
    suggestion = next((p for p in range(port + 1, port + 100) if is_free(p)), port + 100)
    raise UserError(
        f"port {port} ({use}) is taken by {_holder(port)}",
        f"end it, or take another port: {variable}={suggestion} rayapp up",
    )


def _holder(port: int) -> str:
    try:
        for connection in psutil.net_connections("tcp"):
            at = connection.laddr
            if connection.status == psutil.CONN_LISTEN and at.port == port and connection.pid:
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
    except psutil.Error:
        return "another process"  # some systems show the holder to root alone
    return "another process"
