"""The whole path of one use case: data, sweep, training, evaluation, gates, release, endpoint."""

from typing import Any

from rayapp.config.operations import GoldenPathConfig
from rayapp.config.release import ReleaseConfig
from rayapp.config.serving import ServeFile
from rayapp.config.snapshot import SnapshotConfig
from rayapp.config.sweep import SweepConfig
from rayapp.config.training import TrainConfig
from rayapp.families.scores import goal
from rayapp.flows.deploying import deployed
from rayapp.flows.references import one_endpoint
from rayapp.flows.releasing import Released, champion, golden_of, release_stage
from rayapp.flows.session import Session
from rayapp.flows.training import snapshot_stage, train_stage, tune_stage
from rayapp.register.page import card_page_uri
from rayapp.schemas.model import Run


def golden_path(session: Session, config: GoldenPathConfig) -> dict[str, Any]:
    """Run every stage, reusing what has not changed. Returns the figures of the job's last line."""
    releases = [session.load(ReleaseConfig, path) for path in config.releases]
    trainings = [session.load(TrainConfig, release.training) for release in releases]
    endpoint = one_endpoint(releases)
    # what would be refused after the training is told before it
    champion(session, endpoint)
    for release in releases:
        golden_of(session, release)
    with session.exclusive(f"golden-path-{endpoint}"):
        session.say(f"[1/5] snapshot  {config.snapshot}")
        snapshot = snapshot_stage(session, session.load(SnapshotConfig, config.snapshot))
        session.say(f"[2/5] tune      {config.sweep or 'no sweep'}")
        trainings = _with_sweep(session, config, releases, trainings)
        session.say(f"[3/5] train     {', '.join(t.name for t in trainings)}")
        runs = [train_stage(session, training) for training in trainings]
        chosen = _best(runs)
        session.say(f"[4/5] release   {runs[chosen].run_id} has the best tune-split metric")
        released = release_stage(session, releases[chosen], runs[chosen])
        session.say(f"[5/5] serve     {config.serving or 'nothing to deploy'}")
        served = _deployed(session, config.serving) if config.serving else {}
    return {
        "endpoint": endpoint,
        "release_id": released.signed.release_id,
        "is_new": released.is_new,
        "card": card_page_uri(released.signed.manifest.card_uri),
        "snapshot_id": snapshot.content_digest(),
        "runs": {run.config["name"]: run.metrics for run in runs},
        **_test_metrics(released),
        **served,
        "problems": [*released.problems, *served.get("problems", ())],
    }


def _deployed(session: Session, serving: str) -> dict[str, Any]:
    """Beside whatever else is served: a path is about its own endpoint."""
    file = session.load(ServeFile, serving)
    done = deployed(session, file, keeps_others=True)
    return {**done.urls, "problems": done.problems}


def _with_sweep(
    session: Session,
    config: GoldenPathConfig,
    releases: list[ReleaseConfig],
    trainings: list[TrainConfig],
) -> list[TrainConfig]:
    """The training configs, the swept one with the settings that the sweep found."""
    if config.sweep is None:
        return trainings
    sweep = session.load(SweepConfig, config.sweep)
    tuned = tune_stage(session, sweep)
    return [
        tuned.config if release.training == sweep.training else training
        for release, training in zip(releases, trainings, strict=True)
    ]


def _best(runs: list[Run]) -> int:
    """Index of the run with the best tune-split metric; the first of equals."""
    metric, direction = goal(runs[0].bundle.bundle_schema.task)
    sign = 1.0 if direction == "max" else -1.0
    return max(range(len(runs)), key=lambda i: (sign * runs[i].metrics[metric], -i))


def _test_metrics(released: Released) -> dict[str, Any]:
    if released.evaluated is None:
        return {}
    estimates = released.evaluated.evaluation.overall.estimates
    return {
        "report": released.evaluated.report_uri,
        "test": {e.metric: [e.value, e.low, e.high] for e in estimates},
    }
