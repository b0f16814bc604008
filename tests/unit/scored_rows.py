"""Labels and scores of models whose quality is known."""

import numpy as np

from rayapp.evaluate.statistics import Floats
from rayapp.schemas.data import Task


def binary_rows(rng: np.random.Generator, num_rows: int, signal: float) -> tuple[Floats, Floats]:
    y_N = (rng.random(num_rows) < 0.25).astype(np.float64)
    score_N = 1 / (1 + np.exp(1.5 - signal * y_N - rng.normal(size=num_rows)))
    score_N = score_N.astype(np.float32).astype(np.float64)
    return y_N, np.stack([1 - score_N, score_N], axis=1)


def multiclass_rows(rng: np.random.Generator, num_rows: int) -> tuple[Floats, Floats]:
    y_N = rng.integers(0, 3, num_rows).astype(np.float64)
    logit_NK = rng.normal(size=(num_rows, 3)) + 1.2 * np.eye(3)[y_N.astype(int)]
    scores_NK = np.exp(logit_NK)
    return y_N, scores_NK / scores_NK.sum(axis=1, keepdims=True)


def regression_rows(rng: np.random.Generator, num_rows: int) -> tuple[Floats, Floats]:
    y_N = rng.normal(50, 10, num_rows)
    return y_N, (y_N + rng.normal(1, 5, num_rows))[:, None]


def rows_of(task: Task, num_rows: int, seed: int = 0) -> tuple[Floats, Floats]:
    rng = np.random.default_rng(seed)
    if task == "binary":
        return binary_rows(rng, num_rows, 1.0)
    return (
        multiclass_rows(rng, num_rows) if task == "multiclass" else regression_rows(rng, num_rows)
    )
