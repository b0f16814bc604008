"""One run: encode the snapshot once, fit a family on Ray Train, and leave a bundle.

A run's name and storage decide what happens on a second call: where checkpoints of an unfinished
fit lie, it goes on from the last one. So one run id must always mean the same work.
"""

import logging
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.train import (
    CheckpointConfig,
    DataConfig,
    FailureConfig,
    LoggingConfig,
    RunConfig,
    ScalingConfig,
    TrainingFailedError,
)

from rayapp.config.training import TrainConfig
from rayapp.config.workers import WorkersConfig
from rayapp.errors import RayappError
from rayapp.families.base import RESUME, Base, family
from rayapp.families.bundle import bundle_inputs, write_bundle
from rayapp.families.encoded import EncodedSplits, encode_splits
from rayapp.families.llm.rows import TextSplits, tokenise_splits
from rayapp.schemas.data import Snapshot
from rayapp.schemas.model import BundleSchema, Feature
from rayapp.schemas.operations import Tracker
from rayapp.train.loop import Plan, train_loop
from rayapp.train.relay import Listener, Relay, Spent, Step

log = logging.getLogger(__name__)
Rows = Any  # ray.data.Dataset, which only the data rooms import
Splits = EncodedSplits | TextSplits


@dataclass(frozen=True)
class FitResult:
    """metrics: of the last step, on the tune split. cpu_s: of all workers, lost ones included."""

    metrics: dict[str, float]
    num_rows: int
    cpu_s: float
    history: tuple[Step, ...]


def fit(
    config: TrainConfig,
    snapshot: Snapshot,
    features: Sequence[Feature],
    train: Rows,
    tune: Rows,
    storage_uri: str,
    run_id: str,
    tracker: Tracker,
    bundle_folder: Path,
    on_progress: Callable[[str], None],
    base: Base | None = None,
) -> FitResult:
    """Raises DataError for data that cannot be learned from; retrying will not help.

    on_progress gets one line at a time, from another thread while workers run. base: what the llm
    family starts from, and where it runs.
    """
    splits = _prepared(config, snapshot, features, base, train, tune, on_progress)
    relay: Any = ray.remote(Relay).options(num_cpus=0).remote()
    plan = Plan(
        family=config.family,
        problem=splits.problem(snapshot, config.seed),
        settings=config.family_config.model_dump(),
        checkpoint_every=config.checkpoint_every,
        num_threads=config.workers.num_threads,
        relay=relay,
    )
    show = _Show(config, tracker, on_progress)
    with Listener(relay, show.step):
        result = _run(config, plan, splits, base, storage_uri, run_id)
    spent: Spent = ray.get(relay.spent.remote())
    _write(bundle_folder, config, snapshot, features, splits, result.checkpoint)
    log.info("finished_fit", extra={"run_id": run_id, "cpu_s": spent.cpu_s})
    return FitResult(
        metrics=spent.history[-1].metrics,
        num_rows=splits.num_rows,
        cpu_s=spent.cpu_s,
        history=tuple(spent.history),
    )


def _prepared(
    config: TrainConfig,
    snapshot: Snapshot,
    features: Sequence[Feature],
    base: Base | None,
    train: Rows,
    tune: Rows,
    on_progress: Callable[[str], None],
) -> Splits:
    """Both splits in the form that the family learns from."""
    if config.llm is None:
        encoded = encode_splits(snapshot, features, train, tune)
        on_progress(
            f"train {config.name}: {len(features)} features of {encoded.num_rows:,} rows encoded"
        )
        return encoded
    assert base is not None, "a language model is tuned from weights"
    text = tokenise_splits(snapshot, features, config.llm.model_dump(), base, train, tune)
    on_progress(
        f"train {config.name}: {text.num_rows:,} rows in {text.num_sequences:,} sequences of "
        f"{config.llm.sequence_tokens} tokens"
        + (f"; {text.num_too_long:,} rows are longer, left out" if text.num_too_long else "")
    )
    return text


class _Show:
    """Sends each step to the tracker and to the person at the terminal."""

    def __init__(
        self, config: TrainConfig, tracker: Tracker, on_progress: Callable[[str], None]
    ) -> None:
        self._name = config.name
        self._unit = family(config.family).unit()
        self._tracker = tracker
        self._on_progress = on_progress
        self._started_s = time.monotonic()
        workers = config.workers
        device = "GPU" if workers.use_gpu else "CPU"
        on_progress(f"train {self._name}: starting {workers.num_workers} {device} worker(s)")

    def step(self, step: Step) -> None:
        self._tracker.log_metrics(step.metrics, step.step)
        metrics = "  ".join(f"{name} {value:.4f}" for name, value in sorted(step.metrics.items()))
        self._on_progress(
            f"train {self._name}: {self._unit} {step.step}/{step.total_steps}  {metrics}  "
            f"({time.monotonic() - self._started_s:.0f} s)"
        )


def _trainer(name: str) -> type[Any]:
    """Ray's trainer. Only the one that is used is imported: each takes seconds."""
    if name == "torch":
        from ray.train.torch import TorchTrainer

        return TorchTrainer
    from ray.train.xgboost import XGBoostTrainer

    return XGBoostTrainer


def _run(
    config: TrainConfig,
    plan: Plan,
    splits: Splits,
    base: Base | None,
    storage_uri: str,
    run_id: str,
) -> Any:
    options = DataConfig.default_ingest_options()
    options.preserve_order = True
    trainer = _trainer(family(config.family).trainer())(
        train_loop,
        train_loop_config={"plan": plan},
        datasets={"train": splits.train, "tune": splits.tune},
        # Every worker measures on the whole tune split, so that all see the same figures.
        dataset_config=DataConfig(datasets_to_split=["train"], execution_options=options),
        scaling_config=scaling(config.workers),
        run_config=RunConfig(  # type: ignore[call-arg]  # mypy sees the old one
            name=run_id,
            storage_path=storage_uri,
            failure_config=FailureConfig(max_failures=config.workers.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            logging_config=LoggingConfig(log_level="WARNING"),
            worker_runtime_env=dict(base.runtime_env) if base is not None else None,
        ),
    )
    try:
        return trainer.fit()
    except TrainingFailedError as failed:
        error: RayappError | None = ray.get(plan.relay.error.remote())
        if error is None:
            raise
        raise error from failed


def scaling(workers: WorkersConfig) -> ScalingConfig:
    """What Ray is asked for. Backend and device follow in the worker, from what it was given."""
    return ScalingConfig(
        num_workers=workers.num_workers,
        use_gpu=workers.use_gpu,
        resources_per_worker=workers.each_needs,
        accelerator_type=workers.accelerator_type,
    )


def _write(
    folder: Path,
    config: TrainConfig,
    snapshot: Snapshot,
    features: Sequence[Feature],
    splits: Splits,
    checkpoint: Any,
) -> None:
    schema = BundleSchema(
        name=config.name,
        family=config.family,
        task=snapshot.task,
        label=snapshot.label,
        classes=snapshot.classes,
        inputs=bundle_inputs(features, snapshot.view.columns),
        features=splits.features,
        language=splits.language if isinstance(splits, TextSplits) else None,
    )

    def copy_model(target: Path) -> None:
        with checkpoint.as_directory() as source:
            ignore = shutil.ignore_patterns(RESUME)
            shutil.copytree(source, target, dirs_exist_ok=True, ignore=ignore)

    write_bundle(folder, schema, splits.profile, copy_model)
