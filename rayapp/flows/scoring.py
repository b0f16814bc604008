"""Batch scores: rows of a snapshot through the champion, the same bundle as behind the endpoint."""

import tempfile
from pathlib import Path
from typing import Any

from rayapp.config.operations import ScoreConfig
from rayapp.data.read import read_view
from rayapp.flows.releasing import release_of
from rayapp.flows.room import ONE_CPU, tell_if_it_waits
from rayapp.flows.session import Session
from rayapp.flows.training import newest_snapshot
from rayapp.schemas.operations import EventKind
from rayapp.schemas.record import short
from rayapp.score.batch import score_batch
from rayapp.storage import fetch_bundle


def score_rows(session: Session, config: ScoreConfig) -> dict[str, Any]:
    signed = release_of(session, config.endpoint, config.release_id)
    snapshot = newest_snapshot(session, config.snapshot)
    dataset = read_view(snapshot, config.split, since=config.since, until=config.until)
    with tempfile.TemporaryDirectory() as folder:
        fetch_bundle(signed.manifest.bundle, Path(folder))
        tell_if_it_waits(session, ONE_CPU)
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
    session.say(f"score {config.endpoint}: {result.num_rows:,} rows by {short(signed.release_id)}")
    return figures
