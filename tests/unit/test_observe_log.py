"""A node's writers together: several endpoints, feedback, and what another process left behind."""

import json
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from log_case import NOON, die, record

from rayapp.errors import WorkspaceError
from rayapp.observe.node_log import NodeLog
from rayapp.observe.predictions import (
    FEEDBACK,
    FEEDBACK_TABLE,
    PREDICTIONS,
    PREDICTIONS_TABLE,
    find_predictions,
    inputs_table,
    read_feedback,
    read_predictions,
)
from rayapp.observe.spool import Spool
from rayapp.schemas.data import Column
from rayapp.storage import Workspace


def test_each_endpoint_and_the_feedback_reach_their_tables(tmp_path: Path) -> None:
    workspace = Workspace(str(tmp_path))
    other, log = NodeLog(workspace), NodeLog(workspace)
    other.predictions("a").append([record("a", "q0")])
    log.predictions("a").append([record("a", "q1")])
    log.predictions("b").append([record("b", "q2")])
    said = {"request_id": "q1", "row": 0, "at": NOON, "label": True, "score": None}
    log.feedback.append([{**said, "comment": None, "endpoint": None}])
    assert log.commit() == 4
    assert log.commit() == 0
    assert [one.endpoint for one in find_predictions(workspace, "q2")] == ["b"]
    found = read_predictions(workspace.table("predictions"), endpoint="a")
    assert sorted(found.column("request_id").to_pylist()) == ["q0", "q1"]
    labels = read_feedback(workspace.table("feedback")).column("label").to_pylist()
    assert [json.loads(label) for label in labels] == [True]


def test_feedback_from_before_it_had_a_tenant_is_still_read(tmp_path: Path) -> None:
    workspace = Workspace(str(tmp_path))
    uri = workspace.table(FEEDBACK_TABLE)
    older = pa.schema([field for field in FEEDBACK.schema if field.name != "tenant"])
    DeltaTable.create(uri, older, partition_by=list(FEEDBACK.partition_by))
    log = NodeLog(workspace)
    said = {"request_id": "q", "row": 0, "at": NOON, "label": True, "score": None, "comment": None}
    log.feedback.append([{**said, "endpoint": None}])  # spooled by that version
    die(log.feedback)
    later = NodeLog(workspace)
    later.feedback.append([{**said, "endpoint": None, "tenant": "acme"}])
    assert later.flush() == 2
    assert sorted(map(str, read_feedback(uri).column("tenant").to_pylist())) == ["None", "acme"]


def test_flush_leaves_only_what_others_still_write(tmp_path: Path) -> None:
    workspace = Workspace(str(tmp_path))
    other, log = NodeLog(workspace), NodeLog(workspace)
    other.predictions("a").append([record("a", "q0")])
    log.predictions("a").append([record("a", "q1")])
    assert log.flush() == 2
    assert len(list(tmp_path.rglob("*.log"))) == 1
    log.predictions("a").append([record("a", "q2")])  # a closed log opens again
    assert log.flush() == 1
    other.flush()
    assert list(tmp_path.rglob("*.log")) == []
    assert read_predictions(workspace.table("predictions")).num_rows == 3


def test_inputs_are_typed_again(tmp_path: Path) -> None:
    workspace = Workspace(str(tmp_path))
    log = NodeLog(workspace)
    log.predictions("a").append([record("a", "q")])
    log.flush()
    columns = [
        Column(name="when", type="timestamp"),
        Column(name="size", type="number"),
        Column(name="place", type="string", nullable=True),
        Column(name="newer", type="integer", nullable=True),
    ]
    found = inputs_table(read_predictions(workspace.table("predictions")), columns)
    assert found.to_pylist() == [{"when": NOON, "size": 1.5, "place": None, "newer": None}]


def test_a_log_that_is_older_than_a_column_goes_on(tmp_path: Path) -> None:
    """degraded, arm and propensity came later; what was logged before has none of them."""
    workspace = Workspace(str(tmp_path))
    uri = workspace.table("predictions")
    new = {"degraded", "arm", "propensity", "unit"}
    older = pa.schema([field for field in PREDICTIONS.schema if field.name not in new])
    DeltaTable.create(uri, older, partition_by=list(PREDICTIONS.partition_by))
    assert read_predictions(uri).num_rows == 0
    log = NodeLog(workspace)
    log.predictions("a").append([{**record("a", "q"), "arm": "new", "propensity": 0.25}])
    log.flush()
    log.predictions("a.shadow").append([record("a.shadow", "q")])
    log.flush()
    (found,) = find_predictions(workspace, "q")  # what a shadow made of it is no answer
    assert (found.degraded, found.arm, found.propensity) == (None, "new", 0.25)
    every = find_predictions(workspace, "q", with_shadows=True)
    assert {one.endpoint for one in every} == {"a", "a.shadow"}


def test_endpoints_are_committed_together(tmp_path: Path) -> None:
    """One by one, a hundred of them would take a core of their own."""
    workspace = Workspace(str(tmp_path))
    log = NodeLog(workspace)
    uri = workspace.table(PREDICTIONS_TABLE)

    def append(request_id: str, *endpoints: str) -> None:
        for name in endpoints:
            log.predictions(name).append([record(name, request_id)])

    append("q0", "a", "b", "c")
    assert log.commit() == 3
    version = DeltaTable(uri).version()
    append("q1", "b", "c")
    assert log.commit() == 2
    assert DeltaTable(uri).version() == version + 1
    assert log.commit() == 0
    append("q2", "a")
    assert log.commit() == 1
    assert read_predictions(uri).num_rows == 6


def paid(request_id: str, loan_id: str) -> dict[str, object]:
    spent = {"tenant": "acme", "cost_nano_usd": 10, "loan_id": loan_id}
    return record("a", request_id) | {"at": datetime.now(UTC)} | spent


def answered_twice(log: NodeLog, workspace: Workspace, num_requests: int = 1) -> None:
    """One gateway died with its answers in the table, and another one answered the requests again,
    each from a loan of its own."""
    first, second = (Spool(workspace.spool("a") / PREDICTIONS_TABLE) for _ in range(2))
    numbers = range(num_requests)
    first.append([paid(f"q{number}", "dead") for number in numbers])
    assert log.commit() == num_requests
    die(first)
    second.append([paid(f"q{number}", f"loan-{number}") for number in numbers])
    second.close()


def test_a_table_that_is_refused_keeps_back_nothing_that_is_given_back(tmp_path: Path) -> None:
    workspace = Workspace(str(tmp_path))
    given: list[Mapping[str, int]] = []
    log = NodeLog(workspace, on_repeated=given.append)
    answered_twice(log, workspace)
    log.prompts("a").append([record("a", "q")])
    (tmp_path / "tables" / "prompts").write_text("no table")
    for _ in range(2):
        with pytest.raises(WorkspaceError, match="prompts"):
            log.commit()
    assert given == [{"loan-0": 10}]


def test_what_could_not_be_given_back_is_at_the_next_commit(tmp_path: Path) -> None:
    workspace = Workspace(str(tmp_path))
    given: Counter[str] = Counter()
    is_away = [True]

    def give_back(costs: Mapping[str, int]) -> None:
        if is_away[0] and given:
            raise OSError("no database")
        given.update(costs)

    log = NodeLog(workspace, on_repeated=give_back)
    answered_twice(log, workspace, num_requests=3)
    for _ in range(2):
        with pytest.raises(OSError, match="no database"):
            log.commit()
    assert len(given) == 1
    is_away[0] = False
    for _ in range(2):
        log.commit()
    assert given == {f"loan-{number}": 10 for number in range(3)}


def test_a_record_that_is_no_row_keeps_back_no_other(tmp_path: Path) -> None:
    workspace = Workspace(str(tmp_path))
    log = NodeLog(workspace)
    log.predictions("a").append([record("a", "q0"), record("a", "odd") | {"at": "yesterday"}])
    log.predictions("b").append([record("b", "q1")])
    assert log.commit() == 2
    found = read_predictions(workspace.table(PREDICTIONS_TABLE))
    assert sorted(found.column("request_id").to_pylist()) == ["q0", "q1"]
    kept = list(workspace.spool("a").rglob("*.damaged"))
    assert b"yesterday" in kept[0].read_bytes()
    log.predictions("a").append([record("a", "q2")])
    assert log.commit() == 1
