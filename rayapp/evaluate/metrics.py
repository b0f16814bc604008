"""The metrics: what each means, its value from merged statistics, and each row's influence on it.

Every metric here is asymptotically linear: value − truth ≈ the mean over rows of an influence
function (van der Vaart 1998, "Asymptotic Statistics", ch. 20). So all of them get intervals and
paired differences in the same way: one pass merges `Statistics`, which give the values; a second
pass looks up each row's influence in them and sums its moments. For AUC this is DeLong's method.

Shape suffixes: N rows, K scores per row, U score bins.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from rayapp.evaluate.ranking import (
    auc,
    auc_influence,
    average_precision,
    average_precision_influence,
    calibration_error,
    calibration_influence,
)
from rayapp.evaluate.statistics import (
    Bools,
    Floats,
    Ints,
    RankTable,
    as_float,
    exact_sum,
)
from rayapp.schemas.data import Task

PROBABILITY_FLOOR = 1e-7
"""Log loss takes probabilities no closer than this to 0 or 1: the step of float32 below 1."""


@dataclass(frozen=True)
class Metric:
    """higher_is_better is None where neither direction is better. is_share: the value is a
    probability or share, which decides the form of its interval."""

    meaning: str
    tasks: tuple[Task, ...]
    higher_is_better: bool | None
    unit: str
    is_share: bool = False
    is_ranked: bool = False
    """Defined only where both classes have rows."""
    is_of_all_rows: bool = False
    """Not told of slices."""


_CLASSIFIERS: tuple[Task, ...] = ("binary", "multiclass")
METRICS: dict[str, Metric] = {
    "auc": Metric(
        "chance that a random positive row is ranked above a random negative one; with several "
        "classes the mean over one-against-the-rest",
        _CLASSIFIERS,
        True,
        "share",
        is_share=True,
        is_ranked=True,
    ),
    "average_precision": Metric(
        "mean precision over the recall levels that the ranking passes through",
        ("binary",),
        True,
        "share",
        is_share=True,
        is_ranked=True,
    ),
    "log_loss": Metric("mean surprise of the true class", _CLASSIFIERS, False, "nats"),
    "brier": Metric(
        "mean squared distance of the probability from what happened",
        ("binary",),
        False,
        "probability²",
        is_share=True,
    ),
    "calibration_error": Metric(
        "how far probabilities are from how often they come true, on average over 15 groups of "
        "equally many rows: the positive class's; with several classes the likeliest one's; of "
        "texts the whole answer's, which is right by exact_match",
        (*_CLASSIFIERS, "text"),
        False,
        "share",
    ),
    "accuracy": Metric("rows whose likeliest class is right", _CLASSIFIERS, True, "share", True),
    "label_rate": Metric("rows that are positive", ("binary",), None, "share", True),
    "positive_rate": Metric(
        "rows with a predicted probability of at least 0.5",
        ("binary",),
        None,
        "share",
        True,
    ),
    "predicted_mean": Metric("mean predicted probability", ("binary",), None, "share", True),
    "mae": Metric("mean absolute error", ("regression",), False, "label unit"),
    "rmse": Metric("root of the mean squared error", ("regression",), False, "label unit"),
    "r2": Metric("share of the label's variance explained", ("regression",), True, "share"),
    "bias": Metric("mean of prediction − label", ("regression",), None, "label unit"),
    "exact_match": Metric(
        "rows whose answer is the right one; of a JSON object, with all its fields and no other",
        ("text",),
        True,
        "share",
        is_share=True,
    ),
    "field_f1": Metric(
        "mean over rows of the harmonic mean of the share of the answer's fields that are right "
        "and the share of the right fields that it has; of plain text as exact_match",
        ("text",),
        True,
        "share",
        is_share=True,
    ),
    "answer_loss": Metric(
        "surprise of the right answer, over all of its tokens, as the model reads it",
        ("text",),
        False,
        "nats a token",
    ),
    "perplexity": Metric(
        "e to the answer loss: among how many tokens the model wavers", ("text",), False, "tokens"
    ),
    "answer_tokens": Metric(
        "tokens of an answer, which is what answers cost", ("text",), None, "tokens"
    ),
}


def metrics_of(task: Task) -> tuple[str, ...]:
    return tuple(name for name, metric in METRICS.items() if task in metric.tasks)


@dataclass(frozen=True)
class Statistics:
    """Sufficient statistics of scored rows. sums: exact sums of the values that `_ROW_VALUES`
    gives. tables: binary one; multiclass one per class and, last, the likeliest class's
    confidence against being right; regression none. confusion: [true, predicted] rows."""

    task: Task
    num_rows: int
    sums: Mapping[str, int]
    tables: tuple[RankTable, ...]
    confusion: Ints

    @classmethod
    def from_batch(cls, task: Task, y_N: Floats, scores_NK: Floats) -> "Statistics":
        """y_N: class index (0/1 for binary), or the value. scores_NK: as Bundle.predict gives."""
        scores_NK = np.asarray(scores_NK, dtype=np.float64)
        rows = _ROW_VALUES[task](y_N, scores_NK)
        return cls(
            task,
            len(y_N),
            {name: exact_sum(value_N) for name, value_N in rows.items()},
            tuple(RankTable.from_batch(*pair) for pair in _questions(task, y_N, scores_NK)),
            _confusion(task, y_N, scores_NK),
        )

    def merge(self, other: "Statistics") -> "Statistics":
        return Statistics(
            self.task,
            self.num_rows + other.num_rows,
            {name: total + other.sums[name] for name, total in self.sums.items()},
            tuple(a.merge(b) for a, b in zip(self.tables, other.tables, strict=True)),
            self.confusion + other.confusion,
        )

    def mean(self, name: str) -> float:
        return as_float(self.sums[name]) / self.num_rows

    @property
    def num_rarer(self) -> int:
        """Rows on the rarer side of the ranked questions: what ranked metrics live on."""
        sides = [min(t.num_positives, t.num_negatives) for t in _ranked_tables(self)]
        return min(sides, default=0)

    def values(self) -> dict[str, float | None]:
        """Every metric of the task; None where these rows do not define it."""
        return _VALUES[self.task](self)

    def influences(self, y_N: Floats, scores_NK: Floats) -> dict[str, Floats]:
        """Per metric that has a value: each row's influence [N]. Over all rows it averages 0."""
        scores_NK = np.asarray(scores_NK, dtype=np.float64)
        return _INFLUENCES[self.task](self, y_N, scores_NK)


def _questions(task: Task, y_N: Floats, scores_NK: Floats) -> list[tuple[Bools, Floats]]:
    """The yes/no questions that a task's scores answer: (what is true, the probability of it)."""
    if task == "regression":
        return []
    if task == "binary":
        return [(y_N == 1, scores_NK[:, 1])]
    ranks = [(y_N == k, scores_NK[:, k]) for k in range(scores_NK.shape[1])]
    likeliest_N = scores_NK.argmax(axis=1)
    return [*ranks, (likeliest_N == y_N, scores_NK.max(axis=1))]


def _confusion(task: Task, y_N: Floats, scores_NK: Floats) -> Ints:
    if task == "regression":
        return np.zeros((0, 0), dtype=np.int64)
    num_classes = scores_NK.shape[1]
    cell_N = y_N.astype(np.int64) * num_classes + _predicted(scores_NK)
    counts = np.bincount(cell_N, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes).astype(np.int64)


def _predicted(scores_NK: Floats) -> Ints:
    """The likeliest class; a binary probability of exactly 0.5 counts as yes."""
    if scores_NK.shape[1] == 2:
        return (scores_NK[:, 1] >= 0.5).astype(np.int64)
    likeliest_N: Ints = scores_NK.argmax(axis=1).astype(np.int64)
    return likeliest_N


def _class_rows(y_N: Floats, scores_NK: Floats) -> dict[str, Floats]:
    p_N = scores_NK[np.arange(len(y_N)), y_N.astype(np.int64)]
    return {
        "log_loss": -np.log(np.clip(p_N, PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)),
        "accuracy": (_predicted(scores_NK) == y_N).astype(np.float64),
    }


def _binary_rows(y_N: Floats, scores_NK: Floats) -> dict[str, Floats]:
    p_N = scores_NK[:, 1]
    return _class_rows(y_N, scores_NK) | {
        "brier": np.square(p_N - y_N),
        "label_rate": np.asarray(y_N, dtype=np.float64),
        "positive_rate": (p_N >= 0.5).astype(np.float64),
        "predicted_mean": p_N,
    }


def _regression_rows(y_N: Floats, scores_NK: Floats) -> dict[str, Floats]:
    error_N = scores_NK[:, 0] - y_N
    return {
        "mae": np.abs(error_N),
        "bias": error_N,
        "squared_error": np.square(error_N),
        "label": np.asarray(y_N, dtype=np.float64),
        "label_squared": np.square(np.asarray(y_N, dtype=np.float64)),
        "score": scores_NK[:, 0],
        "score_squared": np.square(scores_NK[:, 0]),
    }


def _is_ranked(table: RankTable) -> bool:
    return table.num_positives > 0 and table.num_negatives > 0


def _ranked_tables(stats: Statistics) -> tuple[RankTable, ...]:
    """Tables that AUC is taken over: those of classes that occur, and not alone."""
    tables = stats.tables[:-1] if stats.task == "multiclass" else stats.tables
    return tuple(t for t in tables if _is_ranked(t))


def _class_values(stats: Statistics) -> dict[str, float | None]:
    ranked = _ranked_tables(stats)
    values: dict[str, float | None] = {name: stats.mean(name) for name in stats.sums}
    values["auc"] = float(np.mean([auc(t) for t in ranked])) if ranked else None
    values["calibration_error"] = calibration_error(stats.tables[-1])
    if stats.task == "binary":
        values["average_precision"] = average_precision(ranked[0]) if ranked else None
    return values


def _class_influences(stats: Statistics, y_N: Floats, scores_NK: Floats) -> dict[str, Floats]:
    rows = _ROW_VALUES[stats.task](y_N, scores_NK)
    found = {name: value_N - stats.mean(name) for name, value_N in rows.items()}
    questions = _questions(stats.task, y_N, scores_NK)
    asked = [
        (table, is_N, table.place(score_N))
        for table, (is_N, score_N) in zip(stats.tables, questions, strict=True)
    ]
    table, is_N, place_N = asked[-1]
    found["calibration_error"] = calibration_influence(table, is_N, questions[-1][1], place_N)
    ranked = [a for a in (asked[:-1] if stats.task == "multiclass" else asked) if _is_ranked(a[0])]
    if ranked:
        found["auc"] = np.mean([auc_influence(*a) for a in ranked], axis=0)
        if stats.task == "binary":
            found["average_precision"] = average_precision_influence(*ranked[0])
    return found


def _label_variance(stats: Statistics) -> float:
    return max(stats.mean("label_squared") - stats.mean("label") ** 2, 0.0)


def _regression_values(stats: Statistics) -> dict[str, float | None]:
    squared, variance = stats.mean("squared_error"), _label_variance(stats)
    return {
        "mae": stats.mean("mae"),
        "rmse": float(np.sqrt(squared)),
        "r2": 1 - squared / variance if variance > 0 else None,
        "bias": stats.mean("bias"),
    }


def _regression_influences(stats: Statistics, y_N: Floats, scores_NK: Floats) -> dict[str, Floats]:
    """rmse and r2 by the chain rule from the mean squared error and the label's variance."""
    squared, variance = stats.mean("squared_error"), _label_variance(stats)
    error_N = scores_NK[:, 0] - y_N
    excess_N = np.square(error_N) - squared
    found = {
        "mae": np.abs(error_N) - stats.mean("mae"),
        "rmse": excess_N / (2 * np.sqrt(squared)) if squared > 0 else np.zeros_like(error_N),
        "bias": error_N - stats.mean("bias"),
    }
    if variance > 0:
        spread_N = np.square(y_N - stats.mean("label")) - variance
        found["r2"] = -(excess_N - squared / variance * spread_N) / variance
    return found


_ROW_VALUES: dict[Task, Callable[[Floats, Floats], dict[str, Floats]]] = {
    "binary": _binary_rows,
    "multiclass": _class_rows,
    "regression": _regression_rows,
}
_VALUES: dict[Task, Callable[[Statistics], dict[str, float | None]]] = {
    "binary": _class_values,
    "multiclass": _class_values,
    "regression": _regression_values,
}
_INFLUENCES: dict[Task, Callable[[Statistics, Floats, Floats], dict[str, Floats]]] = {
    "binary": _class_influences,
    "multiclass": _class_influences,
    "regression": _regression_influences,
}
