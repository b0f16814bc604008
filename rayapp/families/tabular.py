"""Gradient-boosted trees: XGBoost's histogram method, categories split natively.

Batches are binned into a QuantileDMatrix; the floats they came in are dropped after that. XGBoost
reads its input twice and needs the same order both times, which a BatchSource does not promise, so
one pass over the source is held in memory: 4 bytes a value, until the bins are made.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xgboost as xgb

from rayapp.errors import DataError
from rayapp.families.base import (
    ENCODED_ROWS,
    Batch,
    BatchSource,
    Compute,
    Floats,
    Problem,
    Progress,
    Reading,
)
from rayapp.families.dense import DensePredictor
from rayapp.families.scores import tune_metrics
from rayapp.schemas.data import Task

MODEL_FILE = "model.ubj"
NUM_REPORTS = 10
"""Progress reports of a whole fit, checkpoints aside."""


class Tabular:
    def trainer(self) -> str:
        return "xgboost"

    def unit(self) -> str:
        return "round"

    def reading(self) -> Reading:
        return ENCODED_ROWS

    def num_steps(self, settings: dict[str, Any]) -> int:
        return int(settings["num_rounds"])

    def fit(
        self,
        problem: Problem,
        settings: dict[str, Any],
        train: BatchSource,
        valid: BatchSource | None,
        checkpoint_every: int,
        resume_from: Path | None,
        on_progress: Callable[[Progress], None],
        compute: Compute,
    ) -> None:
        """Between checkpoints the booster is read anew, because XGBoost's column sampler has a
        state that a file does not hold: so a resumed fit grows the same trees as a whole one."""
        total = self.num_steps(settings)
        booster = _read(resume_from, compute.num_threads) if resume_from is not None else None
        done = booster.num_boosted_rounds() if booster is not None else 0
        watch = _Watch(problem, valid, total, checkpoint_every, on_progress)
        if booster is not None and done >= total:
            watch.report(booster, done)
            return
        params = _params(problem, settings, compute)
        rows = _binned(problem, train, int(settings["max_bin"]), compute)
        while done < total:
            until = min(total, (done // checkpoint_every + 1) * checkpoint_every)
            booster = xgb.train(
                params,
                rows,
                num_boost_round=until - done,
                xgb_model=booster,
                callbacks=[watch],
                verbose_eval=False,
            )
            done = until

    def load(self, folder: Path, num_threads: int = 1) -> "TreeModel":
        return TreeModel(_read(folder, num_threads))


class TreeModel:
    def __init__(self, booster: xgb.Booster) -> None:
        objective = json.loads(booster.save_config())["learner"]["objective"]["name"]
        self._task: Task = _TASKS[objective]
        self._predictor = DensePredictor(booster)

    def predict(self, x_NF: Floats) -> Floats:
        return _scores(self._task, self._predictor.predict(x_NF))


_OBJECTIVES: dict[Task, str] = {
    "binary": "binary:logistic",
    "multiclass": "multi:softprob",
    "regression": "reg:squarederror",
}
_TASKS: dict[str, Task] = {objective: task for task, objective in _OBJECTIVES.items()}


def _params(problem: Problem, settings: dict[str, Any], compute: Compute) -> dict[str, Any]:
    params = {
        "objective": _OBJECTIVES[problem.task],
        "tree_method": "hist",
        "device": compute.device,
        "nthread": compute.num_threads,
        "seed": problem.seed,
        # The random state belongs to the round, not to the process (see Tabular.fit).
        "seed_per_iteration": True,
        "disable_default_eval_metric": True,
        "learning_rate": settings["learning_rate"],
    }
    same = (
        "max_depth",
        "min_child_weight",
        "subsample",
        "colsample_bytree",
        "reg_lambda",
    )
    params |= {name: settings[name] for name in (*same, "max_bin")}
    if problem.task == "multiclass":
        params["num_class"] = problem.num_classes
    return params


class _Batches(xgb.DataIter):
    def __init__(self, batches: Sequence[Batch], problem: Problem) -> None:
        super().__init__()
        self._batches = batches
        self._next = 0
        self._names = [f.name for f in problem.features]
        self._types = ["c" if f.kind == "category" else "q" for f in problem.features]

    def reset(self) -> None:
        self._next = 0

    def next(self, input_data: Callable[..., Any]) -> bool:
        if self._next == len(self._batches):
            return False
        batch = self._batches[self._next]
        self._next += 1
        input_data(
            data=batch.x_NF,
            label=batch.y_N,
            feature_names=self._names,
            feature_types=self._types,
        )
        return True


def _binned(
    problem: Problem, train: BatchSource, max_bin: int, compute: Compute
) -> xgb.QuantileDMatrix:
    batches = [batch for batch in train() if batch.y_N.size]
    if not batches:
        raise DataError("a pass over the training rows yielded none", "check the train split")
    if not all(np.isfinite(batch.y_N).all() for batch in batches):
        raise DataError("a training label is not finite", "check the snapshot's label expression")
    return xgb.QuantileDMatrix(
        _Batches(batches, problem),
        max_bin=max_bin,
        nthread=compute.num_threads,
        enable_categorical=True,
    )


class _Watch(xgb.callback.TrainingCallback):
    """Turns finished rounds into Progress; measures on the tune split only when it reports."""

    def __init__(
        self,
        problem: Problem,
        valid: BatchSource | None,
        total: int,
        checkpoint_every: int,
        on_progress: Callable[[Progress], None],
    ) -> None:
        self._task = problem.task
        self._total = total
        self._checkpoint_every = checkpoint_every
        self._report_every = max(1, min(checkpoint_every, total // NUM_REPORTS))
        self._on_progress = on_progress
        self._valid, self._y_N = _validation(problem, valid)

    def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
        done = model.num_boosted_rounds()
        if self._is_checkpoint(done) or done % self._report_every == 0:
            self.report(model, done)
        return False

    def _is_checkpoint(self, done: int) -> bool:
        return done >= self._total or done % self._checkpoint_every == 0

    def report(self, booster: xgb.Booster, done: int) -> None:
        metrics: dict[str, float] = {}
        if self._valid is not None:
            # The booster keeps this matrix's margins, so only the new trees are run.
            scores = _scores(self._task, booster.predict(self._valid))
            metrics = tune_metrics(self._task, scores, self._y_N)
            if not np.isfinite(list(metrics.values())).all():
                raise DataError(
                    f"the loss after {done} rounds is not finite: {metrics}",
                    "check the labels, or lower learning_rate",
                )
        self._on_progress(
            Progress(
                step=done,
                total_steps=self._total,
                metrics=metrics,
                is_checkpoint=self._is_checkpoint(done),
                save=lambda folder: _write(booster, folder),
            )
        )


def _validation(problem: Problem, valid: BatchSource | None) -> tuple[xgb.DMatrix | None, Floats]:
    batches = [batch for batch in valid() if batch.y_N.size] if valid is not None else []
    if not batches:
        return None, np.empty(0, dtype=np.float32)
    matrix = xgb.DMatrix(
        np.concatenate([batch.x_NF for batch in batches]),
        feature_names=[f.name for f in problem.features],
        feature_types=["c" if f.kind == "category" else "q" for f in problem.features],
        enable_categorical=True,
    )
    return matrix, np.concatenate([batch.y_N for batch in batches])


def _scores(task: Task, raw: Floats) -> Floats:
    if task == "binary":
        scores_NK = np.empty((len(raw), 2), raw.dtype)
        np.subtract(1, raw, out=scores_NK[:, 0])
        scores_NK[:, 1] = raw
        return scores_NK
    return raw.reshape(len(raw), -1)


def _write(booster: xgb.Booster, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    booster.save_model(folder / MODEL_FILE)


def _read(folder: Path, num_threads: int) -> xgb.Booster:
    booster = xgb.Booster({"nthread": num_threads})
    booster.load_model(folder / MODEL_FILE)
    return booster
