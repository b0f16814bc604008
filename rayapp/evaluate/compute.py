"""Evaluation as three passes of Ray Data: score, collect statistics, collect influences.

Every pass gives small mergeable values per block; the driver merges them, so it never holds rows,
and the result does not depend on the number of blocks.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
from ray.data import Dataset
from ray.exceptions import RayTaskError

from rayapp.config.release import EvaluationConfig
from rayapp.errors import ConfigError, DataError, RayappError
from rayapp.evaluate.curves import (
    NUM_ACTUAL_GROUPS,
    curves,
    predicted_against_actual,
    score_group,
)
from rayapp.evaluate.estimates import Influences, differences, estimates
from rayapp.evaluate.metrics import Statistics
from rayapp.evaluate.scoring import Score, Scored, score_rows
from rayapp.evaluate.slices import slice_expressions
from rayapp.evaluate.statistics import Bools, GroupSums
from rayapp.families.bundle import Bundle, PackedBundle
from rayapp.families.parcel import pack, unpack
from rayapp.schemas.data import Task
from rayapp.schemas.model import BundleSchema
from rayapp.schemas.release import Difference, Evaluation, LabelShare, Latency, SliceEvaluation

NUM_LATENCY_CALLS = 300
NUM_WARM_UP_CALLS = 20
ALL_ROWS = ""


def evaluate(
    *,
    dataset: Dataset,
    candidate: Path,
    champion: Path | None,
    config: EvaluationConfig,
    run_id: str,
    snapshot_id: str,
    split: str,
    bundle_digest: str,
    champion_release: str | None,
    label_shares: Sequence[LabelShare],
    latency_rows: pa.Table,
) -> Evaluation:
    """The candidate on the rows of `dataset`, next to the champion on the same rows.

    candidate, champion: bundle folders on this machine. latency_rows: raw rows for timing.
    Raises ConfigError for a slice that cannot be computed or for more than config.max_slices
    slices, DataError for rows without labels or a bundle whose scores are not finite.
    """
    bundle = Bundle.open(candidate)
    task = bundle.schema.task
    score = Score(
        PackedBundle.pack(candidate),
        PackedBundle.pack(champion) if champion is not None else None,
        slice_expressions(config.slices),
    )
    schemas = [bundle.schema]
    if champion is not None:
        schemas.append(_comparable(bundle.schema, Bundle.open(champion).schema))
    first, second = _passes(dataset, score, schemas, task, config.max_slices)
    parts = {
        name: _slice(name, pair, second.influences[name], config.confidence)
        for name, pair in sorted(first.pairs.items())
    }
    overall = first.pairs[ALL_ROWS]
    plots = curves(overall.candidate, overall.champion)
    if second.actual is not None:
        plots = (*plots, predicted_against_actual(second.actual))
    return Evaluation(
        run_id=run_id,
        snapshot_id=snapshot_id,
        split=split,
        task=task,
        bundle_digest=bundle_digest,
        champion=champion_release,
        overall=parts.pop(ALL_ROWS),
        slices=tuple(parts.values()),
        curves=plots,
        label_shares=tuple(label_shares),
        latency=measure_latency(bundle, latency_rows),
    )


def measure_latency(bundle: Bundle, table: pa.Table, num_calls: int = NUM_LATENCY_CALLS) -> Latency:
    """Time Bundle.predict on single rows of `table`, taken in turn, after a warm-up."""
    if table.num_rows == 0:
        raise DataError("there is no row to measure latency with", "evaluate a split with rows")
    rows = [table.slice(i, 1) for i in range(min(table.num_rows, num_calls))]
    for i in range(NUM_WARM_UP_CALLS):
        bundle.predict(rows[i % len(rows)])
    taken_ms = np.empty(num_calls)
    for i in range(num_calls):
        start_s = time.perf_counter()
        bundle.predict(rows[i % len(rows)])
        taken_ms[i] = (time.perf_counter() - start_s) * 1e3
    p50, p95, p99 = (round(float(q), 4) for q in np.quantile(taken_ms, [0.50, 0.95, 0.99]))
    return Latency(p50_ms=p50, p95_ms=p95, p99_ms=p99, num_calls=num_calls)


def _comparable(own: BundleSchema, champion: BundleSchema) -> BundleSchema:
    for name in ("task", "label", "classes"):
        mine, theirs = getattr(own, name), getattr(champion, name)
        if mine != theirs:
            raise ConfigError(
                f"candidate and champion cannot be compared: {name} is {mine!r} and {theirs!r}",
                "release a model of another question to an endpoint of its own",
            )
    return champion


class _Mergeable(Protocol):
    def merge(self, other: Self) -> Self: ...


_Part = TypeVar("_Part", bound=_Mergeable)


@dataclass(frozen=True)
class _Pair:
    candidate: Statistics
    champion: Statistics | None

    def merge(self, other: "_Pair") -> "_Pair":
        if self.champion is None or other.champion is None:
            return _Pair(self.candidate.merge(other.candidate), None)
        return _Pair(self.candidate.merge(other.candidate), self.champion.merge(other.champion))


@dataclass(frozen=True)
class _First:
    """Pass 1. too_many: slice column → values in one block, where they are over the limit."""

    pairs: Mapping[str, _Pair]
    too_many: Mapping[str, int]

    def merge(self, other: "_First") -> "_First":
        return _First(_merged(self.pairs, other.pairs), {**self.too_many, **other.too_many})


@dataclass(frozen=True)
class _Second:
    """Pass 2. actual: for a regression, labels by predicted value."""

    influences: Mapping[str, Influences]
    actual: GroupSums | None

    def merge(self, other: "_Second") -> "_Second":
        actual = self.actual
        if actual is not None and other.actual is not None:
            actual = actual.merge(other.actual)
        return _Second(_merged(self.influences, other.influences), actual)


@dataclass(frozen=True)
class _CollectFirst:
    task: Task
    max_slices: int

    def __call__(self, scored: Scored) -> _First:
        counts = {name: pc.count_distinct(v).as_py() for name, v in scored.slices.items()}
        too_many = {name: n for name, n in counts.items() if n > self.max_slices}
        if too_many:
            return _First({}, too_many)
        return _First({name: self._pair(scored, rows) for name, rows in _parts(scored)}, {})

    def _pair(self, scored: Scored, rows: Bools) -> _Pair:
        y_N = scored.y_N[rows]
        candidate = Statistics.from_batch(self.task, y_N, scored.candidate_NK[rows])
        if scored.champion_NK is None:
            return _Pair(candidate, None)
        return _Pair(candidate, Statistics.from_batch(self.task, y_N, scored.champion_NK[rows]))


@dataclass(frozen=True)
class _CollectSecond:
    pairs: "ray.ObjectRef[Mapping[str, _Pair]]"

    def __call__(self, scored: Scored) -> _Second:
        pairs = ray.get(self.pairs)
        found = {}
        for name, rows in _parts(scored):
            pair, y_N = pairs[name], scored.y_N[rows]
            own = pair.candidate.influences(y_N, scored.candidate_NK[rows])
            theirs = None
            if pair.champion is not None and scored.champion_NK is not None:
                theirs = pair.champion.influences(y_N, scored.champion_NK[rows])
            found[name] = Influences.from_batch(own, theirs)
        overall = pairs[ALL_ROWS].candidate
        if overall.task != "regression":
            return _Second(found, None)
        score_N = scored.candidate_NK[:, 0]
        group_N = score_group(overall, score_N)
        return _Second(found, GroupSums.from_batch(group_N, score_N, scored.y_N, NUM_ACTUAL_GROUPS))


def _passes(
    dataset: Dataset, score: Score, schemas: Sequence[BundleSchema], task: Task, max_slices: int
) -> tuple[_First, _Second]:
    try:
        scored = score_rows(dataset, score, schemas).materialize()
        first = _reduce(scored, _CollectFirst(task, max_slices))
        _refuse_too_many(first, max_slices)
        return first, _reduce(scored, _CollectSecond(ray.put(first.pairs)))
    except RayTaskError as error:
        raise _own_error(error) from None


def _reduce(scored: Dataset, collect: Callable[[Scored], _Part]) -> _Part:
    """Run `collect` over each block where it lies, and merge what comes back."""

    def run(table: pa.Table) -> pa.Table:
        return pack([collect(Scored.from_table(table))] if table.num_rows else [])

    merged: _Part | None = None
    for row in scored.map_batches(run, batch_format="pyarrow", batch_size=None).iter_rows():
        part: _Part = unpack(row)
        merged = part if merged is None else merged.merge(part)
    if merged is None:
        raise DataError("there is no row to evaluate", "check the snapshot's test split")
    return merged


def _parts(scored: Scored) -> Iterator[tuple[str, Bools]]:
    """Each slice's name and which rows it has; all rows first."""
    yield ALL_ROWS, np.ones(len(scored.y_N), dtype=np.bool_)
    for column, values in scored.slices.items():
        coded = values.dictionary_encode()
        code_N = coded.indices.to_numpy()
        for code, value in enumerate(coded.dictionary.to_pylist()):
            yield f"{column}={value}", code_N == code


def _merged(mine: Mapping[str, _Part], theirs: Mapping[str, _Part]) -> dict[str, _Part]:
    found = dict(mine)
    for name, part in theirs.items():
        found[name] = found[name].merge(part) if name in found else part
    return found


def _refuse_too_many(first: _First, max_slices: int) -> None:
    columns: dict[str, int] = {}
    for name in first.pairs:
        column = name.partition("=")[0]
        columns[column] = columns.get(column, 0) + (name != ALL_ROWS)
    columns |= first.too_many
    if sum(columns.values()) > max_slices:
        worst = max(columns, key=lambda c: columns[c])
        raise ConfigError(
            f"evaluation.slices gives at least {sum(columns.values())} slices, max_slices is "
            f"{max_slices}; {worst!r} alone has {columns[worst]} values",
            f"group {worst!r} with an expression, or raise evaluation.max_slices",
        )


def _slice(name: str, pair: _Pair, influences: Influences, confidence: float) -> SliceEvaluation:
    compared: tuple[Difference, ...] = ()
    if pair.champion is not None:
        compared = differences(pair.candidate, pair.champion, influences, confidence)
    return SliceEvaluation(
        slice=name,
        num_rows=pair.candidate.num_rows,
        estimates=estimates(pair.candidate, influences, confidence),
        differences=compared,
    )


def _own_error(error: RayTaskError) -> Exception:
    """The error that a worker raised on purpose, taken out of Ray's wrapping; else the wrapping."""
    cause = error.cause
    return cause if isinstance(cause, RayappError) else error
