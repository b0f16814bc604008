"""When a benchmark's recovery begins, by a server that answers each request in its turn."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from benchmarks import overload
from benchmarks.overload import TOO_MUCH, much_then_half, recovered_s
from benchmarks.served import Case
from benchmarks.serving import Climber
from rayapp.cli.ports import free_ports
from rayapp.storage import Workspace

RATE, SECONDS = 100.0, 0.25
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"


class InTurn(asyncio.Protocol):
    """One answer each 1/RATE, to requests of all connections in the order in which they came."""

    waiting: asyncio.Queue[asyncio.Transport]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.waiting.put_nowait(self.transport)


@asynccontextmanager
async def served_in_turn(port: int) -> AsyncIterator[None]:
    waiting: asyncio.Queue[asyncio.Transport] = asyncio.Queue()

    async def answer() -> None:
        while True:
            transport = await waiting.get()
            await asyncio.sleep(1 / RATE)
            transport.write(ANSWER)

    protocol = type("Own", (InTurn,), {"waiting": waiting})
    server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", port)
    answering = asyncio.create_task(answer())
    try:
        yield
    finally:
        answering.cancel()
        server.close()


async def test_recovery_counts_from_the_end_of_the_overload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left of it then takes the server a second, in which it answers nobody in time."""
    monkeypatch.setattr(overload, "RECOVERY_S", 5.0)
    (port,) = free_ports(1)
    case = Case(Workspace(str(tmp_path)), tmp_path, [{}], [0.0], "", "")
    climber = Climber("bare", case, psutil.Process(), port)
    async with served_in_turn(port):
        much, after = await much_then_half(climber, RATE, SECONDS)
    assert (much.num_ok, after.num_ok) == (much.num_sent, after.num_sent)
    found = recovered_s(after)
    assert found is not None
    assert found >= (TOO_MUCH - 1) * SECONDS
