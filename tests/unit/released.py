"""One small release with everything it rests on, written as the flows write it."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rayapp.config.release import CardConfig
from rayapp.ledger import Ledger
from rayapp.register.card import render_card
from rayapp.register.manifest import manifest_uri, seal, write_manifest
from rayapp.register.signing import load_or_create_key
from rayapp.release.promote import promote
from rayapp.schemas.data import Column, ContractRef, Snapshot, SplitSize, TableVersion
from rayapp.schemas.model import BundleRef, BundleSchema, EncodedFeature, Run
from rayapp.schemas.operations import EventKind
from rayapp.schemas.release import (
    Estimate,
    Evaluation,
    Latency,
    Manifest,
    SignedManifest,
    SliceEvaluation,
    Verdict,
)
from rayapp.storage import Workspace, commit_bytes, commit_folder, folder_digest, read_bytes, sha256

ENDPOINT = "flight-delay"
NOW = datetime(2013, 12, 1, tzinfo=UTC)
PASSED = Verdict(gate="useful", value="pass", reason="auc 0.74 [0.73, 0.75] is over 0.70")
UNDECIDED = Verdict(
    gate="slices", value="inconclusive", reason="carrier=AS | few rows", needs_rows=900
)
CARD = CardConfig(
    intended_use="Warn passengers.",
    out_of_scope="Other airports.",
    owner="flight-operations",
    license="cc0-1.0",
)


@dataclass(frozen=True)
class Released:
    workspace: Workspace
    ledger: Ledger
    snapshot: Snapshot
    run: Run
    evaluation: Evaluation
    signed: SignedManifest


def make_snapshot(workspace: Workspace) -> Snapshot:
    """Two tables whose digest is the SHA-256 of one file; `digest_of_table` recomputes it."""
    column = Column(name="dep_delay", type="number", nullable=True)
    tables = []
    for name, content in (("flights", b"rows of flights"), ("view", b"rows of the view")):
        uri = workspace.table(name)
        commit_bytes(f"{uri}/part-0", content)
        contract = ContractRef(id="flights", version="1.2.0", digest="c" * 64)
        tables.append(
            TableVersion(
                name=name,
                uri=uri,
                version=3,
                digest=sha256(content),
                num_rows=1000,
                num_quarantined=7,
                columns=(column,),
                watermark=None,
                contract=contract if name == "flights" else None,
            )
        )
    return Snapshot(
        name="flight-delay",
        task="binary",
        tables=(tables[0],),
        view=tables[1],
        label="late",
        classes=("on_time", "late"),
        time_column="scheduled_departure",
        splits=(SplitSize(name="train", num_rows=800), SplitSize(name="test", num_rows=200)),
        config_digest="d" * 64,
    )


def digest_of_table(version: TableVersion) -> str:
    return sha256(read_bytes(f"{version.uri}/part-0"))


def make_run(workspace: Workspace, snapshot: Snapshot, folder: Path) -> Run:
    local = folder / "bundle"
    (local / "model").mkdir(parents=True)
    (local / "schema.json").write_text('{"name": "trees"}')
    (local / "model" / "trees.ubj").write_bytes(bytes(range(256)))
    uri = workspace.artifact("bundles", "b1")
    files = commit_folder(local, uri)
    schema = BundleSchema(
        name="flight-delay-trees",
        family="tabular",
        task="binary",
        label="late",
        classes=("on_time", "late"),
        inputs=(Column(name="dep_delay", type="number", nullable=True),),
        features=(EncodedFeature(name="delay", expression="dep_delay", kind="number"),),
    )
    return Run(
        run_id="run-1",
        mlflow_run_id="m-1",
        snapshot_id=snapshot.content_digest(),
        bundle=BundleRef(uri=uri, digest=folder_digest(files), files=files, bundle_schema=schema),
        config={"name": "flight-delay-trees", "tabular": {"max_depth": 6}},
        metrics={"auc": 0.75},
        num_rows=800,
        cpu_s=12.0,
        code_digest="e" * 64,
        environment_digest="f" * 64,
    )


def estimate(value: float | None, metric: str = "auc", num_rows: int = 200) -> Estimate:
    low, high = (None, None) if value is None else (value - 0.01, value + 0.01)
    return Estimate(
        metric=metric, value=value, low=low, high=high, num_rows=num_rows, confidence=0.95
    )


def make_evaluation(run: Run, **auc_of_slice: float | None) -> Evaluation:
    """Overall AUC 0.7412; one slice `carrier=<name>` of 50 rows for each keyword."""
    return Evaluation(
        run_id=run.run_id,
        snapshot_id=run.snapshot_id,
        split="test",
        task="binary",
        bundle_digest=run.bundle.digest,
        champion=None,
        overall=SliceEvaluation(
            slice="", num_rows=200, estimates=(estimate(0.7412), estimate(None, "log_loss"))
        ),
        slices=tuple(
            SliceEvaluation(
                slice=f"carrier={name}", num_rows=50, estimates=(estimate(auc, num_rows=50),)
            )
            for name, auc in auc_of_slice.items()
        ),
        curves=(),
        label_shares=(),
        latency=Latency(p50_ms=1.25, p95_ms=2.5, p99_ms=4.75, num_calls=300),
    )


def release(folder: Path) -> Released:
    """A promoted release in a fresh workspace below `folder`."""
    workspace = Workspace(str(folder / "workspace"))
    workspace.local.mkdir()
    ledger = Ledger.of(workspace, "tester")
    snapshot = make_snapshot(workspace)
    run = make_run(workspace, snapshot, folder)
    evaluation = make_evaluation(run, AA=0.80, AS=0.61)
    snapshot_id = snapshot.content_digest()
    ledger.append(
        EventKind.SNAPSHOT_BUILT, snapshot_id, {"snapshot": snapshot.model_dump(mode="json")}
    )
    ledger.append(EventKind.RUN_FINISHED, run.run_id, {"run": run.model_dump(mode="json")})
    evidence = workspace.artifact("evaluations", evaluation.content_digest())
    commit_bytes(f"{evidence}/evaluation.json", evaluation.canonical())
    commit_bytes(f"{evidence}/report.html", b"<html></html>")
    commit_bytes(f"{evidence}/measured.json", evaluation.measured.canonical())
    payload = {
        "evaluation_uri": f"{evidence}/evaluation.json",
        "evaluation_digest": evaluation.content_digest(),
        "measured_uri": f"{evidence}/measured.json",
        "measured_digest": evaluation.measured.content_digest(),
        "report_uri": f"{evidence}/report.html",
        "verdicts": [PASSED.model_dump(mode="json")],
    }
    ledger.append(EventKind.EVALUATION_MADE, run.run_id, payload)
    signed = seal_release(workspace, snapshot, run, evaluation)
    sealed = {
        "release_id": signed.release_id,
        "manifest_uri": manifest_uri(workspace, signed.release_id),
        "endpoint": ENDPOINT,
        "run_id": run.run_id,
    }
    ledger.append(EventKind.RELEASE_SEALED, signed.release_id, sealed)
    promote(ledger, signed, 0)
    return Released(workspace, ledger, snapshot, run, evaluation, signed)


def seal_release(
    workspace: Workspace, snapshot: Snapshot, run: Run, evaluation: Evaluation
) -> SignedManifest:
    card = render_card(run, snapshot, evaluation, (PASSED,), CARD, ENDPOINT).encode()
    card_uri = f"{workspace.artifact('cards', sha256(card))}/card.md"
    commit_bytes(card_uri, card)
    evidence = workspace.artifact("evaluations", evaluation.content_digest())
    manifest = Manifest(
        endpoint=ENDPOINT,
        created_at=NOW,
        run_id=run.run_id,
        bundle=run.bundle,
        snapshot_id=run.snapshot_id,
        data_digests={t.name: t.digest for t in (*snapshot.tables, snapshot.view)},
        contracts=tuple(t.contract for t in snapshot.tables if t.contract is not None),
        config=run.config,
        code_digest=run.code_digest,
        environment_digest=run.environment_digest,
        evaluation_digest=evaluation.content_digest(),
        evaluation_uri=f"{evidence}/evaluation.json",
        verdicts=(PASSED,),
        policy_digest="a" * 64,
        card_digest=sha256(card),
        card_uri=card_uri,
        mlflow_run_id=run.mlflow_run_id,
        measured_digest=evaluation.measured.content_digest(),
        measured_uri=f"{evidence}/measured.json",
    )
    signed = seal(manifest, load_or_create_key(workspace.keys))
    write_manifest(workspace, signed)
    return signed
