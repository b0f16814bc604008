"""A pool on Ray Serve: models answer in other processes, which may die."""

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import ray
from local_cluster import until
from ray import serve
from ray.exceptions import RayActorError
from served import RECORDS, SCORE, Served
from serving_case import ENDPOINT, rows_table

from rayapp.config.replicas import PoolConfig
from rayapp.config.serving import ServingConfig
from rayapp.serve.cluster.shared import NAMESPACE, Owner
from rayapp.serve.pool.plan import Planner, Report
from serve_apps.predict import build

pytestmark = pytest.mark.usefixtures("ray_local")
# a batch waits for more rows, so that a replica always has requests in its hands
POOL = PoolConfig(min_replicas=2, max_replicas=2, num_cpus=0.1, batch_wait_ms=100)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, ray_local: None) -> Iterator[Served]:
    made = Served(tmp_path_factory.mktemp("pooled"))
    config = ServingConfig.model_validate(
        {
            "workspace": made.workspace.uri,
            "num_cpus": 0.1,
            "follow_every_ms": 100,
            "commit_every_s": 0.2,
            "placement": "small",
            "endpoints": {ENDPOINT: {"is_pinned": True, "breaker": None}},
            "pools": {"small": POOL},
        }
    )
    serve.start(http_options={"host": "127.0.0.1", "port": made.port})
    serve.run(build(config), name="gateway", route_prefix="/")
    made.promote(made.releases[0])
    until(lambda: made.release() == made.releases[0].release_id)
    yield made
    serve.shutdown()


def replica_processes() -> list[psutil.Process]:
    """Of this cluster's pool."""
    children = psutil.Process().children(recursive=True)
    found = [p for p in children if "ServeReplica:gateway:pool-small" in " ".join(p.cmdline())]
    return found


def test_a_pool_answers_as_the_bundle_does(served: Served) -> None:
    table = rows_table(40, seed=3).drop_columns(["y"])
    records = table.to_pandas().replace({np.nan: None}).to_dict("records")
    for record in records:
        record["departure"] = record["departure"].isoformat()
    answer = httpx.post(served.url + SCORE, json={"dataframe_records": records}, timeout=30)
    assert answer.status_code == 200, answer.text
    expected = served.bundle(0).predict(table)[:, 1]
    np.testing.assert_allclose(answer.json()["predictions"], expected, atol=1e-6)


async def test_a_killed_replica_and_a_new_champion_fail_no_request(served: Served) -> None:
    statuses: list[int] = []
    answered_by: list[str] = []
    stop = asyncio.Event()

    async def ask(client: httpx.AsyncClient) -> None:
        while not stop.is_set():
            response = await client.post(SCORE, json=RECORDS)
            statuses.append(response.status_code)
            answered_by.append(response.headers["x-release"])

    async def many_more() -> None:
        num_before = len(statuses)
        await asyncio.to_thread(until, lambda: len(statuses) >= num_before + 50)

    async with httpx.AsyncClient(base_url=served.url, timeout=30) as client:
        asking = [asyncio.create_task(ask(client)) for _ in range(4)]
        await many_more()
        for victim in replica_processes():  # only one of them holds the model
            victim.kill()
            await many_more()
            await asyncio.to_thread(until, lambda: len(replica_processes()) == 2)
        await asyncio.to_thread(served.promote, served.releases[1])
        new = served.releases[1].release_id
        await asyncio.to_thread(until, lambda: set(answered_by[-50:]) == {new})
        stop.set()
        await asyncio.gather(*asking)
    assert set(statuses) == {200}


def test_a_planner_that_has_died_hears_again_what_is_pinned(served: Served) -> None:
    owner = Owner("gateway", served.workspace.uri)
    planner = ray.get_actor(owner.name("pool-small", Planner, POOL), NAMESPACE)

    def pinned() -> set[str]:
        try:
            plan: Any = ray.get(planner.report.remote("nobody", Report(0)))
        except RayActorError:  # it is not there yet
            return set()
        return set(plan.pinned)

    champion = {served.release()}
    until(lambda: pinned() == champion)
    ray.kill(planner, no_restart=False)
    until(lambda: not pinned())
    until(lambda: pinned() == champion)


def test_where_no_replica_is_left_the_caller_may_try_again(served: Served) -> None:
    until(lambda: len(replica_processes()) == 2)
    for victim in replica_processes():
        victim.kill()
    headers = {"x-deadline-ms": "200"}
    statuses = {
        httpx.post(served.url + SCORE, json=RECORDS, headers=headers, timeout=30).status_code
        for _ in range(3)
    }
    assert statuses <= {503, 504}
    until(
        lambda: httpx.post(served.url + SCORE, json=RECORDS, timeout=30).status_code == 200,
        wait_s=60,
    )
