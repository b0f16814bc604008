"""What is read from scores, the same for every family: the figures that steer a fit, on the tune
split, and which rows a model is not sure of.

The figures guide training and sweeps only. What a gate reads, with intervals, is made by evaluate.
"""

from typing import Literal

import numpy as np
import numpy.typing as npt

from rayapp.families.base import Floats
from rayapp.schemas.data import Task

TUNE_METRICS = ("auc", "log_loss", "accuracy", "rmse", "mae")
"""Every name that `tune_metrics` gives."""
_SMALLEST = 1e-7  # float32 scores: a certain and wrong answer costs 16 nats, not infinity


def tune_metrics(task: Task, scores_NK: Floats, y_N: Floats) -> dict[str, float]:
    """binary: auc, log_loss; multiclass: log_loss, accuracy; regression: rmse, mae.

    auc is left out where only one class occurs, and everything where there are no rows.
    """
    if not y_N.size:
        return {}
    if task == "regression":
        error_N = scores_NK[:, 0].astype(np.float64) - y_N
        rmse, mae = np.sqrt(np.mean(error_N**2)), np.mean(np.abs(error_N))
        return {"rmse": float(rmse), "mae": float(mae)}
    index_N = y_N.astype(np.int64)
    chosen_N = np.clip(scores_NK[np.arange(len(y_N)), index_N], _SMALLEST, 1.0)
    metrics = {"log_loss": float(-np.mean(np.log(chosen_N.astype(np.float64))))}
    if task == "multiclass":
        return metrics | {"accuracy": float(np.mean(scores_NK.argmax(axis=1) == index_N))}
    area = roc_auc(scores_NK[:, 1], index_N)
    return metrics if area is None else metrics | {"auc": area}


def unsure_rows(scores_NK: Floats, max_error: float) -> list[int]:
    """The rows whose likeliest class is wrong with a higher probability than max_error, by the
    model's own probabilities [N, K] (K ≥ 2)."""
    least = 1 - max_error
    if len(scores_NK) == 1:  # numpy takes 5 µs for what Python does in one
        return [] if max(scores_NK[0].tolist()) >= least else [0]
    return [row for row, best in enumerate(scores_NK.max(axis=1).tolist()) if not best >= least]


def goal(task: Task) -> tuple[str, Literal["max", "min"]]:
    """The one figure that a sweep compares trials by, and a golden path its candidates."""
    goals: dict[Task, tuple[str, Literal["max", "min"]]] = {
        "binary": ("auc", "max"),
        "multiclass": ("log_loss", "min"),
        "regression": ("rmse", "min"),
        "text": ("answer_loss", "min"),
    }
    return goals[task]


def roc_auc(score_N: Floats, index_N: npt.NDArray[np.int64]) -> float | None:
    """P(a positive's score > a negative's), ties counted half; None where a class is missing."""
    _, group_N, count_G = np.unique(score_N, return_inverse=True, return_counts=True)
    rank_G = np.cumsum(count_G) - (count_G - 1) / 2  # mean rank of each group of equal scores
    positive_N = index_N == 1
    num_positive = int(positive_N.sum())
    num_negative = len(index_N) - num_positive
    if not num_positive or not num_negative:
        return None
    rank_sum = rank_G[group_N[positive_N]].sum()
    lowest = num_positive * (num_positive + 1) / 2
    return float((rank_sum - lowest) / (num_positive * num_negative))
