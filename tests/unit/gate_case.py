"""Evaluations written by hand, and what a gate makes of them."""

from typing import Any

from rayapp.config.release import PolicyConfig
from rayapp.evaluate.gates import decide
from rayapp.schemas.release import (
    Difference,
    Estimate,
    Evaluation,
    Latency,
    SliceEvaluation,
    Verdict,
)


def gate_policy(**gate: Any) -> PolicyConfig:
    return PolicyConfig.model_validate({"gates": {"gate": gate}})


def part_of(
    name: str = "",
    auc: tuple[float | None, float | None, float | None] = (0.8, 0.79, 0.81),
    difference: tuple[float, float, float] | None = None,
    num_rows: int = 1000,
    metric: str = "auc",
) -> SliceEvaluation:
    value, low, high = auc
    found: tuple[Difference, ...] = ()
    if difference is not None:
        a, b, c = difference
        found = (
            Difference(metric=metric, value=a, low=b, high=c, num_rows=num_rows, confidence=0.95),
        )
    estimate = Estimate(
        metric=metric, value=value, low=low, high=high, num_rows=num_rows, confidence=0.95
    )
    return SliceEvaluation(slice=name, num_rows=num_rows, estimates=(estimate,), differences=found)


def evaluation_of(
    overall: SliceEvaluation,
    *slices: SliceEvaluation,
    champion: str | None = "release",
    p95_ms: float = 2.0,
    num_calls: int = 300,
) -> Evaluation:
    return Evaluation(
        run_id="run",
        snapshot_id="snapshot",
        split="test",
        task="binary",
        bundle_digest="digest",
        champion=champion,
        overall=overall,
        slices=slices,
        curves=(),
        label_shares=(),
        latency=Latency(p50_ms=1, p95_ms=p95_ms, p99_ms=3, num_calls=num_calls),
    )


def verdict_of(evaluation: Evaluation, **gate: Any) -> Verdict:
    return decide(evaluation, gate_policy(**gate))[0]
