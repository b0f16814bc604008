"""Ray Serve's own multiplexing, as its documentation has it: models by id in three replicas behind
an ingress, which passes on encoded rows. Its Python proxy in front, as it comes; Serve's cheaper
transport between the deployments.

    python benchmarks/peers/ray_multiplexed.py PORT

POST /<release id> with encoded rows; GET / for what was asked and loaded so far. Needs
BENCHMARK_WORKSPACE, BENCHMARK_REPLICAS and BENCHMARK_ROOM, the models that a replica may hold.
"""

import asyncio
import os
import signal
import sys
import tempfile
from functools import partial
from typing import Any

import numpy as np
import orjson
import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from rayapp.families.bundle import Bundle
from rayapp.register.manifest import read_manifest
from rayapp.serve.loading import Store, open_proven
from rayapp.storage import Workspace, fetch_bundle

ROOM = int(os.environ.get("BENCHMARK_ROOM", "1"))


@serve.deployment(max_ongoing_requests=64, ray_actor_options={"num_cpus": 0.1})
class Models:
    def __init__(self) -> None:
        workspace = Workspace(os.environ["BENCHMARK_WORKSPACE"])
        self._store = Store(partial(read_manifest, workspace), fetch_bundle)
        self._num_asks = self._num_loads = 0

    @serve.multiplexed(max_num_models_per_replica=ROOM)
    async def model(self, model_id: str) -> Bundle:
        self._num_loads += 1
        ref = self._store.read(model_id).manifest.bundle
        return await asyncio.to_thread(open_proven, self._store, ref)

    async def score(self, x_NF: Any) -> Any:
        self._num_asks += 1
        bundle = await self.model(serve.get_multiplexed_model_id())
        return bundle.score(x_NF)

    def counts(self) -> tuple[int, int]:
        return self._num_asks, self._num_loads


@serve.deployment(max_ongoing_requests=1000, ray_actor_options={"num_cpus": 0.1})
class Ingress:
    def __init__(self, models: Any) -> None:
        self._models = models.options(_by_reference=False)

    async def __call__(self, request: Request) -> Response:
        name = request.url.path.strip("/")
        if not name:
            found = await self._models.broadcast("counts").results_async()
            return Response(orjson.dumps([sum(part) for part in zip(*found, strict=True)]))
        x_NF = np.array(orjson.loads(await request.body()), np.float32)
        ask = self._models.options(method_name="score", multiplexed_model_id=name)
        scores_NK = await ask.remote(x_NF)
        return Response(orjson.dumps({"predictions": scores_NK[:, 1].tolist()}))


def main() -> None:
    passed = ("PYTHONPATH", "BENCHMARK_WORKSPACE", "BENCHMARK_ROOM")
    ray.init(
        address="local",
        num_cpus=2,
        _temp_dir=tempfile.mkdtemp(prefix="ray", dir="/tmp"),
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": {name: os.environ[name] for name in passed}},
    )
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    replicas = int(os.environ["BENCHMARK_REPLICAS"])
    models: Any = Models  # what serve.deployment makes of it has no type
    ingress: Any = Ingress
    bound = ingress.bind(models.options(num_replicas=replicas).bind())
    serve.run(bound, name="multiplexed", route_prefix="/")
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    ray.shutdown()


if __name__ == "__main__":
    main()
