"""A hand-written FastAPI application: pydantic checks the columns' types and ranges, then the
model. No identity, limits, receipts, metrics or prediction log."""

from typing import Annotated, Any, Literal

from fastapi import FastAPI
from pydantic import BaseModel, Field, create_model

from benchmarks.peers.model import Model
from rayapp.schemas.data import Column

_KINDS = {"integer": int, "number": float, "boolean": bool, "string": str, "timestamp": str}
model = Model()


def _field(column: Column) -> Any:
    kind: Any = _KINDS[column.type]
    if column.allowed:
        kind = Literal[tuple(column.allowed)]
    if column.minimum is not None or column.maximum is not None:
        kind = Annotated[kind, Field(ge=column.minimum, le=column.maximum)]
    return (kind | None, ...) if column.nullable else (kind, ...)


fields: dict[str, Any] = {c.name: _field(c) for c in model.bundle.schema.inputs}
Row = create_model("Row", **fields)


class Request(BaseModel):
    rows: list[Row]  # type: ignore[valid-type]


class Answer(BaseModel):
    predictions: list[float]


app = FastAPI()


@app.post("/predict")
async def predict(request: Request) -> Answer:
    return Answer(predictions=model.probabilities([vars(row) for row in request.rows]))
