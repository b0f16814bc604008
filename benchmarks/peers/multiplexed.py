"""Ray Serve's own multiplexing: models by id in a deployment of several replicas, behind an ingress
that passes encoded rows on. Needs BENCHMARK_WORKSPACE."""

import asyncio
import os
from functools import partial
from typing import Any

import numpy as np
import orjson
from ray import serve
from ray.serve import Application

from rayapp.families.bundle import Bundle
from rayapp.register.manifest import read_manifest
from rayapp.serve.loading import Store, open_proven
from rayapp.storage import Workspace, fetch_bundle


@serve.deployment(max_ongoing_requests=64)
class Models:
    def __init__(self, num_models: int) -> None:
        workspace = Workspace(os.environ["BENCHMARK_WORKSPACE"])
        self._store = Store(partial(read_manifest, workspace), fetch_bundle)
        self._num_asks = self._num_loads = 0
        # the decorator wants its limit when a class is made; the deployment knows it only now
        self._get = serve.multiplexed(_loaded, max_num_models_per_replica=num_models)

    async def score(self, x: Any) -> Any:
        self._num_asks += 1
        bundle = await self._get(self, serve.get_multiplexed_model_id())
        return bundle.score(x)

    async def load(self, release_id: str) -> Bundle:
        self._num_loads += 1
        ref = self._store.read(release_id).manifest.bundle
        return await asyncio.to_thread(open_proven, self._store, ref)

    def counts(self) -> tuple[int, int]:
        return self._num_asks, self._num_loads


async def _loaded(self: Models, model_id: str) -> Bundle:
    return await self.load(model_id)


@serve.deployment(max_ongoing_requests=1000)
@serve.ingress()
class Ingress:
    """POST /<release id> with encoded rows; GET / for what was asked and loaded so far."""

    def __init__(self, models: Any) -> None:
        self._models = models.options(_by_reference=False)

    async def __serve_build_asgi_app__(self) -> Any:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] != "http":
                return
            name = scope["path"].strip("/")
            if name:
                body = b""
                while True:
                    message = await receive()
                    body += message.get("body", b"")
                    if not message.get("more_body"):
                        break
                x = np.array(orjson.loads(body), np.float32)
                ask = self._models.options(method_name="score", multiplexed_model_id=name)
                scores = await ask.remote(x)
                answer = orjson.dumps({"predictions": scores[:, 1].tolist()})
            else:
                found = await self._models.broadcast("counts").results_async()
                answer = orjson.dumps([sum(part) for part in zip(*found, strict=True)])
            length = (b"content-length", str(len(answer)).encode())
            await send({"type": "http.response.start", "status": 200, "headers": [length]})
            await send({"type": "http.response.body", "body": answer})

        return app


def build(args: dict[str, Any]) -> Application:
    models = Models.options(num_replicas=args["num_replicas"], ray_actor_options={"num_cpus": 0.1})
    ingress = Ingress.options(ray_actor_options={"num_cpus": 0.1})
    bound: Application = ingress.bind(models.bind(args["num_models"]))
    return bound
