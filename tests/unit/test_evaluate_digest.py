"""An evaluation that is made again: its results have the same digest, what it took has another, and
a latency gate goes on judging what was measured."""

from pathlib import Path
from typing import Any

import pytest
from gate_case import evaluation_of, part_of

from rayapp.config.release import PolicyConfig
from rayapp.errors import TamperedError
from rayapp.evaluate.gates import decide
from rayapp.flows.kept import kept_evaluation
from rayapp.schemas.release import AnswerCost, Evaluation, Latency, Measured
from rayapp.storage import commit_bytes

LATENCY = PolicyConfig.model_validate({"gates": {"quick": {"kind": "latency", "p95_ms": 10}}})


def at(seconds: float, hardware: str = "a CPU", p95_ms: float = 2.0) -> Evaluation:
    """The same results, made when the machine took so long."""
    made = evaluation_of(part_of())
    costs = tuple(
        AnswerCost(
            model=model,
            num_answers=10,
            num_prompt_tokens=50,
            num_tokens=100,
            seconds=seconds,
            hardware=hardware,
        )
        for model in ("tuned", "untuned")
    )
    latency = Latency(p50_ms=1, p95_ms=p95_ms, p99_ms=p95_ms + 1, num_calls=300)
    return made.model_copy(update={"latency": latency, "costs": costs})


def test_made_again_it_is_the_same_evaluation() -> None:
    first, again = at(2.0), at(3.0, "another CPU", 7.0)
    assert first.content_digest() == again.content_digest()
    assert first.measured.content_digest() != again.measured.content_digest()
    for name in (b"seconds", b"hardware", b"p95_ms"):
        assert name not in first.canonical()
        assert name in first.measured.canonical()
    assert b'"num_tokens":100' in first.canonical()  # tokens are results, and what answers cost


def test_other_results_are_another_evaluation() -> None:
    first = at(2.0)
    fewer = tuple(cost.model_copy(update={"num_tokens": 99}) for cost in first.costs)
    assert first.model_copy(update={"costs": fewer}).content_digest() != first.content_digest()


def test_nothing_is_lost() -> None:
    first = at(2.0)
    parsed = Evaluation.parse(first.canonical())
    assert parsed.latency is None
    assert parsed.costs[0].ms_per_answer is None
    measured = Measured.parse(first.measured.canonical())
    assert parsed.with_measured(measured) == first
    assert first.costs[0].ms_per_answer == 200


def payload_of(folder: Path, made: Evaluation) -> dict[str, Any]:
    uris = {"evaluation_uri": str(folder / "e.json"), "measured_uri": str(folder / "m.json")}
    commit_bytes(uris["evaluation_uri"], made.canonical())
    commit_bytes(uris["measured_uri"], made.measured.canonical())
    digests = {
        "evaluation_digest": made.content_digest(),
        "measured_digest": made.measured.content_digest(),
    }
    return uris | digests


@pytest.mark.parametrize(("p95_ms", "verdict"), [(2.0, "pass"), (11.0, "fail")])
def test_a_latency_gate_judges_what_was_kept(p95_ms: float, verdict: str, tmp_path: Path) -> None:
    made = at(2.0, p95_ms=p95_ms)
    kept = kept_evaluation(payload_of(tmp_path, made))
    assert kept == made
    assert decide(kept, LATENCY) == decide(made, LATENCY)
    assert decide(kept, LATENCY)[0].value == verdict
    # without what was measured it is no pass
    assert decide(Evaluation.parse(made.canonical()), LATENCY)[0].value == "inconclusive"


@pytest.mark.parametrize("name", ["e.json", "m.json"])
def test_what_was_changed_afterwards_is_not_judged(name: str, tmp_path: Path) -> None:
    payload = payload_of(tmp_path, at(2.0, p95_ms=11.0))
    (tmp_path / name).write_bytes(at(2.0).measured.canonical())
    with pytest.raises(TamperedError, match="the ledger says"):
        kept_evaluation(payload)
