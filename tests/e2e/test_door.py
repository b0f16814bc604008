"""What Serve does not see of the requests that the door takes, it must still answer for: replicas
come under load, and one that goes finishes what it has begun. What one that is killed was asked
is answered by another, and counts once."""

import asyncio
import fcntl
import http.client
import json
import subprocess
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pyarrow.compute as pc
import pytest
import yaml
from serving_case import ROW, seal_release, triton_inputs
from shells import Shell, head_in
from tritonclient.grpc import InferInput
from tritonclient.grpc.aio import InferenceServerClient
from waiting import until

from rayapp.cli.head_state import running_head
from rayapp.govern.accounts import Accounts
from rayapp.ledger import Ledger
from rayapp.observe.predictions import PREDICTIONS_TABLE, read_predictions
from rayapp.release.promote import promote
from rayapp.serve.cluster.ingress import READER_TIMEOUT_S, REPEATABLE_BYTES

ENDPOINT = "behind-the-door"
SCORE = f"/endpoints/{ENDPOINT}/invocations"
BODY = json.dumps({"dataframe_records": [ROW]}).encode()
# HAProxy holds a request back until it is complete or as long as this
LONG_BODY = b" " * 2 * REPEATABLE_BYTES + BODY
SENT_FIRST = REPEATABLE_BYTES + 1000
EITHER = {"max_replicas": 2, "deadline_ms": 120_000, "commit_every_s": 1, "num_cpus": 0.1}
SETTINGS = EITHER | {"target_busy_share": 0.2, "upscale_delay_s": 0.5, "downscale_delay_s": 1}
TWO_REPLICAS = EITHER | {"min_replicas": 2}
NUM_COVERED = 1000
LIMIT_NANO_USD = 10**9
BUDGETED = TWO_REPLICAS | {
    "deadline_ms": 2000,
    "usd_per_1000_rows": 1,
    "budgets": {"default_usd": 1},
}
FAILS = {"env_vars": {"RAYAPP_WORKSPACE": "/proc/nowhere"}}
"""A runtime environment in which no replica can be constructed."""
NUM_UPLOADS = 8
WAIT_S = 300


@dataclass(frozen=True)
class Served:
    shell: Shell

    @property
    def port(self) -> int:
        return int(self.shell.environ["RAYAPP_HTTP_PORT"])

    @property
    def grpc_port(self) -> int:
        return int(self.shell.environ["RAYAPP_GRPC_PORT"])

    def deploy(self, settings: dict[str, Any]) -> None:
        path = self._written(settings)
        deployed = self.shell.with_stock_tools().run("serve", "deploy", str(path))
        assert deployed.returncode == 0, deployed.stderr

    def submit(
        self, settings: dict[str, Any], **application: Any
    ) -> subprocess.CompletedProcess[str]:
        """Deploy as a job does it, which waits until the configuration answers."""
        path = self._written(settings, **application)
        return self.shell.in_folder(path.parent).rayapp("submit", path.name, "--job", "deploy")

    def _written(self, settings: dict[str, Any], **application: Any) -> Path:
        config = {
            "http_options": {"port": self.port},
            "grpc_options": {
                "port": self.grpc_port,
                "grpc_servicer_functions": ["rayapp.serve.cluster.grpc_ingress:add_to_server"],
            },
            "applications": [
                {
                    "name": "gateway",
                    "route_prefix": "/",
                    "import_path": "serve_apps.predict:build",
                    "args": settings,
                    **application,
                }
            ],
        }
        path = Path(self.shell.workspace.uri).parent / "project/gateway.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(config))
        return path

    def replicas(self) -> list[dict[str, Any]]:
        """Those that Serve says are running, less those it has not missed yet."""
        head = running_head(self.shell.workspace)
        token = Path(head.token_path).read_text()
        request = urllib.request.Request(
            f"{head.dashboard_url}/api/serve/applications/",
            headers={"Authorization": f"Bearer {token}"},
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            applications = json.load(response)["applications"]
        deployment = applications.get("gateway", {}).get("deployments", {}).get("gateway", {})
        running = [r for r in deployment.get("replicas", []) if r["state"] == "RUNNING"]
        return [r for r in running if psutil.pid_exists(r["pid"])]

    def are_both_asked(self) -> bool:
        """Whether two replicas run, and HAProxy knows both: until then all requests would wait in
        one of them, and nobody could answer in its place."""
        with suppress(httpx.HTTPError):
            httpx.get(f"http://127.0.0.1:{self.port}/v2/models/{ENDPOINT}")
        both = self.replicas()
        return len(both) == 2 and all(_num_connections(r["pid"]) for r in both)

    def are_told_of(self) -> bool:
        """Whether HAProxy knows a replica, and has not Serve's own proxy alone."""
        return "server SERVE_REPLICA" in self.haproxy_config()

    def haproxy_config(self) -> str:
        folder = Path(running_head(self.shell.workspace).temp_dir, "haproxy")
        (file,) = folder.rglob("haproxy.cfg")
        with Path(f"{file}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH)  # Serve writes it under this
            return file.read_text()

    def account(self) -> tuple[int, int]:
        """What callers without a key have spent, and what is lent for them, in billionths."""
        (found,) = Accounts(self.shell.workspace.ledger_url, "test").all()
        return found.spent, found.lent

    def answers(self) -> bool:
        try:
            return httpx.post(f"http://127.0.0.1:{self.port}{SCORE}", content=BODY).is_success
        except httpx.HTTPError:
            return False


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("door")
    # a replica that cannot be constructed is tried three times by default, half a minute each
    with head_in(folder, RAY_SERVE_MAX_PER_REPLICA_RETRY_COUNT="1") as shell:
        signed = seal_release(shell.workspace, folder / "bundle", 1, ENDPOINT)
        promote(Ledger.of(shell.workspace, "test"), signed, 0)
        made = Served(shell)
        made.deploy(SETTINGS)
        until(made.answers, wait_s=WAIT_S)
        yield made


async def _load(served: Served, enough: Callable[[], bool]) -> int:
    """Keep the gateway busy until `enough`; the number of answers, each of them 200."""
    num_answers = 0
    over = asyncio.Event()

    async def ask(client: httpx.AsyncClient) -> None:
        nonlocal num_answers
        while not over.is_set():
            response = await client.post(SCORE, content=BODY)
            assert response.status_code == 200, response.text
            num_answers += 1

    async def watch() -> None:
        deadline_s = time.monotonic() + WAIT_S
        while not await asyncio.to_thread(enough):
            assert time.monotonic() < deadline_s, "not seen in time"
            await asyncio.sleep(0.2)
        over.set()

    url = f"http://127.0.0.1:{served.port}"
    async with httpx.AsyncClient(base_url=url, timeout=30) as client, asyncio.TaskGroup() as group:
        for _ in range(8):
            group.create_task(ask(client))
        group.create_task(watch())
    return num_answers


def _begin_upload(port: int) -> http.client.HTTPConnection:
    """A request that is under way: its headers and part of its body have been sent."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
    connection.putrequest("POST", SCORE)
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", str(len(LONG_BODY)))
    connection.endheaders(LONG_BODY[:SENT_FIRST])
    return connection


async def test_replicas_come_under_load_and_go_with_nothing_dropped(served: Served) -> None:
    assert len(served.replicas()) == 1
    uploads: list[http.client.HTTPConnection] = []

    def has_grown() -> bool:
        """Two replicas answer. Then uploads are begun, while the load goes on: HAProxy gives each
        to the replica with fewer requests, so either gets some."""
        both = served.replicas()
        if len(both) < 2 or not all(_num_connections(r["pid"]) for r in both):
            return False
        uploads.extend(_begin_upload(served.port) for _ in range(NUM_UPLOADS))
        return True

    num_answers = await _load(served, has_grown)
    assert num_answers > 100
    until(lambda: len(served.replicas()) == 1, wait_s=WAIT_S)
    answers = []
    for connection in uploads:
        connection.send(LONG_BODY[SENT_FIRST:])
        answers.append(connection.getresponse().status)
    assert answers == [200] * NUM_UPLOADS


def _num_connections(pid: int) -> int:
    """Connections that a replica's own HTTP server holds; it listens between 30000 and 31000."""
    found = psutil.Process(pid).net_connections("tcp")
    return sum(c.status == "ESTABLISHED" and 30_000 <= c.laddr.port <= 31_000 for c in found)


def test_haproxy_is_told_when_a_reader_is_gone(served: Served) -> None:
    assert f"timeout client {READER_TIMEOUT_S}s\n" in served.haproxy_config()


async def test_a_new_configuration_comes_in_with_nothing_dropped(served: Served) -> None:
    before = {r["pid"] for r in served.replicas()}
    deploying = asyncio.create_task(asyncio.to_thread(served.deploy, TWO_REPLICAS))

    def is_replaced() -> bool:
        assert served.are_told_of()
        now = {r["pid"] for r in served.replicas()}
        return len(now) == 2 and not now & before and not any(map(psutil.pid_exists, before))

    assert await _load(served, is_replaced) > 100
    await deploying


async def test_a_failed_deployment_takes_nothing_away_nor_does_the_next(served: Served) -> None:
    finished: list[subprocess.CompletedProcess[str]] = []

    async def deploy_all() -> None:
        # one replica is fewer that Serve tries to start before it gives up
        for args, env in ((SETTINGS, FAILS), (SETTINGS, FAILS), (TWO_REPLICAS, {})):
            done = await asyncio.to_thread(served.submit, args, runtime_env=env)
            finished.append(done)

    deploying = asyncio.create_task(deploy_all())

    def is_over() -> bool:
        assert served.are_told_of()
        return deploying.done()

    assert await _load(served, is_over) > 100
    await deploying
    failed, again, mended = finished
    assert failed.returncode == again.returncode == 1
    assert "/proc/nowhere: cannot be created" in again.stdout
    assert "Traceback" not in again.stdout
    assert mended.returncode == 0, mended.stdout
    assert f"rayapp ask {ENDPOINT}" in mended.stderr


Ask = Callable[[str], Awaitable[str]]
"""Sends a request with this id and gives the id that its answer carries."""


@asynccontextmanager
async def _over_http(served: Served) -> AsyncIterator[Ask]:
    url = f"http://127.0.0.1:{served.port}"
    async with httpx.AsyncClient(base_url=url, timeout=WAIT_S) as client:

        async def ask(name: str) -> str:
            answer = await client.post(SCORE, content=BODY, headers={"x-request-id": name})
            assert answer.status_code == 200, answer.text
            return answer.headers["x-request-id"]

        yield ask


@asynccontextmanager
async def _over_grpc(served: Served) -> AsyncIterator[Ask]:
    async with InferenceServerClient(f"127.0.0.1:{served.grpc_port}") as client:
        inputs = triton_inputs([ROW], InferInput)

        async def ask(name: str) -> str:
            answer = await client.infer(ENDPOINT, inputs, headers={"x-request-id": name})
            found: str = answer.get_response().id
            return found

        yield ask


@pytest.mark.parametrize("over", [_over_http, _over_grpc])
async def test_what_a_killed_replica_was_asked_another_answers_once(
    served: Served, over: Callable[[Served], AbstractAsyncContextManager[Ask]]
) -> None:
    """The replica is stopped first, so that requests surely wait in it when it is killed."""
    until(lambda: served.answers() and served.are_both_asked(), wait_s=WAIT_S)
    victim = psutil.Process(served.replicas()[0]["pid"])
    prefix = over.__name__
    ids = [f"{prefix}-{i}" for i in range(40)]
    async with over(served) as ask:
        victim.suspend()
        asked = {asyncio.ensure_future(ask(name)) for name in ids}
        held = asked
        while len(held) > len(asked) / 2:  # the other replica answers its share
            _, held = await asyncio.wait(held, return_when=asyncio.FIRST_COMPLETED)
        assert held
        victim.kill()
        answered = await asyncio.gather(*asked)
    assert sorted(answered) == sorted(ids)
    logged: list[str] = []

    def are_logged() -> bool:
        table = read_predictions(served.shell.workspace.table(PREDICTIONS_TABLE), ENDPOINT)
        logged[:] = [i for i in table.column("request_id").to_pylist() if i.startswith(prefix)]
        return set(ids) <= set(logged)

    until(are_logged, wait_s=WAIT_S)
    assert sorted(logged) == sorted(ids)
    until(lambda: len(served.replicas()) == 2, wait_s=WAIT_S)


async def test_a_budget_is_spent_to_the_last_request_though_gateways_die(served: Served) -> None:
    """64 clients, two gateways, and twice one of them is killed amid requests. What it recorded is
    paid for, what it had borrowed beyond that comes back and is spent by others."""
    paid = await asyncio.to_thread(served.submit, BUDGETED)
    assert paid.returncode == 0, paid.stdout + paid.stderr
    answered: list[str] = []
    may_ask = asyncio.Event()

    async def spend(client: httpx.AsyncClient) -> None:
        while True:
            await may_ask.wait()
            answer = await client.post(SCORE, content=BODY)
            if answer.status_code == 200:
                answered.append(answer.headers["x-request-id"])
                continue
            assert answer.status_code in (429, 503), answer.text
            if await asyncio.to_thread(served.account) == (LIMIT_NANO_USD, 0):
                return
            await asyncio.sleep(0.5)  # a loan may come back

    async def kill_at(num_answered: int) -> None:
        await asyncio.to_thread(until, served.are_both_asked, WAIT_S)
        may_ask.set()
        while len(answered) < num_answered:
            await asyncio.sleep(0.001)
        psutil.Process(served.replicas()[0]["pid"]).kill()
        may_ask.clear()

    url, limits = f"http://127.0.0.1:{served.port}", httpx.Limits(max_connections=64)
    async with (
        httpx.AsyncClient(base_url=url, timeout=WAIT_S, limits=limits) as client,
        asyncio.TaskGroup() as group,
    ):
        for _ in range(64):
            group.create_task(spend(client))
        await kill_at(NUM_COVERED // 4)
        await kill_at(NUM_COVERED // 2)
        may_ask.set()
    assert len(answered) == len(set(answered)) <= NUM_COVERED

    def is_logged() -> bool:
        (found,) = served.shell.rayapp_json("spending")
        return bool(found["logged"] == LIMIT_NANO_USD)

    # and not more: each request that two gateways recorded is there once
    until(is_logged, wait_s=WAIT_S)
    table = read_predictions(served.shell.workspace.table(PREDICTIONS_TABLE), ENDPOINT)
    paid_for = table.filter(pc.is_valid(table.column("loan_id"))).column("request_id").to_pylist()
    assert len(paid_for) == len(set(paid_for)) == NUM_COVERED
    assert set(answered) <= set(paid_for)
    assert NUM_COVERED - len(answered) <= 2 * 64  # recorded, and never sent
    assert served.account() == (LIMIT_NANO_USD, 0)
