"""One stage at a time, as the jobs of the same names run them."""

from typing import Any

from rayapp.config.release import ReleaseConfig
from rayapp.config.snapshot import SnapshotConfig
from rayapp.config.sweep import SweepConfig
from rayapp.config.training import TrainConfig, require_adapter
from rayapp.flows.releasing import Evaluated, evaluate_stage, newest_run, release_stage
from rayapp.flows.session import Session
from rayapp.flows.training import snapshot_stage, train_stage, tune_stage
from rayapp.release.promote import refuse_unless_passed
from rayapp.schemas.data import TableVersion


def build_snapshot(session: Session, config: SnapshotConfig) -> dict[str, Any]:
    snapshot = snapshot_stage(session, config)
    return {
        "snapshot_id": snapshot.content_digest(),
        "tables": {t.name: _table_figures(t) for t in (*snapshot.tables, snapshot.view)},
        "splits": {split.name: split.num_rows for split in snapshot.splits},
    }


def _table_figures(table: TableVersion) -> dict[str, Any]:
    shown = {"digest", "num_rows", "num_quarantined", "version", "watermark"}
    return table.model_dump(mode="json", include=shown)


def train(session: Session, config: TrainConfig) -> dict[str, Any]:
    run = train_stage(session, config)
    return {
        "run_id": run.run_id,
        "snapshot_id": run.snapshot_id,
        "bundle_digest": run.bundle.digest,
        "metrics": run.metrics,
        "num_rows": run.num_rows,
        "cpu_s": run.cpu_s,
    }


def tune(session: Session, config: SweepConfig) -> dict[str, Any]:
    tuned = tune_stage(session, config)
    return {
        "training": config.training,
        "family": tuned.config.family,
        "best_settings": tuned.settings,
        "metric": tuned.metric,
        "num_trials": tuned.num_trials,
        "used_s": tuned.used_s,
    }


def evaluate(session: Session, config: ReleaseConfig) -> dict[str, Any]:
    """Raises GateRefused after the report is stored, when a gate does not pass."""
    evaluated = evaluate_stage(session, config, newest_run(session, config.training))
    refuse_unless_passed(f"run {evaluated.run.run_id}", evaluated.verdicts, are_reasons_told=True)
    return _evaluation_figures(evaluated)


def release(session: Session, config: ReleaseConfig) -> dict[str, Any]:
    """Raises ConfigError, before anything is trained, for what could not be released."""
    require_adapter(session.load(TrainConfig, config.training))
    with session.exclusive(f"release-{config.endpoint}"):
        released = release_stage(session, config, newest_run(session, config.training))
    figures = {
        "endpoint": config.endpoint,
        "release_id": released.signed.release_id,
        "is_new": released.is_new,
        "task": released.signed.manifest.bundle.bundle_schema.task,
        "problems": list(released.problems),
    }
    if released.evaluated is not None:
        figures |= _evaluation_figures(released.evaluated)
    return figures


def _evaluation_figures(evaluated: Evaluated) -> dict[str, Any]:
    estimates = evaluated.evaluation.overall.estimates
    return {
        "run_id": evaluated.run.run_id,
        "report": evaluated.report_uri,
        "test": {e.metric: [e.value, e.low, e.high] for e in estimates},
        "verdicts": {v.gate: v.value for v in evaluated.verdicts},
    }
