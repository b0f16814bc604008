"""MLServer's custom runtime: one tensor for each column, as its Open Inference Protocol has it."""

from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput

from benchmarks.peers.model import Model


class Runtime(MLModel):
    async def load(self) -> bool:
        self._served = Model()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        columns = {tensor.name: list(tensor.data) for tensor in payload.inputs}
        rows = [
            dict(zip(columns, values, strict=True))
            for values in zip(*columns.values(), strict=True)
        ]
        found = self._served.probabilities(rows)
        output = ResponseOutput(name="probability", shape=[len(found)], datatype="FP64", data=found)
        return InferenceResponse(model_name=self.name, outputs=[output])
