"""Evaluation of answers in words: each row is answered by the candidate and by the weights that it
was tuned from, on the same rows, and scored against the answer that the data has.

A row is one item and is answered once, so the standard errors are over items. Where every row is a
question of its own nothing depends on another one; answers that share a document would need `by`.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from ray.data import ActorPoolStrategy

from rayapp.config.release import EvaluationConfig
from rayapp.errors import DataError
from rayapp.evaluate.estimates import MIN_ROWS, standard_error, student, wilson
from rayapp.evaluate.metrics import metrics_of
from rayapp.evaluate.slices import slice_expressions
from rayapp.evaluate.statistics import Floats, Moments
from rayapp.families.base import Base
from rayapp.families.llm.answer import TUNED, UNTUNED, Answers
from rayapp.schemas.model import LanguageSchema
from rayapp.schemas.release import Difference, Estimate, Evaluation, SliceEvaluation

BATCH_ROWS = 32
Rows = Any  # ray.data.Dataset; what comes in is only mapped and read


@dataclass(frozen=True)
class Scored:
    """Per metric of text a value of 0–1 for each row, by the candidate and by its base."""

    candidate: Mapping[str, Floats]
    base: Mapping[str, Floats]

    def take(self, rows: Any) -> "Scored":
        return Scored(
            {name: values_N[rows] for name, values_N in self.candidate.items()},
            {name: values_N[rows] for name, values_N in self.base.items()},
        )


def answer_rows(
    dataset: Rows,
    base: Base,
    language: LanguageSchema,
    files: Mapping[str, bytes],
    max_tokens: int,
    num_cpus: int,
    on_progress: Callable[[int], object] = lambda num_rows: None,
) -> pa.Table:
    """The rows with both answers, in the order of the dataset. on_progress: told how many are
    answered."""
    dataset.context.execution_options.preserve_order = True
    # read before the models are there: they take CPUs that a read beside them might wait for
    answered = dataset.materialize().map_batches(
        Answers,
        batch_format="pyarrow",
        batch_size=BATCH_ROWS,
        fn_constructor_args=(base, language, files, max_tokens, num_cpus),
        compute=ActorPoolStrategy(size=1),
        num_cpus=num_cpus,
        **({"runtime_env": dict(base.runtime_env)} if base.runtime_env else {}),
    )
    blocks: list[pa.Table] = []
    for block in answered.iter_batches(batch_size=None, batch_format="pyarrow"):
        if len(block):
            blocks.append(block)
            on_progress(sum(map(len, blocks)))
    if not blocks:
        raise DataError("there is no row to evaluate", "check the snapshot's test split")
    return pa.concat_tables(blocks)


def evaluate_answers(
    *,
    answered: pa.Table,
    label: str,
    language: LanguageSchema,
    config: EvaluationConfig,
    run_id: str,
    snapshot_id: str,
    split: str,
    bundle_digest: str,
) -> Evaluation:
    """answered: as `answer_rows` gives it, with the label."""
    expected = answered.column(label).to_pylist()
    scored = Scored(
        _scores(expected, answered.column(TUNED).to_pylist(), language.fields),
        _scores(expected, answered.column(UNTUNED).to_pylist(), language.fields),
    )
    slices = []
    for name, expression in slice_expressions(config.slices).items():
        values = pc.cast(expression.evaluate(answered), pa.string()).to_numpy(zero_copy_only=False)
        for value in sorted({v for v in values if v is not None}):
            part = scored.take(values == value)
            slices.append(_slice(f"{name}={value}", part, config.confidence))
    return Evaluation(
        run_id=run_id,
        snapshot_id=snapshot_id,
        split=split,
        task="text",
        bundle_digest=bundle_digest,
        champion=f"{language.base_name}, untuned ({language.base_digest[:12]})",
        overall=_slice("", scored, config.confidence),
        slices=tuple(slices),
        curves=(),
        label_shares=(),
        latency=None,
    )


def _scores(
    expected: Sequence[str], answers: Sequence[str], fields: Sequence[str]
) -> dict[str, Floats]:
    pairs = [score_answer(e, a, fields) for e, a in zip(expected, answers, strict=True)]
    exact_N, f1_N = np.array(pairs, np.float64).reshape(-1, 2).T
    return {"exact_match": exact_N, "field_f1": f1_N}


def score_answer(expected: str, answer: str, fields: Sequence[str]) -> tuple[float, float]:
    """exact_match and field_f1 of one row. Where the answer is an object, it is compared as a
    caller would read it: the whole text must be one JSON object, spaces and order do not matter.

    >>> score_answer('{"a":1,"b":null}', '{"b": null, "a": 2}', ["a", "b"])
    (0.0, 0.5)
    """
    if not fields:
        is_same = float(expected.strip() == answer.strip())
        return is_same, is_same
    wanted, found = _object(expected), _object(answer)
    num_right = sum(name in found and _same(found[name], value) for name, value in wanted.items())
    is_exact = num_right == len(wanted) == len(found)
    return float(is_exact), 2 * num_right / (len(wanted) + len(found))


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _same(a: Any, b: Any) -> bool:
    return type(a) is type(b) and bool(a == b)  # True is no 1


def _slice(name: str, scored: Scored, confidence: float) -> SliceEvaluation:
    num_rows = len(scored.candidate["exact_match"])
    return SliceEvaluation(
        slice=name,
        num_rows=num_rows,
        estimates=tuple(
            _estimate(metric, scored.candidate[metric], confidence) for metric in metrics_of("text")
        ),
        differences=tuple(
            _difference(metric, scored.candidate[metric] - scored.base[metric], confidence)
            for metric in metrics_of("text")
            if num_rows >= MIN_ROWS
        ),
    )


def _estimate(metric: str, values_N: Floats, confidence: float) -> Estimate:
    moments, num_rows = Moments.from_batch(values_N), len(values_N)
    low = high = None
    if num_rows >= MIN_ROWS:
        low, high = wilson(moments.mean, standard_error(moments), num_rows, confidence)
    return Estimate(
        metric=metric,
        value=moments.mean,
        low=low,
        high=high,
        num_rows=num_rows,
        confidence=confidence,
    )


def _difference(metric: str, change_N: Floats, confidence: float) -> Difference:
    moments, num_rows = Moments.from_batch(change_N), len(change_N)
    half = student(confidence, num_rows) * standard_error(moments)
    return Difference(
        metric=metric,
        value=moments.mean,
        low=moments.mean - half,
        high=moments.mean + half,
        num_rows=num_rows,
        confidence=confidence,
    )
