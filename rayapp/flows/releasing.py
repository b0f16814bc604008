"""From a finished run to the champion: evaluate, gate, seal, register, promote."""

import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rayapp.config.golden import GoldenConfig
from rayapp.config.release import PolicyConfig, ReleaseConfig
from rayapp.config.training import TrainConfig
from rayapp.data.read import label_shares, read_view, sample_view
from rayapp.errors import GateRefused, TamperedError, UserError
from rayapp.evaluate.compute import evaluate
from rayapp.evaluate.declared import declared_metrics
from rayapp.evaluate.gates import check_policy, decide
from rayapp.evaluate.report import render
from rayapp.flows.judging import judge_inputs
from rayapp.flows.kept import evaluated_before, kept_evaluation, require_version
from rayapp.flows.language import evaluate_language
from rayapp.flows.newest import newest
from rayapp.flows.room import ONE_CPU, telling_waits
from rayapp.flows.session import Session
from rayapp.flows.training import resolved_config, train_stage
from rayapp.register.card import render_card
from rayapp.register.manifest import manifest_uri, read_manifest, seal, write_manifest
from rayapp.register.page import card_page_uri, render_card_html
from rayapp.register.registry import open_registry
from rayapp.register.signing import load_or_create_key
from rayapp.register.tracking import open_tracker
from rayapp.release.difference import other_policy, other_settings, policy_digest
from rayapp.release.promote import champion_pointer, promote, refuse_unless_passed
from rayapp.schemas.data import Snapshot
from rayapp.schemas.model import Run
from rayapp.schemas.operations import EventKind, Pointer
from rayapp.schemas.record import short
from rayapp.schemas.release import Evaluation, Manifest, SignedManifest, Verdict
from rayapp.storage import commit_bytes, fetch_bundle, sha256


@dataclass(frozen=True)
class Evaluated:
    """A candidate with its evidence. before: the champion's pointer when they were compared."""

    run: Run
    snapshot: Snapshot
    evaluation: Evaluation
    evaluation_uri: str
    measured_uri: str
    """What the evaluation took, beside its results."""
    report_uri: str
    verdicts: tuple[Verdict, ...]
    policy: PolicyConfig
    before: Pointer | None


@dataclass(frozen=True)
class Released:
    signed: SignedManifest
    evaluated: Evaluated | None
    """None when the release was the champion already and nothing had to be compared."""
    is_new: bool
    problems: tuple[str, ...] = ()
    """What the config asks for and was not done, each with a next step."""


def newest_run(session: Session, training_path: str) -> Run:
    """The newest run of a training config's name, whatever its settings, which a sweep may have
    found; trains one where there is none."""
    config = session.load(TrainConfig, training_path)
    event = newest(session.ledger, "run", config.name)
    if event is None:
        return train_stage(session, config)
    run = event.record(Run, "run")
    if others := other_settings(run.config, resolved_config(config)):
        session.say(
            f"train {config.name}: the newest is {run.run_id}, with other settings than "
            f"{training_path}: {', '.join(others)}; to release what the file says, train it first"
        )
    return run


def champion(session: Session, endpoint: str) -> tuple[Pointer, SignedManifest] | None:
    """The endpoint's champion with its verified manifest, or None. Raises TamperedError."""
    pointer = session.ledger.pointer(champion_pointer(endpoint))
    if pointer is None:
        return None
    signed = read_manifest(session.workspace, pointer.target)
    if signed.manifest.endpoint != endpoint:
        raise TamperedError(
            f"{endpoint!r} points at release {short(signed.release_id)}, which was sealed for "
            f"{signed.manifest.endpoint!r}",
            "move the pointer back to a release of this endpoint",
        )
    return pointer, signed


def release_of(session: Session, endpoint: str, release_id: str | None = None) -> SignedManifest:
    """The endpoint's champion, or one release of its own that passed its gates, champion or not.

    Raises UserError for an endpoint without a champion, and for a release that is not its own.
    """
    if release_id is None:
        current = champion(session, endpoint)
        if current is None:
            raise UserError(
                f"endpoint {endpoint!r} has no champion",
                "release one: rayapp submit configs/golden_paths/…",
            )
        return current[1]
    sealed = session.ledger.latest(EventKind.RELEASE_SEALED, subject=release_id)
    if sealed is None or sealed.payload["endpoint"] != endpoint:
        found = "is not known" if sealed is None else f"is of {sealed.payload['endpoint']!r}"
        raise UserError(
            f"release {short(release_id)} {found}, wanted is one of {endpoint!r} that passed",
            "take a release id that `release` or `golden_path` printed for this endpoint",
        )
    return read_manifest(session.workspace, release_id)


def evaluate_stage(session: Session, config: ReleaseConfig, run: Run) -> Evaluated:
    policy = session.load(PolicyConfig, config.policy)
    snapshot = snapshot_of(session, run)
    declared = declared_metrics(config.evaluation, snapshot.task)
    check_policy(policy, snapshot.task, config.evaluation.slices, declared)
    current = champion(session, config.endpoint)
    before = current[0] if current else None
    asked = _asked(session, config, run, before)
    key = session.key("evaluate", asked, policy.model_dump(mode="json"))
    done = session.ledger.latest(EventKind.EVALUATION_MADE, key=key)
    same = evaluated_before(session.ledger, asked) if done is None else None
    if done is not None:
        session.say(f"evaluate {run.run_id}: unchanged, reusing {done.payload['report_uri']}")
        evaluation = kept_evaluation(done.payload)
    elif same is not None:
        session.say(f"evaluate {run.run_id}: evaluated before, only its gates are others")
        evaluation = same
    else:
        evaluation = _evaluate(session, config, run, snapshot, current)
    verdicts = decide(evaluation, policy)
    folder = session.workspace.artifact("evaluations", evaluation.content_digest())
    measured = f"{folder}/measured-{evaluation.measured.content_digest()}.json"
    report = b"" if done is not None else _report(config, run, evaluation, verdicts)
    evaluated = Evaluated(
        run=run,
        snapshot=snapshot,
        evaluation=evaluation,
        evaluation_uri=f"{folder}/evaluation.json",
        measured_uri=measured,
        # the same evaluation again, where the last one was not recorded, is told at another time
        report_uri=done.payload["report_uri"] if done else f"{folder}/report-{sha256(report)}.html",
        verdicts=verdicts,
        policy=policy,
        before=before,
    )
    if done is None:
        _store_evaluation(session, evaluated, report, key, asked)
    for verdict in verdicts:
        session.say(f"gate {verdict.gate}: {verdict.value} - {verdict.reason}")
    return evaluated


def _asked(session: Session, config: ReleaseConfig, run: Run, before: Pointer | None) -> str:
    """Names all that decides an evaluation's results. Its gates are another matter."""
    golden = golden_of(session, config)
    return session.key(
        "evaluate",
        config.evaluation.model_dump(mode="json", exclude={"workers"}),
        golden.model_dump(mode="json") if golden else None,
        judge_inputs(session, config.evaluation.judge),
        run.run_id,
        run.bundle.digest,
        before.target if before is not None else None,
    )


def golden_of(session: Session, config: ReleaseConfig) -> GoldenConfig | None:
    """The golden set that a release asks, if any. Raises ConfigError where its version had other
    items."""
    if config.evaluation.golden is None:
        return None
    golden = session.load(GoldenConfig, config.evaluation.golden)
    require_version(session.ledger, golden)
    return golden


def _evaluate(
    session: Session,
    config: ReleaseConfig,
    run: Run,
    snapshot: Snapshot,
    current: tuple[Pointer, SignedManifest] | None,
) -> Evaluation:
    if run.bundle.bundle_schema.language is not None:
        return evaluate_language(session, config, run, snapshot, current[1] if current else None)
    with tempfile.TemporaryDirectory() as folder, telling_waits(session, ONE_CPU):
        candidate = Path(folder) / "candidate"
        fetch_bundle(run.bundle, candidate)
        opponent = None
        if current is not None:
            opponent = Path(folder) / "champion"
            fetch_bundle(current[1].manifest.bundle, opponent)
        return evaluate(
            dataset=read_view(snapshot, "test"),
            candidate=candidate,
            champion=opponent,
            config=config.evaluation,
            run_id=run.run_id,
            snapshot_id=snapshot.content_digest(),
            split="test",
            bundle_digest=run.bundle.digest,
            champion_release=current[0].target if current else None,
            label_shares=label_shares(snapshot),
            latency_rows=sample_view(snapshot, "test", None, 200),
        )


def _report(
    config: ReleaseConfig, run: Run, evaluation: Evaluation, verdicts: tuple[Verdict, ...]
) -> bytes:
    schema = run.bundle.bundle_schema
    title = f"{config.endpoint}: {schema.name}"
    extra = {
        "run": run.run_id,
        "snapshot": short(evaluation.snapshot_id),
        "compared with": _opponent(evaluation),
    }
    return render(evaluation, verdicts, title, datetime.now(UTC), schema, extra).encode()


def _opponent(evaluation: Evaluation) -> str:
    """As much of it as people are shown; what weights are called is not cut."""
    found = "no champion yet" if evaluation.champion is None else short(evaluation.champion)
    weights = evaluation.untuned_weights
    return found if weights is None else f"{found}; {weights}, untuned"


def _store_evaluation(
    session: Session, evaluated: Evaluated, report: bytes, key: str, asked: str
) -> None:
    evaluation, run = evaluated.evaluation, evaluated.run
    commit_bytes(evaluated.evaluation_uri, evaluation.canonical())
    commit_bytes(evaluated.measured_uri, evaluation.measured.canonical())
    commit_bytes(evaluated.report_uri, report)
    with open_tracker(
        session.workspace.mlflow_url,
        session.workspace.mlflow_artifacts,
        experiment=run.config["name"],
        run_name=run.run_id,
        tags={},
        resume_run_id=run.mlflow_run_id,
    ) as tracker:
        tracker.log_text(report.decode(), "evaluation/report.html")
        tracker.log_text(evaluation.model_dump_json(indent=1), "evaluation/evaluation.json")
        values = {f"{evaluation.split}_{e.metric}": e.value for e in evaluation.overall.estimates}
        tracker.log_metrics({k: v for k, v in values.items() if v is not None}, step=0)
    payload = {
        "evaluation_uri": evaluated.evaluation_uri,
        "evaluation_digest": evaluation.content_digest(),
        "measured_uri": evaluated.measured_uri,
        "measured_digest": evaluation.measured.content_digest(),
        "report_uri": evaluated.report_uri,
        "report_digest": sha256(report),
        "verdicts": [v.model_dump(mode="json") for v in evaluated.verdicts],
        "asked": asked,
    }
    session.ledger.append(EventKind.EVALUATION_MADE, run.run_id, payload, key)
    session.say(f"evaluate {run.run_id}: report at {evaluated.report_uri}")


def release_stage(session: Session, config: ReleaseConfig, run: Run) -> Released:
    """Evaluate a run, seal the evidence and, if every gate passed, make it the champion.

    Raises ChampionMoved, or GateRefused; then the sealed manifest stays, for a reviewer to read.
    """
    language = run.bundle.bundle_schema.language
    if language is not None and language.method == "full":
        raise UserError(
            f"run {run.run_id} has whole weights, and only adapters are loaded into engines",
            "set `method: lora`, or add the weights by a config of configs/weights/",
        )
    current = champion(session, config.endpoint)
    if current is not None and current[1].manifest.run_id == run.run_id:
        named = f"{short(current[0].target)} is the champion already"
        policy = session.load(PolicyConfig, config.policy)
        problem = other_policy(current[1].manifest, policy, config.policy)
        how = "" if problem is None else f", not by {config.policy}, which was not applied"
        session.say(f"release {config.endpoint}: {named}{how}")
        # the job that promoted it may have died before it got to the registry
        _mirror(session, config.endpoint, current[1])
        problems = () if problem is None else (problem,)
        return Released(current[1], None, is_new=False, problems=problems)
    evaluated = evaluate_stage(session, config, run)
    signed = _seal(session, config, evaluated)
    try:
        subject = f"release {short(signed.release_id)}"
        refuse_unless_passed(subject, evaluated.verdicts, are_reasons_told=True)
    except GateRefused:
        _record(session, EventKind.RELEASE_REFUSED, signed, evaluated)
        raise
    _record(session, EventKind.RELEASE_SEALED, signed, evaluated)
    pointer = promote(session.ledger, signed, evaluated.before.revision if evaluated.before else 0)
    session.say(
        f"release {config.endpoint}: {short(signed.release_id)} is champion (revision "
        f"{pointer.revision})"
    )
    _mirror(session, config.endpoint, signed)
    return Released(signed, evaluated, is_new=True)


def _seal(session: Session, config: ReleaseConfig, evaluated: Evaluated) -> SignedManifest:
    run, snapshot = evaluated.run, evaluated.snapshot
    card = render_card(
        run=run,
        snapshot=snapshot,
        evaluation=evaluated.evaluation,
        verdicts=evaluated.verdicts,
        config=config.card,
        endpoint=config.endpoint,
    ).encode()
    card_uri = f"{session.workspace.artifact('cards', sha256(card))}/card.md"
    commit_bytes(card_uri, card)
    commit_bytes(card_page_uri(card_uri), render_card_html(card.decode()).encode())
    tables = (*snapshot.tables, snapshot.view)
    manifest = Manifest(
        endpoint=config.endpoint,
        created_at=datetime.now(UTC),
        run_id=run.run_id,
        bundle=run.bundle,
        snapshot_id=snapshot.content_digest(),
        data_digests={table.name: table.digest for table in tables},
        contracts=tuple(t.contract for t in snapshot.tables if t.contract is not None),
        config=run.config,
        code_digest=run.code_digest,
        environment_digest=run.environment_digest,
        evaluation_digest=evaluated.evaluation.content_digest(),
        evaluation_uri=evaluated.evaluation_uri,
        verdicts=evaluated.verdicts,
        policy_digest=policy_digest(evaluated.policy),
        card_digest=sha256(card),
        card_uri=card_uri,
        mlflow_run_id=run.mlflow_run_id,
        measured_digest=evaluated.evaluation.measured.content_digest(),
        measured_uri=evaluated.measured_uri,
    )
    signed = seal(manifest, load_or_create_key(session.workspace.keys))
    write_manifest(session.workspace, signed)
    return signed


def _record(
    session: Session, kind: EventKind, signed: SignedManifest, evaluated: Evaluated
) -> None:
    payload = {
        "release_id": signed.release_id,
        "manifest_uri": manifest_uri(session.workspace, signed.release_id),
        "endpoint": signed.manifest.endpoint,
        "run_id": signed.manifest.run_id,
        "verdicts": [v.model_dump(mode="json") for v in evaluated.verdicts],
    }
    session.ledger.append(kind, signed.release_id, payload)


def _mirror(session: Session, endpoint: str, signed: SignedManifest) -> None:
    """MLflow's registry follows the ledger, for people and tools that look there."""
    registry = open_registry(session.workspace.mlflow_url)
    version = registry.register(
        endpoint,
        run_id=signed.manifest.mlflow_run_id,
        source_uri=signed.manifest.bundle.uri,
        release_id=signed.release_id,
        tags={"run_id": signed.manifest.run_id},
    )
    registry.set_champion(endpoint, version)


def snapshot_of(session: Session, run: Run) -> Snapshot:
    event = session.ledger.latest(EventKind.SNAPSHOT_BUILT, subject=run.snapshot_id)
    if event is None:
        raise TamperedError(
            f"run {run.run_id} names snapshot {short(run.snapshot_id)}, which the ledger has not",
            "`rayapp audit verify` tells whether events are missing",
        )
    return event.record(Snapshot, "snapshot")
