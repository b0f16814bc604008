"""A search over a family's settings: ASHA over Optuna's suggestions, within a budget.

    encode once ─▶ arrays in the object store ─▶ trials (one fit each, in a reused actor) ─▶ best

The budget is compared after every report, so trials that run at the same time can pass it by one
report each. Each finished trial is stored at once: a sweep of the same name and storage that was
cut off takes what its trials found and used into account and runs only those that are missing.
"""

import json
import logging
import os
import typing
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from rayapp.config.sweep import ChoiceSpace, IntegerSpace, Space, SweepConfig, UniformSpace
from rayapp.config.training import TrainConfig
from rayapp.errors import DataError
from rayapp.families.base import Batch
from rayapp.families.encoded import EncodedSplits, Rows, encode_splits
from rayapp.families.scores import TUNE_METRICS, goal
from rayapp.schemas.data import Snapshot
from rayapp.schemas.model import Feature
from rayapp.schemas.operations import Tracker
from rayapp.storage import commit_bytes, exists, read_bytes
from rayapp.tune.space import check_space, starting_point
from rayapp.tune.trial import TrialData, run_trial

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trial:
    """One trial's last report. used_s: CPU-seconds, or GPU-seconds where trials hold a GPU."""

    settings: dict[str, Any]
    metrics: dict[str, float]
    step: int
    used_s: float


@dataclass(frozen=True)
class SweepResult:
    """best_settings: of the space's keys only, to be laid over the training config's."""

    best_settings: dict[str, Any]
    best_metric: float
    trials: tuple[Trial, ...]
    used_s: float


def sweep(
    config: SweepConfig,
    training: TrainConfig,
    snapshot: Snapshot,
    features: Sequence[Feature],
    train: Rows,
    tune: Rows,
    storage_uri: str,
    name: str,
    tracker: Tracker,
    on_progress: Callable[[str], None] | None = None,
) -> SweepResult:
    """Raises ConfigError for a space that does not fit the family, before anything runs, and
    DataError where no trial could report a metric within the budget."""
    logging.getLogger("optuna").setLevel(logging.WARNING)  # it speaks of its own storage
    check_space(config, training)
    space = {name: _distribution(space) for name, space in config.space.items()}
    metric, mode = goal(snapshot.task)
    journal = _Journal(f"{storage_uri.rstrip('/')}/{name}")
    watch = Watch(config, metric, mode, journal, tracker, on_progress or log.info)
    left = config.num_trials - len(journal.trials)
    if left > 0 and watch.used_s() < config.budget_s:
        encoded = encode_splits(snapshot, features, train, tune)
        data = _trial_data(config, training, snapshot, encoded)
        search = _search(config, training, space, journal.trials, metric, mode)
        _run(config, training, data, search, watch, left, storage_uri, name)
    if not journal.trials:
        raise DataError(f"{name}: no trial reported {metric}", "raise budget_s or check the data")
    best = watch.best()
    result = SweepResult(
        best_settings=best.settings,
        best_metric=best.metrics[metric],
        trials=tuple(journal.trials),
        used_s=watch.used_s(),
    )
    tracker.log_text(json.dumps(asdict(result), indent=1), "sweep.json")
    return result


def _distribution(space: Space) -> BaseDistribution:
    match space:
        case UniformSpace():
            return FloatDistribution(space.low, space.high, log=space.kind == "log_uniform")
        case IntegerSpace():
            return IntDistribution(space.low, space.high)
        case ChoiceSpace():
            return CategoricalDistribution(space.values)
    typing.assert_never(space)


class _Journal:
    """The finished trials of a sweep, one file each."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self.trials: list[Trial] = []
        while exists(self._next()):
            self.trials.append(Trial(**json.loads(read_bytes(self._next()))))

    def add(self, trial: Trial) -> None:
        commit_bytes(self._next(), json.dumps(asdict(trial)).encode())
        self.trials.append(trial)

    def _next(self) -> str:
        return f"{self._uri}/trial-{len(self.trials):04}.json"


class Budget(tune.Stopper):
    """Stops every trial once they have together used what is left of the budget."""

    def __init__(self, left_s: float) -> None:
        self._left_s = left_s
        self._used_s: dict[str, float] = {}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        self._used_s[trial_id] = result["used_s"]
        return False

    def stop_all(self) -> bool:
        return sum(self._used_s.values()) >= self._left_s


class Watch(tune.Callback):
    """Stores each trial that ends, and shows every report. Runs in the driver."""

    def __init__(
        self,
        config: SweepConfig,
        metric: str,
        mode: str,
        journal: _Journal,
        tracker: Tracker,
        on_progress: Callable[[str], None],
    ) -> None:
        self._config = config
        self._metric = metric
        self._sign = 1 if mode == "max" else -1
        self._journal = journal
        self._tracker = tracker
        self._on_progress = on_progress
        self._running_s: dict[str, float] = {}
        self._numbers: dict[str, int] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Tune stores its callbacks beside the experiment; ours is never restored from there."""
        return {}

    def used_s(self) -> float:
        return sum(t.used_s for t in self._journal.trials) + sum(self._running_s.values())

    def best(self) -> Trial:
        return max(self._journal.trials, key=lambda t: self._sign * t.metrics[self._metric])

    def on_trial_result(
        self,
        iteration: int,
        trials: list[Any],
        trial: Any,
        result: dict[str, Any],
        **_: Any,
    ) -> None:
        self._running_s[trial.trial_id] = result["used_s"]
        self._on_progress(
            f"tune: trial {self._name(trial)}  step {result['step']}  "
            f"{self._metric} {result[self._metric]:.4f}  "
            f"({self.used_s():.0f} of {self._config.budget_s:.0f} s used)"
        )

    def _name(self, trial: Any) -> str:
        """A trial's number is where it began, whichever ends first."""
        begun = len(self._journal.trials) + len(self._running_s)
        number = self._numbers.setdefault(trial.trial_id, begun)
        return f"{number}/{self._config.num_trials}"

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        result = trial.last_result
        if self._metric not in result:
            return  # stopped before its first report
        name = self._name(trial)
        self._running_s.pop(trial.trial_id, None)
        metrics = {name: float(result[name]) for name in TUNE_METRICS if name in result}
        self._journal.add(Trial(trial.config, metrics, result["step"], result["used_s"]))
        numbers = {k: v for k, v in trial.config.items() if isinstance(v, int | float)}
        self._tracker.log_metrics(metrics | numbers, len(self._journal.trials))
        shown = ", ".join(
            f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}"
            for key, value in trial.config.items()
        )
        self._on_progress(
            f"tune: trial {name}  ended, {shown}  "
            f"{self._metric} {metrics[self._metric]:.4f}, "
            f"best {self.best().metrics[self._metric]:.4f}"
        )


def _trial_data(
    config: SweepConfig,
    training: TrainConfig,
    snapshot: Snapshot,
    encoded: EncodedSplits,
) -> TrialData:
    train, tune_rows = _gather(encoded.train), _gather(encoded.tune)
    if config.max_rows is not None and config.max_rows < len(train.y_N):
        generator = np.random.default_rng(config.seed)
        chosen = np.sort(generator.choice(len(train.y_N), config.max_rows, replace=False))
        train = Batch(train.x_NF[chosen], train.y_N[chosen])
    if snapshot.task == "binary" and np.unique(tune_rows.y_N).size < 2:
        raise DataError("the tune split has one class only", "check the snapshot's splits")
    return TrialData(
        family=training.family,
        problem=encoded.problem(snapshot, training.seed, len(train.y_N)),
        settings=training.family_config.model_dump(),
        train=train,
        tune=tune_rows,
        num_reports=config.num_reports,
        num_threads=max(1, int(training.workers.cpus_per_worker)),
        budget_s=config.budget_s,
    )


def _gather(rows: Rows) -> Batch:
    batches = list(rows.iter_batches(batch_size=None, batch_format="numpy"))
    return Batch(
        np.concatenate([batch["x"] for batch in batches]),
        np.concatenate([batch["y"] for batch in batches]),
    )


def _search(
    config: SweepConfig,
    training: TrainConfig,
    space: dict[str, BaseDistribution],
    done: Sequence[Trial],
    metric: str,
    mode: str,
) -> OptunaSearch:
    """Knows the trials that are done; a fresh search begins with the config's own settings."""
    first = starting_point(config, training)
    points = [t.settings for t in done] or ([first] if first is not None else None)
    return OptunaSearch(
        space=space,
        metric=metric,
        mode=mode,
        points_to_evaluate=points,
        evaluated_rewards=[t.metrics[metric] for t in done] or None,
        seed=config.seed + len(done),
    )


def _run(
    config: SweepConfig,
    training: TrainConfig,
    data: TrialData,
    search: OptunaSearch,
    watch: Watch,
    num_trials: int,
    storage_uri: str,
    name: str,
) -> None:
    resources = {name.lower(): number for name, number in training.workers.each_needs.items()}
    metric, mode = goal(data.problem.task)
    trainable = tune.with_parameters(run_trial, data=data)
    tuner = tune.Tuner(
        tune.with_resources(trainable, resources),
        tune_config=tune.TuneConfig(
            metric=metric,
            mode=mode,
            search_alg=search,
            scheduler=ASHAScheduler(
                max_t=config.num_reports,
                grace_period=min(config.grace_reports, config.num_reports),
                reduction_factor=config.reduction_factor,
            ),
            num_samples=num_trials,
            max_concurrent_trials=config.num_concurrent,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name=f"{name}-{uuid.uuid4().hex[:6]}",
            storage_path=storage_uri,
            stop=Budget(config.budget_s - watch.used_s()),
            callbacks=[watch],
            verbose=0,
        ),
    )
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # else Tune prints a box whatever `verbose` is
    grid = tuner.fit()
    for error in grid.errors:
        log.error("failed_trial", exc_info=error, extra={"sweep": name})
    if grid.errors and grid.num_terminated == 0:
        raise grid.errors[0]
