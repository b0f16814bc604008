"""After the release: batch scores, live quality and drift, audit, explanation, KPIs."""

import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

from rayapp.config.operations import ScoreConfig
from rayapp.data.read import read_view
from rayapp.data.snapshot import table_digest
from rayapp.errors import UserError
from rayapp.flows.releasing import champion
from rayapp.flows.session import Session
from rayapp.flows.training import newest_snapshot
from rayapp.govern.audit import audit
from rayapp.govern.explain import Explanation, explain
from rayapp.ledger import Ledger
from rayapp.observe.predictions import find_predictions
from rayapp.operate.kpis import Kpi, compute_kpis
from rayapp.register.manifest import read_manifest
from rayapp.schemas.operations import EventKind, Problem
from rayapp.schemas.release import SignedManifest
from rayapp.score.batch import score_batch
from rayapp.storage import Workspace, fetch_folder


def score_rows(session: Session, config: ScoreConfig) -> dict[str, Any]:
    signed = _release_of(session, config.endpoint, config.release_id)
    snapshot = newest_snapshot(session, config.snapshot)
    dataset = read_view(snapshot, config.split, since=config.since, until=config.until)
    with tempfile.TemporaryDirectory() as folder:
        bundle = signed.manifest.bundle
        fetch_folder(bundle.uri, bundle.files, Path(folder))
        result = score_batch(
            dataset, Path(folder), signed.release_id, session.workspace.table(config.output_table)
        )
    figures = {
        "release_id": signed.release_id,
        "snapshot_id": snapshot.content_digest(),
        "num_rows": result.num_rows,
        "num_errors": result.num_errors,
        "table": session.workspace.table(config.output_table),
    }
    session.ledger.append(EventKind.BATCH_SCORED, config.endpoint, figures)
    session.say(f"score {config.endpoint}: {result.num_rows:,} rows by {signed.release_id[:12]}")
    return figures


def _release_of(session: Session, endpoint: str, release_id: str | None) -> SignedManifest:
    if release_id is not None:
        return read_manifest(session.workspace, release_id)
    current = champion(session, endpoint)
    if current is None:
        raise UserError(
            f"endpoint {endpoint!r} has no champion", "release one: python -m jobs.release …"
        )
    return current[1]


def audit_workspace(workspace: Workspace) -> list[Problem]:
    """Everything the ledger names, checked against the bytes that are there."""
    return audit(Ledger(workspace.ledger_url, "audit"), workspace, table_digest)


def explain_request(workspace: Workspace, request_id: str) -> Explanation:
    ledger = Ledger(workspace.ledger_url, "explain")
    return explain(request_id, lambda r: find_predictions(workspace, r), ledger, workspace)


def kpis(workspace: Workspace, now: datetime, window_days: int = 30) -> tuple[Kpi, ...]:
    events = Ledger(workspace.ledger_url, "kpis").events()
    return compute_kpis(events, now, window_days)
