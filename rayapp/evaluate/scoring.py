"""Candidate and champion over the same raw rows of a view: to labels, scores and slices."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from ray.data import Dataset

from rayapp.errors import ConfigError, DataError
from rayapp.evaluate.statistics import Floats
from rayapp.families.bundle import Bundle, PackedBundle
from rayapp.families.encoding import label_numbers
from rayapp.schemas.model import BundleSchema
from rayapp.transforms import Expression

MISSING = "(missing)"
_LABEL = "label"
_SLICE = "slice:"


@dataclass(frozen=True)
class Scored:
    """Rows of one block. Shape suffixes: N rows, K scores per row."""

    y_N: Floats
    candidate_NK: Floats
    champion_NK: Floats | None
    slices: Mapping[str, pa.Array]

    def to_table(self) -> pa.Table:
        columns = {_LABEL: pa.array(self.y_N)}
        for who, scores_NK in (("candidate", self.candidate_NK), ("champion", self.champion_NK)):
            if scores_NK is not None:
                columns |= {f"{who}:{k}": pa.array(s) for k, s in enumerate(scores_NK.T)}
        return pa.table(columns | {_SLICE + name: v for name, v in self.slices.items()})

    @classmethod
    def from_table(cls, table: pa.Table) -> "Scored":
        def scores(who: str) -> Floats | None:
            names = [n for n in table.column_names if n.startswith(f"{who}:")]
            columns = [table.column(n).to_numpy() for n in names]
            return np.stack(columns, axis=1).astype(np.float64) if columns else None

        candidate_NK = scores("candidate")
        assert candidate_NK is not None
        names = [n for n in table.column_names if n.startswith(_SLICE)]
        return cls(
            table.column(_LABEL).to_numpy(),
            candidate_NK,
            scores("champion"),
            {n.removeprefix(_SLICE): table.column(n).combine_chunks() for n in names},
        )


@dataclass(frozen=True)
class Score:
    """The function that runs over each block of the view."""

    candidate: PackedBundle
    champion: PackedBundle | None
    slices: Mapping[str, Expression]

    def __call__(self, table: pa.Table) -> pa.Table:
        bundle = self.candidate.open()
        schema = bundle.schema
        y_N = label_numbers(table.column(schema.label), schema.task, schema.classes)
        champion_NK = None if self.champion is None else _scores(self.champion.open(), table)
        return Scored(
            np.asarray(y_N, dtype=np.float64),
            _scores(bundle, table),
            champion_NK,
            {name: _slice_values(e, table) for name, e in self.slices.items()},
        ).to_table()


def score_rows(dataset: Dataset, score: Score, schemas: Sequence[BundleSchema]) -> Dataset:
    """One row per row of `dataset`: label, scores and slices, read back by Scored.from_table."""
    have = dataset.columns() or []
    needed = {c.name for s in schemas for c in s.inputs} | {s.label for s in schemas}
    for name, expression in score.slices.items():
        _refuse_missing(expression.columns - set(have), have, f"slice {name!r}")
        needed |= expression.columns
    _refuse_missing(needed - set(have), have, "the bundle")
    dataset.context.enable_progress_bars = False  # three passes of a second or two each
    dataset.context.print_on_execution_start = False
    dataset.context.raise_original_map_exception = True  # else our own errors arrive nameless
    selected = dataset.select_columns(sorted(needed))
    return selected.map_batches(score, batch_format="pyarrow", batch_size=None)


def _refuse_missing(missing: set[str] | frozenset[str], have: Sequence[str], who: str) -> None:
    for name in sorted(missing):
        near = difflib.get_close_matches(name, have, n=1)
        raise ConfigError(
            f"{who} needs column {name!r}, which the evaluated rows do not have",
            f"did you mean {near[0]!r}?" if near else f"columns are {sorted(have)}",
        )


def _scores(bundle: Bundle, table: pa.Table) -> Floats:
    schema = bundle.schema
    expected = (table.num_rows, schema.num_scores)
    if table.num_rows == 0:
        return np.zeros(expected)
    scores_NK = np.asarray(bundle.predict(table), dtype=np.float64)
    if scores_NK.shape != expected:
        raise DataError(
            f"bundle {schema.name!r} gave scores of shape {scores_NK.shape}, not {expected}",
            "check the family's predict with tests/contract/test_families.py",
        )
    if not np.isfinite(scores_NK).all():
        raise DataError(
            f"bundle {schema.name!r} gave a score that is not finite",
            "train again and look at the loss; such a model must not be released",
        )
    return scores_NK


def _slice_values(expression: Expression, table: pa.Table) -> pa.Array:
    return pc.fill_null(pc.cast(expression.evaluate(table), pa.string()), MISSING)
