"""Batch scores: rows of a snapshot through the champion, the same bundle as behind the endpoint."""

import tempfile
from pathlib import Path
from typing import Any

from rayapp.config.operations import ScoreConfig
from rayapp.data.read import read_view
from rayapp.errors import UserError
from rayapp.flows.releasing import champion
from rayapp.flows.session import Session
from rayapp.flows.training import newest_snapshot
from rayapp.register.manifest import read_manifest
from rayapp.schemas.operations import EventKind
from rayapp.schemas.release import SignedManifest
from rayapp.score.batch import score_batch
from rayapp.storage import fetch_folder


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
