"""Evaluation of answers in words: each row is answered by the candidate, by the weights that it was
tuned from and by the endpoint's champion, and scored against the answer that the data has.

A row is one item. What a row depends on others by is `evaluate.items`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayapp.config.grading import SamplesConfig
from rayapp.config.release import AnswerWorkersConfig, EvaluationConfig
from rayapp.errors import DataError
from rayapp.evaluate.declared import as_records, declared_metrics
from rayapp.evaluate.graders import Answered, Grade, grade_of, score_answer
from rayapp.evaluate.items import (
    BY_TOKENS,
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
from rayapp.evaluate.workers import in_batches, reserving
from rayapp.families.llm.answer import ANSWERERS, Answers, Decoding, Tuned
from rayapp.schemas.model import LanguageSchema
from rayapp.schemas.record import short
from rayapp.schemas.release import (
    AnswerCost,
    Answerer,
    Answering,
    Difference,
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
    tuned: Tuned,
    champion: Tuned | None,
    label: str,
    decoding: Decoding,
    workers: AnswerWorkersConfig,
    runtime_env: Mapping[str, Any],
    on_progress: Callable[[int], object] = lambda num_rows: None,
) -> pa.Table:
    """The rows with what each model says, in the order of the dataset. on_progress: told how many
    are answered."""
    dataset.context.execution_options.preserve_order = True
    # read before the models are there: they take CPUs that a read beside them might wait for
    read = [
        block
        for block in dataset.iter_batches(batch_size=None, batch_format="pyarrow")
        if len(block)
    ]
    if not read:
        raise DataError("there is no row to evaluate", "check the test split, or the golden set")
    asked = in_batches(pa.concat_tables(read), BATCH_ROWS).map_batches(
        Answers,
        fn_constructor_args=(tuned, champion, label, decoding, workers.num_threads),
        **reserving(workers, runtime_env),
    )
    answered: list[pa.Table] = []
    for block in asked.iter_batches(batch_size=None, batch_format="pyarrow"):
        if len(block):
            answered.append(block)
            on_progress(sum(map(len, answered)))
    return pa.concat_tables(answered)


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
    champion_release: str | None = None,
    golden: GoldenRef | None = None,
    judging: Judging | None = None,
) -> Evaluation:
    """answered: as `answer_rows` gives it, with the label. champion_release: None where no champion
    has answered. golden: the set that the rows are of, where they are of none of the snapshot's
    splits. judging: what config.judge said of them."""
    assert (judging is None) == (config.judge is None), "a judge is asked where one is configured"
    declared = declared_metrics(config, "text")
    metrics = {name: METRICS[name] for name in metrics_of("text")}
    metrics |= {name: told for name, told in declared.items() if not told.is_of_all_rows}
    said = _said(answered)
    assert ("champion" in said) == (champion_release is not None), "it has answered if there is one"
    expected = answered.column(label).to_pylist()
    values = {
        model: item_values(expected, one, language.fields, config) for model, one in said.items()
    }
    clusters_N = _clusters(answered, config.cluster_by)
    items = Items(values["tuned"], values["untuned"], values.get("champion"), clusters_N)
    slices = []
    for name, expression in slice_expressions(config.slices).items():
        found = pc.cast(expression.evaluate(answered), pa.string()).to_numpy(zero_copy_only=False)
        for value in sorted({v for v in found if v is not None}):
            part = items.take(found == value)
            slices.append(_slice(f"{name}={value}", part, metrics, config.confidence))
    overall, judged = _overall(items, metrics, judging, config.confidence)
    return Evaluation(
        run_id=run_id,
        snapshot_id=snapshot_id,
        split=split,
        task="text",
        bundle_digest=bundle_digest,
        champion=champion_release,
        overall=overall,
        slices=tuple(slices),
        curves=(),
        label_shares=(),
        latency=None,
        metrics=as_records(declared),
        answering=_answering(decoding, config.cluster_by),
        costs=tuple(_cost(model, one) for model, one in said.items()),
        golden=golden,
        untuned=_estimates(measures(items.base), items.cluster_N, metrics, config.confidence),
        judged=judged,
        untuned_weights=f"{language.base_name} ({short(language.base_digest)})",
    )


def _said(answered: pa.Table) -> dict[Answerer, list[dict[str, Any]]]:
    """Of each model that was asked, what it said of each row."""
    return {
        model: answered.column(column).to_pylist()
        for model, column in ANSWERERS.items()
        if column in answered.column_names
    }


def _overall(
    items: Items, metrics: Mapping[str, Metric], judging: Judging | None, confidence: float
) -> tuple[SliceEvaluation, Judged | None]:
    """Over all rows, with the judge's metric, which slices do not have."""
    whole = _slice("", items, metrics, confidence)
    if judging is None:
        return whole, None
    found, changes, judged = judged_metric(judging, items.cluster_N, confidence)
    added = {
        "estimates": (*whole.estimates, found),
        "differences": (*whole.differences, *changes.to_champion),
        "untuned_differences": (*whole.untuned_differences, *changes.to_untuned),
    }
    return whole.model_copy(update=added), judged


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


def _cost(model: Answerer, said: Sequence[Mapping[str, Any]]) -> AnswerCost:
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
    clusters_N = items.cluster_N
    return SliceEvaluation(
        slice=name,
        num_rows=len(clusters_N),
        estimates=_estimates(measures(items.candidate), clusters_N, metrics, confidence),
        differences=_differences(items, items.champion, metrics, confidence),
        untuned_differences=_differences(items, items.base, metrics, confidence),
    )


def _differences(
    items: Items,
    opponent: Mapping[str, Floats] | None,
    metrics: Mapping[str, Metric],
    confidence: float,
) -> tuple[Difference, ...]:
    if opponent is None:
        return ()
    own, other = measures(items.candidate), measures(opponent)
    is_alike = np.array_equal(items.candidate[TOKENS], opponent[TOKENS])
    found = [
        difference(metric, own[metric], other[metric], items.cluster_N, confidence, told.is_share)
        for metric, told in metrics.items()
        if is_alike or metric not in BY_TOKENS
    ]
    return tuple(one for one in found if one is not None)


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
