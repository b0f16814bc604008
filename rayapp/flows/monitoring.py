"""What the endpoint answered, against what happened and against what it was trained on."""

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rayapp.config.operations import MonitorConfig
from rayapp.data.read import sample_view
from rayapp.evaluate.estimates import measure
from rayapp.families.bundle import Bundle
from rayapp.families.encoding import label_number
from rayapp.flows.releasing import release_of
from rayapp.flows.room import ONE_CPU, telling_waits
from rayapp.flows.session import Session
from rayapp.flows.training import newest_snapshot
from rayapp.observe.drift import Drift, drift
from rayapp.observe.predictions import (
    FEEDBACK_TABLE,
    PREDICTIONS_TABLE,
    inputs_table,
    read_feedback,
    read_predictions,
)
from rayapp.observe.quality import join_outcomes
from rayapp.schemas.data import ROW_ID_COLUMN, Snapshot
from rayapp.schemas.operations import EventKind
from rayapp.schemas.release import SignedManifest
from rayapp.storage import fetch_bundle
from rayapp.transforms import feature_table

CONFIDENCE = 0.95


def monitor(session: Session, config: MonitorConfig) -> dict[str, Any]:
    """Live quality and drift of an endpoint's champion; each figure becomes a signal event.

    Fewer joined rows than config.min_rows give "insufficient data" instead of a number.
    """
    signed = release_of(session, config.endpoint)
    predictions = _predictions(session, config, signed)
    figures: dict[str, Any] = {
        "endpoint": config.endpoint,
        "release_id": signed.release_id,
        "num_predictions": predictions.num_rows,
    }
    if predictions.num_rows < config.min_rows:
        return figures | _insufficient(session, config, "num_predictions", predictions.num_rows)
    with telling_waits(session, ONE_CPU):
        figures |= _drift(session, config, signed, predictions)
    return figures | _quality(session, config, signed, predictions)


def _predictions(session: Session, config: MonitorConfig, signed: SignedManifest) -> pa.Table:
    table = session.workspace.table(PREDICTIONS_TABLE)
    rows = read_predictions(table, config.endpoint, config.since, config.until)
    return rows.filter(pa.compute.equal(rows.column("release_id"), signed.release_id))


def _insufficient(
    session: Session, config: MonitorConfig, name: str, num_rows: int
) -> dict[str, Any]:
    session.say(
        f"monitor {config.endpoint}: insufficient data, {name} is {num_rows}, "
        f"min_rows is {config.min_rows}"
    )
    return {"quality": "insufficient data", name: num_rows}


def _drift(
    session: Session, config: MonitorConfig, signed: SignedManifest, predictions: pa.Table
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        bundle = _open(signed, Path(folder))
    rows = inputs_table(predictions, bundle.schema.inputs)
    found = drift(bundle.profile, feature_table(bundle.schema.features, rows))
    for one in sorted(found, key=_by_psi):
        mark = "DRIFT" if one.psi > config.psi_alert else "ok"
        session.say(f"drift {one.column:32} psi {one.psi:7.3f}  {mark}")
        _signal(session, config, f"drift/{one.column}", one.psi, one.num_rows)
    drifted = [one.column for one in found if one.psi > config.psi_alert]
    return {"drift": {one.column: round(one.psi, 4) for one in found}, "drifted": drifted}


def _by_psi(one: Drift) -> float:
    return -one.psi


def _quality(
    session: Session, config: MonitorConfig, signed: SignedManifest, predictions: pa.Table
) -> dict[str, Any]:
    schema = signed.manifest.bundle.bundle_schema
    feedback = read_feedback(session.workspace.table(FEEDBACK_TABLE))
    number_of = partial(label_number, task=schema.task, classes=schema.classes)
    outcomes = _outcomes(session, config)
    joined, num_unusable = join_outcomes(predictions, feedback, number_of, outcomes)
    if num_unusable:
        session.say(
            f"monitor {config.endpoint}: {num_unusable:,} label(s) of feedback are left out, as "
            f"they are no {schema.label}: {', '.join(schema.classes) or 'a number'}"
        )
    if joined.num_rows < config.min_rows:
        return _insufficient(session, config, "num_outcomes", joined.num_rows)
    y_N = joined.column("label").to_numpy()
    scores_NK = np.array(joined.column("scores").to_pylist(), dtype=np.float64)
    estimates = measure(schema.task, y_N, scores_NK, CONFIDENCE)
    live: dict[str, Any] = {}
    for estimate in estimates:
        if estimate.value is None:
            continue
        live[estimate.metric] = [estimate.value, estimate.low, estimate.high]
        _signal(session, config, estimate.metric, estimate.value, estimate.num_rows)
    shown = live.get("auc") or live.get("rmse") or live.get("log_loss")
    session.say(f"monitor {config.endpoint}: {joined.num_rows:,} outcomes joined, live {shown}")
    return {"quality": live, "num_outcomes": joined.num_rows}


def _outcomes(session: Session, config: MonitorConfig) -> pa.Table | None:
    """Labels that a snapshot of later data holds, by row id."""
    if config.outcomes_snapshot is None:
        return None
    snapshot: Snapshot = newest_snapshot(session, config.outcomes_snapshot)
    rows = sample_view(snapshot, None, [ROW_ID_COLUMN, snapshot.label], snapshot.view.num_rows)
    return rows.rename_columns(["row_id", "label"])


def _open(signed: SignedManifest, folder: Path) -> Bundle:
    fetch_bundle(signed.manifest.bundle, folder)
    return Bundle.open(folder)


def _signal(
    session: Session, config: MonitorConfig, signal: str, value: float, num_rows: int
) -> None:
    payload = {"signal": signal, "value": float(value), "num_rows": num_rows}
    session.ledger.append(EventKind.SIGNAL_MEASURED, config.endpoint, payload)
