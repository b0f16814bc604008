"""Rows → numbers: how a feature's encoding is learned, and the one place where it is applied.

    raw columns ─▶ feature_table (transforms) ─▶ encode ─▶ x_NF ─▶ a family's model

Training, batch scoring and serving all pass through `encode`. Text becomes the index of a category;
everything else is a number. What is missing, or not a finite number, is NaN.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rayapp.errors import ConfigError, DataError
from rayapp.families.base import Floats
from rayapp.families.parcel import pack, unpack
from rayapp.families.statistics import (
    CategorySummary,
    NumberSummary,
    Spread,
    Summary,
    merge_all,
    merge_spreads,
)
from rayapp.schemas.data import Column, ColumnProfile, ColumnType, Profile, Task
from rayapp.schemas.model import EncodedFeature, Feature
from rayapp.transforms import Expression, feature_table

MAX_VOCABULARY = 512
NUM_BINS = 20
OTHER = "(other)"
LARGEST_FLOAT32 = float(np.finfo(np.float32).max)
"""The last value of a category's profile: everything outside the vocabulary."""
Kind = Literal["number", "category"]


class Blocks(Protocol):
    """What fit_encoding needs of a ray.data.Dataset: a function over each block, and its rows."""

    def map_batches(self, fn: Any, **options: Any) -> "Blocks": ...
    def take_all(self) -> list[dict[str, Any]]: ...


def fit_encoding(
    dataset: Blocks, features: Sequence[Feature], columns: Sequence[Column]
) -> tuple[tuple[EncodedFeature, ...], Profile]:
    """Learn vocabularies and moments in two passes, the same whatever the blocks.

    Raises ConfigError for a feature that is neither text nor a number, DataError for no rows.
    """
    kinds = feature_kinds(features, columns)
    needed = [c.name for c in columns if c.name in inputs_of(features, columns)]
    blocks = _per_block(dataset, partial(_summarise, features=features, kinds=kinds, need=needed))
    summaries: dict[str, Summary] = merge_all(blocks) if blocks else {}
    num_rows = max((_num_rows(s) for s in summaries.values()), default=0)
    if not num_rows:
        raise DataError("the training split has no rows", "check the snapshot's splits")
    numbers = {n: s for n, s in summaries.items() if isinstance(s, NumberSummary)}
    spreads = merge_spreads(
        _per_block(dataset, partial(_spread, features=features, numbers=numbers, need=needed))
    )
    encoded: list[EncodedFeature] = []
    profiles: list[ColumnProfile] = []
    for feature in features:
        summary = summaries[feature.name]
        if isinstance(summary, CategorySummary):
            made, profile = _category(feature, summary)
        else:
            made, profile = _number(feature, summary, spreads[feature.name])
        encoded.append(made)
        profiles.append(profile)
    return tuple(encoded), Profile(num_rows=num_rows, columns=tuple(profiles))


def feature_kinds(features: Sequence[Feature], columns: Sequence[Column]) -> dict[str, Kind]:
    """Number or category, from the types of the columns. Raises ConfigError."""
    types: dict[str, ColumnType] = {c.name: c.type for c in columns}
    kinds: dict[str, Kind] = {}
    for feature in features:
        plain = types.get(feature.expression)
        found = plain or Expression.parse(feature.expression).result_type(types)
        if found == "timestamp":
            raise ConfigError(
                f"feature {feature.name!r} ({feature.expression}) is a timestamp, which is neither "
                "a number nor a category",
                "take a part of it, for example hour(x, 'UTC') or day_of_week(x, 'UTC')",
            )
        kinds[feature.name] = "category" if found == "string" else "number"
    return kinds


def inputs_of(
    features: Sequence[Feature | EncodedFeature], columns: Sequence[Column]
) -> frozenset[str]:
    """Names of the raw columns that the features read."""
    names = {c.name for c in columns}
    read: set[str] = set()
    for feature in features:
        plain = feature.expression in names
        read |= {feature.expression} if plain else Expression.parse(feature.expression).columns
    return frozenset(read)


def encode(features: Sequence[EncodedFeature], table: pa.Table) -> Floats:
    """x_NF of a model's input. Raises DataError for a column that is missing or of a wrong type."""
    computed = feature_table(features, table)
    x_NF = np.empty((table.num_rows, len(features)), dtype=np.float32)
    for f, feature in enumerate(features):
        column = computed.column(f)
        if feature.kind == "number":
            x_NF[:, f] = _finite(column, feature.name)
        else:
            x_NF[:, f] = _indices(column, feature.vocabulary)
    return x_NF


@dataclass(frozen=True)
class Encode:
    """map_batches function: view rows → {"x": [N, F], "y": [N]}, both float32."""

    features: tuple[EncodedFeature, ...]
    label: str
    task: Task
    classes: tuple[str, ...]

    def __call__(self, table: pa.Table) -> dict[str, npt.NDArray[np.float32]]:
        y_N = label_numbers(table.column(self.label), self.task, self.classes)
        return {"x": encode(self.features, table), "y": y_N}


def label_numbers(
    column: pa.ChunkedArray, task: Task, classes: Sequence[str]
) -> npt.NDArray[np.float32]:
    """The value of a regression, or a class's index. Text names a class, and so does a number where
    every class is named by a whole number; other numbers and booleans are the index itself.

    Raises DataError for a label that is missing, not finite or no class.
    """
    if task == "regression":
        y_N = _finite(column, "label")
        wanted = "a finite number"
    else:
        wanted = f"one of the classes {list(classes)}"
        if pa.types.is_string(column.type) or all(_is_whole(c) for c in classes):
            names = pc.cast(column, pa.string())
            y_N = _as_floats(pc.index_in(names, value_set=pa.array(classes, pa.string())))
        else:
            y_N = _as_floats(column)
            y_N[~np.isin(y_N, np.arange(len(classes)))] = np.nan
    if np.isnan(y_N).any():
        first = column[int(np.flatnonzero(np.isnan(y_N))[0])].as_py()
        raise DataError(f"label {first!r} is not {wanted}", "check the snapshot's label")
    return y_N.astype(np.float32)


def label_number(label: Any, task: Task, classes: Sequence[str]) -> float | None:
    """`label_numbers` of one label, as JSON has it; None where it is none."""
    is_number = isinstance(label, int | float) and math.isfinite(label)
    if task == "regression":
        return float(label) if is_number else None
    if is_number and not all(_is_whole(name) for name in classes):
        return float(label) if label in range(len(classes)) else None
    if is_number and not isinstance(label, bool) and label == int(label):
        label = str(int(label))
    return float(classes.index(label)) if isinstance(label, str) and label in classes else None


def _is_whole(name: str) -> bool:
    return name.removeprefix("-").isdecimal()


def _per_block(dataset: Blocks, look: Any) -> list[Any]:
    made = dataset.map_batches(look, batch_format="pyarrow", batch_size=None)
    return [unpack(row) for row in made.take_all()]


def _summarise(
    table: pa.Table,
    features: Sequence[Feature],
    kinds: Mapping[str, Kind],
    need: Sequence[str],
) -> pa.Table:
    computed = feature_table(features, table.select(need))
    summaries: dict[str, Summary] = {}
    for feature in features:
        column = computed.column(feature.name)
        if kinds[feature.name] == "category":
            counted = pc.value_counts(pc.drop_null(_texts(column)))
            pairs = zip(counted.field(0).to_pylist(), counted.field(1).to_pylist(), strict=True)
            summaries[feature.name] = CategorySummary(Counter(dict(pairs)), column.null_count)
        else:
            summaries[feature.name] = NumberSummary.of(_as_floats(column))
    return pack([summaries])


def _spread(
    table: pa.Table,
    features: Sequence[Feature],
    numbers: Mapping[str, NumberSummary],
    need: Sequence[str],
) -> pa.Table:
    wanted = [f for f in features if f.name in numbers]
    computed = feature_table(wanted, table.select(need)) if wanted else None
    found = {
        f.name: Spread.of(_as_floats(computed.column(f.name)), numbers[f.name])
        for f in wanted
        if computed is not None
    }
    return pack([found])


def _category(feature: Feature, summary: CategorySummary) -> tuple[EncodedFeature, ColumnProfile]:
    ranked = sorted(summary.counts.items(), key=lambda pair: (-pair[1], pair[0]))
    vocabulary = tuple(sorted(value for value, _ in ranked[:MAX_VOCABULARY]))
    counts = tuple(summary.counts[value] for value in vocabulary)
    rest = summary.counts.total() - sum(counts)
    made = EncodedFeature(
        name=feature.name,
        expression=feature.expression,
        kind="category",
        vocabulary=vocabulary,
    )
    profile = ColumnProfile(
        name=feature.name,
        type="category",
        values=(*vocabulary, OTHER),
        counts=(*counts, rest),
        num_missing=summary.num_missing,
    )
    return made, profile


def _number(
    feature: Feature, summary: NumberSummary, spread: Spread
) -> tuple[EncodedFeature, ColumnProfile]:
    edges, counts = spread.bins(summary, NUM_BINS)
    made = EncodedFeature(
        name=feature.name,
        expression=feature.expression,
        kind="number",
        mean=summary.mean,
        std=spread.std(summary),
    )
    profile = ColumnProfile(
        name=feature.name,
        type="number",
        edges=edges,
        counts=counts,
        num_missing=summary.num_missing,
    )
    return made, profile


def _num_rows(summary: Summary) -> int:
    if isinstance(summary, NumberSummary):
        return summary.num_values + summary.num_missing
    return summary.counts.total() + summary.num_missing


def _as_floats(column: pa.ChunkedArray | pa.Array) -> npt.NDArray[np.float64]:
    """NaN where null. The array is fresh, so the caller may write to it."""
    values = pc.cast(column, pa.float64())
    return np.array(values.to_numpy(zero_copy_only=False), dtype=np.float64)


def _finite(column: pa.ChunkedArray, name: str) -> npt.NDArray[np.float64]:
    """NaN for what is not finite as a float32, which is what models get."""
    try:
        x_N = _as_floats(column)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(
            f"{name!r} must be a number: {str(error).splitlines()[0]}",
            "send a number or null",
        ) from None
    x_N[~(np.abs(x_N) <= LARGEST_FLOAT32)] = np.nan
    return x_N


def _texts(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column if pa.types.is_string(column.type) else pc.cast(column, pa.string())


def _indices(column: pa.ChunkedArray, vocabulary: Sequence[str]) -> npt.NDArray[np.float64]:
    """The category's place; len(vocabulary) for one never seen; NaN for null."""
    texts = _texts(column)
    place = pc.index_in(texts, value_set=pa.array(vocabulary, pa.string()))
    place_N = _as_floats(place)
    place_N[np.isnan(place_N)] = len(vocabulary)
    if texts.null_count:
        place_N[texts.is_null().to_numpy(zero_copy_only=False)] = np.nan
    return place_N
