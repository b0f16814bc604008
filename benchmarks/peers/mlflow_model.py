"""Writes an MLflow model around the bundle, for `mlflow models serve`."""

import sys
from typing import Any

import mlflow.pyfunc
import pandas as pd
from mlflow.pyfunc.model import PythonModel

from benchmarks.peers.model import Model


class Wrapped(PythonModel):
    def load_context(self, context: Any) -> None:
        self._model = Model()

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> list[float]:
        frame = model_input.astype(object).where(model_input.notna(), None)
        return self._model.probabilities(frame.to_dict("records"))


if __name__ == "__main__":
    mlflow.pyfunc.save_model(sys.argv[1], python_model=Wrapped())
