"""A LitServe server with one worker. Its own batching is off: for one row it was slower."""

import sys
from typing import Any

import litserve
from fastapi import Request

from benchmarks.peers.model import Model


class Api(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self._model = Model()

    def decode_request(self, request: Request, **kwargs: Any) -> Any:
        """LitServe tells FastAPI this annotation, and hands in the body's JSON."""
        body: Any = request
        return body["rows"]

    def predict(self, rows: Any, **kwargs: Any) -> list[float]:
        return self._model.probabilities(rows)

    def encode_response(self, output: Any, **kwargs: Any) -> dict[str, Any]:
        return {"predictions": output}


if __name__ == "__main__":
    server = litserve.LitServer(Api(), accelerator="cpu", workers_per_device=1)
    server.run(
        host="127.0.0.1", port=int(sys.argv[1]), num_api_servers=1, generate_client_file=False
    )
