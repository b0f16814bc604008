"""`rayapp ask`: send real rows of the newest snapshot to an endpoint and show what comes back."""

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rayapp.cli.terminal import folding_table, show_folded
from rayapp.data.read import sample_view
from rayapp.errors import Unavailable, UserError
from rayapp.ledger import Ledger
from rayapp.register.manifest import read_manifest
from rayapp.release.promote import champion_pointer
from rayapp.schemas.data import ROW_ID_COLUMN, Snapshot
from rayapp.schemas.operations import EventKind
from rayapp.schemas.record import short
from rayapp.schemas.traffic import UNIT_ID
from rayapp.storage import Workspace

MAX_ROWS = 1000


@dataclass(frozen=True)
class Answer:
    """One request and its answer. row is what was sent, outcome the label that was not."""

    request_id: str
    release_id: str
    row: dict[str, Any]
    prediction: Any
    outcome: Any
    latency_ms: float


def ask(workspace: Workspace, base_url: str, endpoint: str, num_rows: int) -> Iterator[Answer]:
    """One request per row of the champion's test split. Raises UserError, or Unavailable, which the
    answers before it survive: they may have been paid for."""
    url = f"{base_url}/endpoints/{endpoint}/invocations"
    asked = _sample(workspace, endpoint, num_rows)
    for row in asked.rows:
        yield _ask_one(url, row, asked)


def sample_requests(workspace: Workspace, endpoint: str, num_rows: int) -> list[dict[str, Any]]:
    """Rows of the champion's test split as a caller sends them: its inputs, in JSON's types. Raises
    UserError."""
    asked = _sample(workspace, endpoint, num_rows)
    return [_sent(row, asked.label) for row in asked.rows]


def body_of(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """One request by MLflow's protocol."""
    return json.dumps({"dataframe_records": rows}).encode()


@dataclass(frozen=True)
class _Sample:
    """rows: inputs and label of test rows. classes: those that a list of scores is in order of."""

    rows: list[dict[str, Any]]
    label: str
    classes: tuple[str, ...]


def _sample(workspace: Workspace, endpoint: str, num_rows: int) -> _Sample:
    if not 1 <= num_rows <= MAX_ROWS:
        raise UserError(
            f"{num_rows} rows: from 1 to {MAX_ROWS} are asked",
            "score many rows in batch: rayapp submit configs/operations/NAME.yaml",
        )
    ledger = Ledger.of(workspace, "ask")
    pointer = ledger.pointer(champion_pointer(endpoint))
    if pointer is None:
        raise _without_champion(ledger, workspace, endpoint)
    manifest = read_manifest(workspace, pointer.target).manifest
    built = ledger.latest(EventKind.SNAPSHOT_BUILT, subject=manifest.snapshot_id)
    if built is None:
        raise UserError(
            f"snapshot {short(manifest.snapshot_id)} is not in the ledger", "rayapp audit verify"
        )
    snapshot = built.record(Snapshot, "snapshot")
    inputs = [column.name for column in manifest.bundle.bundle_schema.inputs]
    table = sample_view(snapshot, "test", [ROW_ID_COLUMN, *inputs, snapshot.label], num_rows)
    if UNIT_ID not in inputs:  # what an outcome is joined to the prediction by, later
        table = table.rename_columns({ROW_ID_COLUMN: UNIT_ID})
    else:
        table = table.drop_columns([ROW_ID_COLUMN])
    classes = snapshot.classes if snapshot.task == "multiclass" else ()
    return _Sample(table.to_pylist(), snapshot.label, classes)


def takes_rows(workspace: Workspace, endpoint: str) -> bool:
    """There is such an endpoint, and its champion is no adapter of a language model."""
    pointer = Ledger.of(workspace, "ask").pointer(champion_pointer(endpoint))
    if pointer is None:
        return False
    return read_manifest(workspace, pointer.target).manifest.bundle.bundle_schema.language is None


def _without_champion(ledger: Ledger, workspace: Workspace, endpoint: str) -> UserError:
    """A model has the name of its weights, or any that a gateway's config gives it."""
    question = f'rayapp ask {endpoint} "What is the capital of France?"'
    if ledger.latest(EventKind.WEIGHTS_ADDED, subject=endpoint) is not None:
        return UserError(f"{endpoint!r} is a language model: a question is missing", question)
    return UserError(
        f"endpoint {endpoint!r} has no champion in workspace {workspace.uri}",
        "release one: rayapp submit configs/golden_paths/NAME.yaml; "
        f"of a language model ask a question: {question}",
    )


def _sent(row: Mapping[str, Any], label: str) -> dict[str, Any]:
    return {name: _plain(value) for name, value in row.items() if name != label}


def _ask_one(url: str, row: Mapping[str, Any], asked: _Sample) -> Answer:
    sent = _sent(row, asked.label)
    body = body_of([sent])
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get("RAYAPP_API_KEY"):
        headers["Authorization"] = f"Bearer {key}"
    request = urllib.request.Request(url, body, headers)
    began_s = time.monotonic()
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            answered = json.loads(response.read())
            headers = response.headers
    except urllib.error.HTTPError as error:
        raise _refused(url, error.code, error.read()) from error
    except OSError as error:
        raise Unavailable(
            f"{url} does not answer ({error})", "rayapp doctor; the Serve page of the dashboard"
        ) from error
    return Answer(
        request_id=headers["x-request-id"],
        release_id=headers["x-release"],
        row=sent,
        prediction=_named(answered["predictions"][0], asked.classes),
        outcome=row[asked.label],
        latency_ms=(time.monotonic() - began_s) * 1000,
    )


def _refused(url: str, status: int, body: bytes) -> UserError:
    """What the endpoint says, in its own words."""
    try:
        told = json.loads(body)["error"]
        what, next_step = told["message"], told["next"]
    except (ValueError, KeyError, TypeError):  # no gateway of ours answered
        what, next_step = body.decode(errors="replace")[:500], "rayapp doctor"
    if status == 401:
        next_step = "export RAYAPP_API_KEY=…; a key is made by: rayapp keys create TENANT"
    return UserError(f"{url} answered {status}: {what}", next_step)


def _named(prediction: Any, classes: tuple[str, ...]) -> Any:
    return dict(zip(classes, prediction, strict=True)) if classes else prediction


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value


def show(answers: Sequence[Answer]) -> None:
    titles = ("request", "release", "prediction", "outcome", "ms")
    table = folding_table(*titles, whole=["request"])  # for `rayapp explain`
    for a in answers:
        shown = (a.request_id, short(a.release_id), _short(a.prediction), _short(a.outcome))
        table.add_row(*shown, f"{a.latency_ms:.0f}")
    show_folded(table)


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, dict):
        return " ".join(f"{key}={_short(part)}" for key, part in value.items())
    if isinstance(value, list):
        return " ".join(_short(part) for part in value)
    return str(value)
