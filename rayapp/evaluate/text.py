"""Evaluation of answers in words: each row is answered by the candidate and by the weights that it
was tuned from, on the same rows, and scored against the answer that the data has.

A row is one item. What a row depends on others by is `evaluate.items`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from ray.data import ActorPoolStrategy

from rayapp.config.release import EvaluationConfig
from rayapp.errors import DataError
from rayapp.evaluate.declared import as_records, declared_metrics
from rayapp.evaluate.graders import Answered, grade_of, score_answer
from rayapp.evaluate.items import Items, difference, estimate, mean_of
from rayapp.evaluate.metrics import METRICS, Metric, metrics_of
from rayapp.evaluate.slices import slice_expressions
from rayapp.evaluate.statistics import Floats
from rayapp.families.base import Base
from rayapp.families.llm.answer import TUNED, UNTUNED, Answers
from rayapp.schemas.model import LanguageSchema
from rayapp.schemas.release import Evaluation, SliceEvaluation

BATCH_ROWS = 32
Rows = Any  # ray.data.Dataset; what comes in is only mapped and read


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
    declared = declared_metrics(config, "text")
    metrics = {name: METRICS[name] for name in metrics_of("text")} | declared
    expected = answered.column(label).to_pylist()
    items = Items(
        item_values(expected, answered.column(TUNED).to_pylist(), language.fields, config),
        item_values(expected, answered.column(UNTUNED).to_pylist(), language.fields, config),
        np.arange(len(expected)),
    )
    slices = []
    for name, expression in slice_expressions(config.slices).items():
        values = pc.cast(expression.evaluate(answered), pa.string()).to_numpy(zero_copy_only=False)
        for value in sorted({v for v in values if v is not None}):
            part = items.take(values == value)
            slices.append(_slice(f"{name}={value}", part, metrics, config.confidence))
    return Evaluation(
        run_id=run_id,
        snapshot_id=snapshot_id,
        split=split,
        task="text",
        bundle_digest=bundle_digest,
        champion=f"{language.base_name}, untuned ({language.base_digest[:12]})",
        overall=_slice("", items, metrics, config.confidence),
        slices=tuple(slices),
        curves=(),
        label_shares=(),
        latency=None,
        metrics=as_records(declared),
    )


def item_values(
    expected: Sequence[str],
    said: Sequence[Mapping[str, Any]],
    fields: Sequence[str],
    config: EvaluationConfig,
) -> dict[str, Floats]:
    """Per metric a value of 0–1 for each item. said: what `Answers` has put together of a model."""
    answers = [
        Answered(text, num_tokens)
        for one in said
        for text, num_tokens in zip(one["texts"], one["num_tokens"], strict=True)
    ]
    pairs = [score_answer(e, a.text, fields) for e, a in zip(expected, answers, strict=True)]
    exact_N, f1_N = np.array(pairs, np.float64).reshape(-1, 2).T
    found = {"exact_match": exact_N, "field_f1": f1_N}
    for name, grader in config.graders.items():
        grade = grade_of(name, grader)
        grades = [grade(e, a) for e, a in zip(expected, answers, strict=True)]
        found[name] = np.array(grades, np.float64)
    return found


def _slice(
    name: str, items: Items, metrics: Mapping[str, Metric], confidence: float
) -> SliceEvaluation:
    estimates, differences = [], []
    for metric, told in metrics.items():
        own, base = mean_of(items.candidate[metric]), mean_of(items.base[metric])
        estimates.append(estimate(metric, told, own, items.cluster_N, confidence))
        differences.append(difference(metric, own, base, items.cluster_N, confidence))
    return SliceEvaluation(
        slice=name,
        num_rows=len(items.cluster_N),
        estimates=tuple(estimates),
        differences=tuple(found for found in differences if found is not None),
    )
