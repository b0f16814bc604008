"""Endpoints to choose among, each with a release whose evaluation and latency the test says."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from serving_case import estimate, signed_manifest

from rayapp.families.base import Floats
from rayapp.schemas.data import Column, Task
from rayapp.schemas.model import BundleSchema
from rayapp.schemas.release import Estimate
from rayapp.serve.endpoints.base import Ask, Reply
from rayapp.serve.endpoints.cascade import RowCandidate
from rayapp.serve.endpoints.objective import Candidate
from rayapp.serve.follow import Loaded
from rayapp.serve.loading import RowsOnly
from rayapp.serve.wire.protocols import Parsed
from rayapp.serve.wire.validation import Rows


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def schema_of(
    classes: Sequence[str] = ("0", "1"),
    task: Task = "binary",
    inputs: Sequence[str] = ("a",),
) -> BundleSchema:
    return BundleSchema(
        name="s",
        family="f",
        task=task,
        label="y",
        classes=tuple(classes),
        inputs=tuple(Column(name=name, type="number") for name in inputs),
        features=(),
    )


def loaded_of(release_id: str, *estimates: Estimate, schema: BundleSchema | None = None) -> Loaded:
    schema = schema or schema_of()
    manifest = signed_manifest(release_id, schema, "e").manifest
    scorer: Any = None  # nobody asks it: endpoints answer by themselves here
    return Loaded("e", release_id, manifest, RowsOnly(schema), scorer, None, estimates)


def auc(low: float, high: float | None = None) -> Estimate:
    return estimate("auc", low, low + 0.02 if high is None else high)


@dataclass
class Answering:
    """Answers after took_s of the clock, or fails then. score: the probability of class 1 for a
    row's value of the column a."""

    loaded: Loaded | None
    clock: Clock
    took_s: float = 0.001
    error: Exception | None = None
    score: Callable[[float], float] = lambda a: a
    asks: list[Ask] = field(default_factory=list)

    def now(self) -> Loaded | None:
        return self.loaded

    async def predict(self, ask: Ask) -> Reply:
        self.asks.append(ask)
        self.clock.now_s += self.took_s
        if self.error is not None:
            raise self.error
        assert self.loaded is not None
        records = ask.parsed.records
        assert records is not None
        p_N = np.array([self.score(record["a"]) for record in records], np.float32)
        scores_NK: Floats = np.stack([1 - p_N, p_N], axis=1)
        inputs = [{"a": record["a"], "by": self.loaded.release_id} for record in records]
        rows = Rows(p_N[:, None], inputs, (None,) * len(records))
        return Reply(self.loaded.release_id, self.loaded.schema, rows, scores_NK)

    def candidate(self, name: str, row_nano_usd: int) -> RowCandidate:
        return Candidate(name, self, row_nano_usd, self.now)


def ask_of(*values: float, unit: str | None = None, **more: Any) -> Ask:
    headers = {b"x-unit-id": unit.encode()} if unit is not None else {}
    records = [{"a": value} for value in values or (0.5,)]
    return Ask("q", b"{}", Parsed(records, len(records)), headers=headers, **more)
