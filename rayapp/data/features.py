"""Point-in-time features: what was known when a prediction was asked for, and nothing later.

Three kinds, all vectorised over keys: events are sorted by (key, time) once, and every question
"up to when did I know what" is one binary search; windows are differences of prefix sums. A value
that becomes known exactly at the prediction time counts as known; a row never sees itself.

Works on tables that fit in memory (one Ray task); shape suffixes: N rows asked for, E events.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rayapp.config.snapshot import (
    AsOfFeature,
    LastFeature,
    PointInTimeFeature,
    RollingFeature,
)
from rayapp.errors import DataError
from rayapp.schemas.data import PREDICTION_TIME_COLUMN
from rayapp.transforms import Expression, arrow_type

Integers = npt.NDArray[np.int64]
Floats64 = npt.NDArray[np.float64]
US_PER_H = 3_600_000_000
_NEVER = np.iinfo(np.int64).max
_NO_KEY = -1


@dataclass(frozen=True)
class Timeline:
    """Events of many keys in one sorted line. place_E: key and time as one number; row_E: where
    each event came from; times_E: the sorted distinct times that places are built on."""

    place_E: Integers
    row_E: Integers
    times: Integers

    @classmethod
    def of(cls, key_E: Integers, time_E: Integers) -> "Timeline":
        """Events without a key, or whose time is _NEVER, are left out. Events of one key and time
        keep their order."""
        known_E = np.flatnonzero((key_E != _NO_KEY) & (time_E != _NEVER))
        times = _distinct(time_E[known_E])
        rank_E = np.searchsorted(times, time_E[known_E]) + 1
        place_E = key_E[known_E] * (len(times) + 1) + rank_E
        order = np.argsort(place_E, kind="stable")
        return cls(place_E[order], known_E[order], times)

    def count_until(self, key_N: Integers, time_N: Integers) -> Integers:
        """How many events lie before the end of (key, time], counted from the line's start."""
        rank_N = np.searchsorted(self.times, time_N, side="right")
        place_N = key_N * (len(self.times) + 1) + rank_N
        return np.searchsorted(self.place_E, place_N, side="right")

    def start_of(self, key_N: Integers) -> Integers:
        """Where a key's events begin in the line."""
        return np.searchsorted(self.place_E, key_N * (len(self.times) + 1), side="left")

    def row_at(self, position_N: Integers) -> Integers:
        """The rows of the events at these positions; 0 where there is no event at all."""
        if not len(self.row_E):
            return np.zeros(len(position_N), np.int64)
        return self.row_E[np.maximum(position_N, 0)]


def add_features(
    base: pa.Table, features: Sequence[PointInTimeFeature], others: Mapping[str, pa.Table]
) -> pa.Table:
    """The base table (with its prediction time) and one column or more for each feature."""
    for feature in features:
        for name, values in _columns_of(base, feature, others).items():
            if name in base.column_names:
                raise DataError(
                    f"feature column {name!r} is already a column of the view",
                    "give it another name",
                )
            base = base.append_column(name, values)
    return base


def _columns_of(
    base: pa.Table, feature: PointInTimeFeature, others: Mapping[str, pa.Table]
) -> dict[str, pa.Array]:
    match feature:
        case AsOfFeature():
            return as_of(base, others[feature.table], feature)
        case RollingFeature():
            return {feature.name: rolling(base, feature)}
        case LastFeature():
            return last(base, feature)


def as_of(base: pa.Table, other: pa.Table, feature: AsOfFeature) -> dict[str, pa.Array]:
    """The other table's newest row per key at or before the prediction time, if young enough."""
    asked_N = _times(base.column(PREDICTION_TIME_COLUMN))
    event_E = _times(Expression.parse(feature.event_time).evaluate(other))
    key_N, key_E = _shared_codes(base, list(feature.on), other, list(feature.on.values()))
    timeline = Timeline.of(key_E, event_E)
    found_N = timeline.count_until(key_N, asked_N) - 1
    exists_N = (key_N != _NO_KEY) & (found_N >= timeline.start_of(np.maximum(key_N, 0)))
    row_N = timeline.row_at(np.where(exists_N, found_N, 0))
    age_us_N = asked_N - np.append(event_E, 0)[row_N]
    exists_N &= age_us_N <= round(feature.max_age_h * US_PER_H)
    indices = pa.array(row_N, mask=~exists_N)
    return {new: _taken(other.column(old), indices) for new, old in feature.columns.items()}


def rolling(base: pa.Table, feature: RollingFeature) -> pa.Array:
    """Mean, count or sum of values that became known in (t - window, t], the row's own left out.

    Null where the key is null, and for a mean over nothing.
    """
    asked_N = _times(base.column(PREDICTION_TIME_COLUMN))
    value_N, known_N = _events(base, feature.value, feature.known_at)
    key_N = _codes(base, feature.key)
    timeline = Timeline.of(key_N, known_N)
    window_us = round(feature.window_h * US_PER_H)
    stop_N = timeline.count_until(key_N, asked_N)
    start_N = timeline.count_until(key_N, asked_N - window_us)
    sums_E = np.concatenate([[0.0], np.cumsum(value_N[timeline.row_E])])
    sees_itself_N = (known_N <= asked_N) & (known_N > asked_N - window_us)
    count_N = stop_N - start_N - sees_itself_N
    sum_N = sums_E[stop_N] - sums_E[start_N] - np.where(sees_itself_N, value_N, 0.0)
    has_key_N = key_N != _NO_KEY
    if feature.statistic == "count":
        return pa.array(count_N.astype(np.float64), mask=~has_key_N)
    if feature.statistic == "sum":
        return pa.array(np.where(count_N > 0, sum_N, 0.0), mask=~has_key_N)
    return pa.array(sum_N / np.maximum(count_N, 1), mask=~has_key_N | (count_N == 0))


def last(base: pa.Table, feature: LastFeature) -> dict[str, pa.Array]:
    """The newest known value of the same key, another row's, and on request its age in hours."""
    asked_N = _times(base.column(PREDICTION_TIME_COLUMN))
    values = Expression.parse(feature.value).evaluate(base)
    known_N = _times(Expression.parse(feature.known_at).evaluate(base))
    known_N = np.where(_is_valid(values), known_N, _NEVER)
    key_N = _codes(base, feature.key)
    timeline = Timeline.of(key_N, known_N)
    found_N = timeline.count_until(key_N, asked_N) - 1
    start_N = timeline.start_of(np.maximum(key_N, 0))
    itself_N = timeline.row_at(found_N) == np.arange(len(key_N))
    found_N = found_N - (itself_N & (found_N >= start_N))
    exists_N = (key_N != _NO_KEY) & (found_N >= start_N)
    row_N = timeline.row_at(np.where(exists_N, found_N, 0))
    age_us_N = np.where(exists_N, asked_N - known_N[row_N], 0)
    exists_N &= age_us_N <= round(feature.max_age_h * US_PER_H)
    columns = {feature.name: _taken(values, pa.array(row_N, mask=~exists_N))}
    if feature.age_name is not None:
        columns[feature.age_name] = pa.array(age_us_N / US_PER_H, mask=~exists_N)
    return columns


def _events(base: pa.Table, value: str, known_at: str) -> tuple[Floats64, Integers]:
    """Values, and when each became known; _NEVER where either is missing or not finite."""
    raw = pc.cast(Expression.parse(value).evaluate(base), pa.float64())
    value_N = pc.fill_null(raw, np.nan).to_numpy(zero_copy_only=False)
    known_N = _times(Expression.parse(known_at).evaluate(base))
    usable_N = np.isfinite(value_N)
    return np.where(usable_N, value_N, 0.0), np.where(usable_N, known_N, _NEVER)


def _times(values: pa.Array | pa.ChunkedArray) -> Integers:
    """Microseconds since 1970, _NEVER for a null."""
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    if not pa.types.is_timestamp(values.type):
        raise DataError(
            f"a time expression gives {values.type}, not a timestamp",
            "add hours(x) or minutes(x) to a timestamp column",
        )
    whole = pc.cast(values, arrow_type("timestamp")).cast(pa.int64())
    times: Integers = pc.fill_null(whole, _NEVER).to_numpy(zero_copy_only=False)
    return times


def _codes(table: pa.Table, columns: Sequence[str]) -> Integers:
    """One whole number per distinct key; _NO_KEY where part of it is null; 0 for no columns."""
    codes, _ = _shared_codes(table, columns, table.slice(0, 0), columns)
    return codes


def _shared_codes(
    left: pa.Table, left_columns: Sequence[str], right: pa.Table, right_columns: Sequence[str]
) -> tuple[Integers, Integers]:
    """Codes that mean the same key on both sides."""
    code = np.zeros(left.num_rows + right.num_rows, np.int64)
    missing = np.zeros(len(code), dtype=bool)
    for name, other in zip(left_columns, right_columns, strict=True):
        kind = left.column(name).type
        both = pa.chunked_array([*left.column(name).chunks, *right.column(other).cast(kind).chunks])
        encoded = both.combine_chunks().dictionary_encode()
        part = pc.fill_null(encoded.indices, 0).to_numpy(zero_copy_only=False).astype(np.int64)
        missing |= ~_is_valid(encoded.indices)
        combined = pa.array(code * max(len(encoded.dictionary), 1) + part)
        code = combined.dictionary_encode().indices.to_numpy().astype(np.int64)
    code[missing] = _NO_KEY
    return code[: left.num_rows], code[left.num_rows :]


def _distinct(values: Integers) -> Integers:
    """Sorted, each once. np.unique hashes first, which is many times slower here."""
    sorted_values = np.sort(values)
    is_first = np.append(True, sorted_values[1:] != sorted_values[:-1])[: len(values)]
    distinct: Integers = sorted_values[is_first]
    return distinct


def _is_valid(values: pa.Array) -> npt.NDArray[np.bool_]:
    valid: npt.NDArray[np.bool_] = pc.is_valid(values).to_numpy(zero_copy_only=False)
    return valid


def _taken(values: pa.Array | pa.ChunkedArray, indices: pa.Array) -> pa.Array:
    taken = values.take(indices)
    return taken.combine_chunks() if isinstance(taken, pa.ChunkedArray) else taken
