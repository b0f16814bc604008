"""Ray Serve as it comes: its Python proxy in front of a FastAPI ingress, one replica."""

import os
import signal
import sys
import tempfile
from typing import Any

import ray
from fastapi import FastAPI
from pydantic import BaseModel
from ray import serve

from benchmarks.peers.model import Model

app = FastAPI()


class Request(BaseModel):
    rows: list[dict[str, Any]]


@serve.deployment(num_replicas=1, max_ongoing_requests=100)
@serve.ingress(app)
class Stock:
    def __init__(self) -> None:
        self._model = Model()

    @app.post("/predict")
    async def predict(self, request: Request) -> dict[str, list[float]]:
        return {"predictions": self._model.probabilities(request.rows)}


def main() -> None:
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")
    paths = {"PYTHONPATH": os.environ["PYTHONPATH"]}
    ray.init(
        address="local",
        num_cpus=2,
        _temp_dir=folder,
        include_dashboard=True,
        runtime_env={"env_vars": paths},
    )
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    stock: Any = Stock  # what serve.deployment makes of it has no type
    serve.run(stock.bind(), name="stock", route_prefix="/")
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    ray.shutdown()


if __name__ == "__main__":
    main()
