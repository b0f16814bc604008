"""Data, training and sweeps: each stage makes sure of its inputs, and reuses what is there."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rayapp.config.prompts import PromptConfig
from rayapp.config.snapshot import SnapshotConfig
from rayapp.config.sweep import SweepConfig
from rayapp.config.training import TrainConfig, require_prompt, require_task
from rayapp.data.leakage import refuse_outcome_features, resolve_features
from rayapp.data.read import read_view
from rayapp.data.snapshot import build_snapshot, source_digest
from rayapp.data.telltale import refuse_suspicious_features
from rayapp.families.base import Base
from rayapp.families.bundle import described
from rayapp.families.llm.rows import ROWS_PER_BLOCK
from rayapp.flows.newest import newest, reuse
from rayapp.flows.room import ONE_CPU, telling_waits
from rayapp.flows.session import Session, environment_lock
from rayapp.flows.weights import base_weights
from rayapp.llm.environment import libraries_of, tuning_env
from rayapp.register.tracking import open_tracker
from rayapp.schemas.data import Snapshot
from rayapp.schemas.model import BundleRef, Feature, Run
from rayapp.schemas.operations import EventKind, Tracker
from rayapp.schemas.record import short
from rayapp.storage import commit_folder, digest_folder, exists, folder_digest
from rayapp.train.fit import fit
from rayapp.tune.sweep import sweep


@dataclass(frozen=True)
class Tuned:
    """A training config with the settings a sweep found, and what the sweep cost."""

    config: TrainConfig
    settings: Mapping[str, Any]
    metric: float
    num_trials: int
    used_s: float


def snapshot_stage(session: Session, config: SnapshotConfig) -> Snapshot:
    """The snapshot of what the sources hold now; built only when a source or a rule changed."""
    key = session.key("snapshot", config.model_dump(mode="json"), source_digest(config))
    done = session.ledger.latest(EventKind.SNAPSHOT_BUILT, key=key)
    if done is not None:
        session.say(f"snapshot {config.name}: unchanged, reusing {short(done.subject)}")
        reuse(session.ledger, "snapshot", done, config.name)
        return done.record(Snapshot, "snapshot")
    with session.exclusive(f"snapshot-{config.name}"), telling_waits(session, ONE_CPU):
        snapshot = build_snapshot(config, session.workspace, session.say)
    snapshot_id = snapshot.content_digest()
    payload = {"snapshot": snapshot.model_dump(mode="json")}
    session.ledger.append(EventKind.SNAPSHOT_BUILT, snapshot_id, payload, key)
    rows = ", ".join(f"{s.name} {s.num_rows:,}" for s in snapshot.splits)
    session.say(f"snapshot {config.name}: built {short(snapshot_id)} ({rows} rows)")
    return snapshot


def newest_snapshot(session: Session, config_path: str) -> Snapshot:
    """The newest snapshot of this config's name, or one that is built where there is none."""
    config = session.load(SnapshotConfig, config_path)
    event = newest(session.ledger, "snapshot", config.name)
    if event is not None:
        return event.record(Snapshot, "snapshot")
    return snapshot_stage(session, config)


def checked_features(
    session: Session, config: TrainConfig, snapshot: Snapshot
) -> tuple[Feature, ...]:
    """The features of a training config, once both leakage guards have let them pass."""
    features = resolve_features(config.features)
    refuse_outcome_features(features, snapshot.view.columns, snapshot.label)
    snapshot_config = session.load(SnapshotConfig, config.snapshot)
    refuse_suspicious_features(features, snapshot, snapshot_config.view.max_single_feature_auc)
    return features


def train_stage(session: Session, config: TrainConfig) -> Run:
    snapshot = newest_snapshot(session, config.snapshot)
    require_task(config, snapshot.task)
    features = checked_features(session, config, snapshot)
    base = _base(session, config)
    inputs = [config.model_dump(mode="json"), snapshot.content_digest()]
    if base is not None:
        require_prompt(config, base.prompt, [feature.name for feature in features])
        inputs += [
            base.weights.digest,
            libraries_of(base.runtime_env),
            base.prompt.content_digest(),
        ]
    key = session.key("train", *inputs)
    done = session.ledger.latest(EventKind.RUN_FINISHED, key=key)
    if done is not None:
        run = done.record(Run, "run")
        if exists(run.bundle.uri):
            session.say(f"train {config.name}: unchanged, reusing {run.run_id}")
            reuse(session.ledger, "run", done, config.name)
            return run
    with session.exclusive(f"run-{key[:12]}"):
        return _train(session, config, snapshot, features, base, key)


def resolved_config(config: TrainConfig) -> dict[str, Any]:
    """As a run has it: the family's own settings with their defaults."""
    family = config.family_config.model_dump(mode="json")
    return config.model_dump(mode="json") | {config.family: family}


def _base(session: Session, config: TrainConfig) -> Base | None:
    """What the llm family starts from. Raises UserError where it is not there."""
    if config.llm is None:
        return None
    weights = base_weights(session.ledger, config.llm)
    label = session.load(SnapshotConfig, config.snapshot).view.label
    prompt = session.load(PromptConfig, config.llm.prompt).prompt
    return Base(weights, tuning_env(session.environ), prompt, label.fields)


def _train(
    session: Session,
    config: TrainConfig,
    snapshot: Snapshot,
    features: tuple[Feature, ...],
    base: Base | None,
    key: str,
) -> Run:
    run_id = f"run-{key[:12]}"
    started = session.ledger.latest(EventKind.RUN_STARTED, key=key)
    resolved = resolved_config(config)
    tags = {"snapshot": snapshot.content_digest(), "code": session.code_digest, "run_id": run_id}
    with open_tracker(
        session.workspace.mlflow_url,
        session.workspace.mlflow_artifacts,
        experiment=config.name,
        run_name=run_id,
        tags=tags,
        resume_run_id=started.payload["mlflow_run_id"] if started else None,
    ) as tracker:
        if started is None:
            payload = {"mlflow_run_id": tracker.run_id, "config": resolved}
            session.ledger.append(EventKind.RUN_STARTED, run_id, payload, key)
        else:
            session.say(f"train {config.name}: continuing {run_id}, which did not finish")
        _record_inputs(session, tracker, resolved, snapshot)
        waits = telling_waits(session, config.workers.each_needs, config.workers.num_workers)
        with tempfile.TemporaryDirectory() as folder, waits:
            result = fit(
                config=config,
                snapshot=snapshot,
                features=features,
                train=_rows(snapshot, "train"),
                tune=_rows(snapshot, "tune"),
                storage_uri=session.workspace.train_storage,
                run_id=run_id,
                tracker=tracker,
                bundle_folder=Path(folder),
                on_progress=session.say,
                base=base,
            )
            bundle = _commit_bundle(session, Path(folder))
        run = Run(
            run_id=run_id,
            mlflow_run_id=tracker.run_id,
            snapshot_id=snapshot.content_digest(),
            bundle=bundle,
            config=resolved,
            metrics=result.metrics,
            num_rows=result.num_rows,
            cpu_s=result.cpu_s,
            code_digest=session.code_digest,
            environment_digest=session.environment_digest,
        )
        session.ledger.append(
            EventKind.RUN_FINISHED, run_id, {"run": run.model_dump(mode="json")}, key
        )
    session.say(f"train {config.name}: {_told(run)}")
    return run


def _rows(snapshot: Snapshot, split: str) -> Any:
    if snapshot.task != "text":
        return read_view(snapshot, split)
    (num_rows,) = [s.num_rows for s in snapshot.splits if s.name == split]
    return read_view(snapshot, split, num_blocks=max(1, num_rows // ROWS_PER_BLOCK))


def _told(run: Run) -> str:
    shown = ", ".join(f"{name} {value:.4f}" for name, value in sorted(run.metrics.items()))
    return f"{run.run_id} finished ({shown}; {run.cpu_s:.0f} CPU-s)"


def _record_inputs(
    session: Session, tracker: Tracker, resolved: Mapping[str, Any], snapshot: Snapshot
) -> None:
    tracker.log_params(dict(resolved))
    tracker.log_text(snapshot.model_dump_json(indent=1), "snapshot.json")
    tracker.log_text(environment_lock().decode(), "environment.txt")


def _commit_bundle(session: Session, folder: Path) -> BundleRef:
    digest = folder_digest(digest_folder(folder))
    uri = session.workspace.artifact("bundles", digest)
    files = commit_folder(folder, uri)
    schema, _ = described(folder)
    return BundleRef(uri=uri, digest=digest, files=files, bundle_schema=schema)


def tune_stage(session: Session, config: SweepConfig) -> Tuned:
    """Search the family settings of the sweep's training config on the tune split."""
    training = session.load(TrainConfig, config.training)
    snapshot = newest_snapshot(session, training.snapshot)
    features = checked_features(session, training, snapshot)
    key = session.key(
        "tune",
        config.model_dump(mode="json"),
        training.model_dump(mode="json"),
        snapshot.content_digest(),
    )
    done = session.ledger.latest(EventKind.SWEEP_FINISHED, key=key)
    if done is not None:
        session.say(f"tune {training.name}: unchanged, reusing {done.subject}")
        return _tuned(training, done.payload)
    name = f"sweep-{key[:12]}"
    with session.exclusive(name):
        with (
            open_tracker(
                session.workspace.mlflow_url,
                session.workspace.mlflow_artifacts,
                experiment=training.name,
                run_name=name,
                tags={"snapshot": snapshot.content_digest(), "code": session.code_digest},
            ) as tracker,
            telling_waits(session, training.workers.each_needs),
        ):
            found = sweep(
                config=config,
                training=training,
                snapshot=snapshot,
                features=features,
                train=read_view(snapshot, "train"),
                tune=read_view(snapshot, "tune"),
                storage_uri=session.workspace.train_storage,
                name=name,
                tracker=tracker,
                on_progress=session.say,
            )
        payload = {
            "best_settings": found.best_settings,
            "metric": found.best_metric,
            "num_trials": len(found.trials),
            "used_s": found.used_s,
            "training": config.training,
        }
        session.ledger.append(EventKind.SWEEP_FINISHED, name, payload, key)
    session.say(
        f"tune {training.name}: {len(found.trials)} trials in {found.used_s:.0f} CPU-s of "
        f"{config.budget_s:.0f}, best {found.best_metric:.4f} with {found.best_settings}"
    )
    return _tuned(training, payload)


def _tuned(training: TrainConfig, payload: Mapping[str, Any]) -> Tuned:
    settings = training.family_config.model_dump() | payload["best_settings"]
    data = training.model_dump() | {training.family: settings}
    return Tuned(
        config=TrainConfig.model_validate(data),
        settings=payload["best_settings"],
        metric=payload["metric"],
        num_trials=payload["num_trials"],
        used_s=payload["used_s"],
    )
