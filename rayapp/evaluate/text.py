"""Evaluation of answers in words: each row is answered by the candidate and by the weights that it
was tuned from, on the same rows, and scored against the answer that the data has.

A row is one item. What a row depends on others by is `evaluate.items`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from ray.data import ActorPoolStrategy

from rayapp.config.grading import SamplesConfig
from rayapp.config.release import EvaluationConfig
from rayapp.errors import DataError
from rayapp.evaluate.declared import as_records, declared_metrics
from rayapp.evaluate.graders import Answered, Grade, grade_of, score_answer
from rayapp.evaluate.items import (
    CONFIDENCE,
    IS_RIGHT,
    NATS,
    TOKENS,
    Items,
    Measured,
    clusters_of,
    difference,
    estimate,
    measures,
)
from rayapp.evaluate.judged import Judging, judged_metric
from rayapp.evaluate.metrics import METRICS, Metric, metrics_of
from rayapp.evaluate.slices import slice_expressions
from rayapp.evaluate.statistics import Floats, Ints
from rayapp.evaluate.tries import tries_of
from rayapp.families.base import Base
from rayapp.families.llm.answer import TUNED, UNTUNED, Answers, Decoding
from rayapp.schemas.model import LanguageSchema
from rayapp.schemas.record import short
from rayapp.schemas.release import (
    AnswerCost,
    Answering,
    Estimate,
    Evaluation,
    GoldenRef,
    Judged,
    SliceEvaluation,
)

BATCH_ROWS = 32
Rows = Any  # ray.data.Dataset; what comes in is only mapped and read


def answer_rows(
    dataset: Rows,
    base: Base,
    language: LanguageSchema,
    files: Mapping[str, bytes],
    label: str,
    decoding: Decoding,
    num_cpus: int,
    on_progress: Callable[[int], object] = lambda num_rows: None,
) -> pa.Table:
    """The rows with what both models say, in the order of the dataset. on_progress: told how many
    are answered."""
    dataset.context.execution_options.preserve_order = True
    # read before the models are there: they take CPUs that a read beside them might wait for
    answered = dataset.materialize().map_batches(
        Answers,
        batch_format="pyarrow",
        batch_size=BATCH_ROWS,
        fn_constructor_args=(base, language, files, label, decoding, num_cpus),
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
        raise DataError("there is no row to evaluate", "check the test split, or the golden set")
    return pa.concat_tables(blocks)


def decoding_of(samples: SamplesConfig | None, max_tokens: int) -> Decoding:
    if samples is None:
        return Decoding(max_tokens)
    return Decoding(max_tokens, samples.per_item, samples.temperature, samples.top_p, samples.seed)


def evaluate_answers(
    *,
    answered: pa.Table,
    label: str,
    language: LanguageSchema,
    config: EvaluationConfig,
    decoding: Decoding,
    run_id: str,
    snapshot_id: str,
    split: str,
    bundle_digest: str,
    golden: GoldenRef | None = None,
    judging: Judging | None = None,
) -> Evaluation:
    """answered: as `answer_rows` gives it, with the label. golden: the set that the rows are of,
    where they are of none of the snapshot's splits. judging: what config.judge said of them."""
    assert (judging is None) == (config.judge is None), "a judge is asked where one is configured"
    declared = declared_metrics(config, "text")
    metrics = {name: METRICS[name] for name in metrics_of("text")}
    metrics |= {name: told for name, told in declared.items() if not told.is_of_all_rows}
    expected = answered.column(label).to_pylist()
    said = {name: answered.column(name).to_pylist() for name in (TUNED, UNTUNED)}
    items = Items(
        item_values(expected, said[TUNED], language.fields, config),
        item_values(expected, said[UNTUNED], language.fields, config),
        _clusters(answered, config.cluster_by),
    )
    slices = []
    for name, expression in slice_expressions(config.slices).items():
        values = pc.cast(expression.evaluate(answered), pa.string()).to_numpy(zero_copy_only=False)
        for value in sorted({v for v in values if v is not None}):
            part = items.take(values == value)
            slices.append(_slice(f"{name}={value}", part, metrics, config.confidence))
    overall, judged = _overall(items, metrics, judging, config.confidence)
    return Evaluation(
        run_id=run_id,
        snapshot_id=snapshot_id,
        split=split,
        task="text",
        bundle_digest=bundle_digest,
        champion=f"{language.base_name}, untuned ({short(language.base_digest)})",
        overall=overall,
        slices=tuple(slices),
        curves=(),
        label_shares=(),
        latency=None,
        metrics=as_records(declared),
        answering=_answering(decoding, config.cluster_by),
        costs=(_cost("tuned", said[TUNED]), _cost("untuned", said[UNTUNED])),
        golden=golden,
        untuned=_estimates(measures(items.base), items.cluster_N, metrics, config.confidence),
        judged=judged,
    )


def _overall(
    items: Items, metrics: Mapping[str, Metric], judging: Judging | None, confidence: float
) -> tuple[SliceEvaluation, Judged | None]:
    """Over all rows, with the judge's metric, which slices do not have."""
    whole = _slice("", items, metrics, confidence)
    if judging is None:
        return whole, None
    found, change, judged = judged_metric(judging, items.cluster_N, confidence)
    differences = (*whole.differences, *([] if change is None else [change]))
    estimates = (*whole.estimates, found)
    return whole.model_copy(update={"estimates": estimates, "differences": differences}), judged


def _clusters(answered: pa.Table, cluster_by: str | None) -> Ints:
    if cluster_by is None:
        return np.arange(len(answered))
    (expression,) = slice_expressions([cluster_by]).values()
    return clusters_of(expression.evaluate(answered).to_pylist())


def _answering(decoding: Decoding, cluster_by: str | None) -> Answering:
    is_sampled = decoding.temperature is not None
    return Answering(
        max_tokens=decoding.max_tokens,
        samples_per_item=decoding.num_samples,
        temperature=decoding.temperature,
        top_p=decoding.top_p if is_sampled else None,
        seed=decoding.seed if is_sampled else None,
        cluster_by=cluster_by,
    )


def _cost(model: Literal["tuned", "untuned"], said: Sequence[Mapping[str, Any]]) -> AnswerCost:
    counts = [one["num_tokens"] for one in said]
    return AnswerCost(
        model=model,
        num_answers=sum(map(len, counts)),
        num_prompt_tokens=sum(
            one["prompt_tokens"] * len(count) for one, count in zip(said, counts, strict=True)
        ),
        num_tokens=sum(map(sum, counts)),
        seconds=sum(one["seconds"] for one in said),
        hardware=", ".join(sorted({one["hardware"] for one in said})),
    )


def item_values(
    expected: Sequence[str],
    said: Sequence[Mapping[str, Any]],
    fields: Sequence[str],
    config: EvaluationConfig,
) -> dict[str, Floats]:
    """What `measures` takes: a number for each item, of samples their mean. said: what `Answers`
    has put together of a model."""
    answers = [
        [Answered(*pair) for pair in zip(one["texts"], one["num_tokens"], strict=True)]
        for one in said
    ]
    grades = _grades(expected, answers, fields, config)
    found = {name: grades_NK.mean(axis=1) for name, grades_NK in grades.items()}
    found["answer_tokens"] = np.array([np.mean([a.num_tokens for a in item]) for item in answers])
    for name in (NATS, TOKENS):
        found[name] = np.array([one[name] for one in said], np.float64)
    found[CONFIDENCE] = np.exp(-np.array([one["nats"] for one in said], np.float64))
    found[IS_RIGHT] = grades["exact_match"]
    if config.samples is not None:
        for success in config.samples.success:
            right_N = (grades[success] == 1).sum(axis=1)
            for k in config.samples.tries:
                found |= tries_of(success, right_N, config.samples.per_item, k)
    return found


def _grades(
    expected: Sequence[str],
    answers: Sequence[Sequence[Answered]],
    fields: Sequence[str],
    config: EvaluationConfig,
) -> dict[str, Floats]:
    """By the name of what grades: a grade of 0–1 for each item and sample, [N, K]."""

    def graded(grade: Grade) -> Floats:
        pairs = zip(expected, answers, strict=True)
        return np.array([[grade(right, a) for a in item] for right, item in pairs], np.float64)

    both = [
        [score_answer(right, a.text, fields) for a in item]
        for right, item in zip(expected, answers, strict=True)
    ]
    exact_NK, f1_NK = np.moveaxis(np.array(both, np.float64), -1, 0)
    return {
        "exact_match": exact_NK,
        "field_f1": f1_NK,
        **{name: graded(grade_of(name, g)) for name, g in config.graders.items()},
    }


def _slice(
    name: str, items: Items, metrics: Mapping[str, Metric], confidence: float
) -> SliceEvaluation:
    candidate, base = measures(items.candidate), measures(items.base)
    clusters_N = items.cluster_N
    differences = [
        difference(metric, candidate[metric], base[metric], clusters_N, confidence, told.is_share)
        for metric, told in metrics.items()
    ]
    return SliceEvaluation(
        slice=name,
        num_rows=len(clusters_N),
        estimates=_estimates(candidate, clusters_N, metrics, confidence),
        differences=tuple(found for found in differences if found is not None),
    )


def _estimates(
    measured: Mapping[str, Measured],
    clusters_N: Ints,
    metrics: Mapping[str, Metric],
    confidence: float,
) -> tuple[Estimate, ...]:
    return tuple(
        estimate(metric, told, measured[metric], clusters_N, confidence)
        for metric, told in metrics.items()
    )
