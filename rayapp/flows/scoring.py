"""Batch scores: rows of a snapshot through the champion, the same bundle as behind the endpoint."""

import tempfile
from pathlib import Path
from typing import Any

from rayapp.config.operations import ScoreConfig
from rayapp.data.read import read_view
from rayapp.errors import UserError
from rayapp.flows.answering import answer_view
from rayapp.flows.releasing import release_of
from rayapp.flows.room import ONE_CPU, telling_waits
from rayapp.flows.session import Session
from rayapp.flows.training import newest_snapshot
from rayapp.schemas.data import Snapshot
from rayapp.schemas.operations import EventKind
from rayapp.schemas.record import short
from rayapp.schemas.release import SignedManifest
from rayapp.score.batch import score_batch
from rayapp.storage import fetch_bundle


def score_rows(session: Session, config: ScoreConfig) -> dict[str, Any]:
    signed = release_of(session, config.endpoint, config.release_id)
    is_language = signed.manifest.bundle.bundle_schema.language is not None
    if config.language is not None and not is_language:
        raise UserError(
            f"`language` has no effect: release {short(signed.release_id)} of {config.endpoint!r} "
            "is no language model's",
            "leave `language` out",
        )
    snapshot = newest_snapshot(session, config.snapshot)
    score = answer_view if is_language else score_view
    figures = {
        "release_id": signed.release_id,
        "snapshot_id": snapshot.content_digest(),
        **score(session, config, signed, snapshot),
        "table": session.workspace.table(config.output_table),
    }
    session.ledger.append(EventKind.BATCH_SCORED, config.endpoint, figures)
    session.say(
        f"score {config.endpoint}: {figures['num_rows']:,} rows by {short(signed.release_id)}"
    )
    return figures


def score_view(
    session: Session, config: ScoreConfig, signed: SignedManifest, snapshot: Snapshot
) -> dict[str, Any]:
    """Of a model of scores: all rows in one commit."""
    dataset = read_view(snapshot, config.split, since=config.since, until=config.until)
    with tempfile.TemporaryDirectory() as folder:
        fetch_bundle(signed.manifest.bundle, Path(folder))
        table = session.workspace.table(config.output_table)
        with telling_waits(session, ONE_CPU):
            result = score_batch(dataset, Path(folder), signed.release_id, table)
    return {"num_rows": result.num_rows, "num_errors": result.num_errors}
