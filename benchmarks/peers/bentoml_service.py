"""A BentoML service."""

from typing import Any

import bentoml

from benchmarks.peers.model import Model


@bentoml.service(workers=1)
class Service:
    def __init__(self) -> None:
        self._model = Model()

    @bentoml.api
    async def predict(self, rows: list[dict[str, Any]]) -> dict[str, list[float]]:
        return {"predictions": self._model.probabilities(rows)}
