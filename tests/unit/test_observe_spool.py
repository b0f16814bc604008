"""Every point at which a process may die: no row is lost, none is there twice."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from log_case import die
from pyarrow.fs import LocalFileSystem

from rayapp.observe import commit
from rayapp.observe.node_log import NodeLog
from rayapp.observe.predictions import (
    FEEDBACK,
    PREDICTIONS,
    PREDICTIONS_TABLE,
    find_predictions,
    read_feedback,
)
from rayapp.observe.predictions import read_predictions as read_table
from rayapp.observe.spool import Spool
from rayapp.storage import Workspace, dataset_of

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


def record(request_id: str, row: int = 0, at: datetime = NOON) -> dict[str, object]:
    return {
        "request_id": request_id,
        "row": row,
        "endpoint": "toy",
        "release_id": "r1",
        "at": at.isoformat(),
        "unit_id": None,
        "inputs": {"when": at, "size": 1.5, "place": None},
        "scores": [0.25, 0.75],
        "latency_ms": 1.25,
    }


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(str(tmp_path))


def test_a_folder_that_cannot_be_made_is_told_by_the_first_record(tmp_path: Path) -> None:
    """Which is where a gateway says that it cannot keep records, and gives back what was paid."""
    workspace = Workspace(str(tmp_path))
    folder = workspace.spool("toy")
    folder.parent.touch()
    spool = NodeLog(workspace).predictions("toy")
    with pytest.raises(OSError, match="spool"):
        spool.append([record("1")])
    folder.parent.unlink()
    spool.append([record("1")])
    assert len(list((folder / PREDICTIONS_TABLE).iterdir())) == 1


def folder_of(workspace: Workspace) -> Path:
    return workspace.spool("toy") / PREDICTIONS_TABLE


def commit_spool(workspace: Workspace) -> int:
    uri = workspace.table(PREDICTIONS_TABLE)
    return commit.commit_spool(folder_of(workspace), uri, PREDICTIONS)


def read_predictions(
    workspace: Workspace,
    endpoint: str,
    since: datetime | None = None,
    until: datetime | None = None,
) -> pa.Table:
    return read_table(workspace.table(PREDICTIONS_TABLE), endpoint, since, until)


def new_spool(workspace: Workspace, **options: int) -> Spool:
    return Spool(folder_of(workspace), **options)


def segments(workspace: Workspace) -> list[Path]:
    return sorted(folder_of(workspace).glob("*.log"))


def request_ids(workspace: Workspace) -> list[str]:
    return sorted(read_predictions(workspace, "toy").column("request_id").to_pylist())


def test_rows_come_back_as_they_were(workspace: Workspace) -> None:
    spool = new_spool(workspace)
    spool.append([record("a", 0), record("a", 1)])
    assert commit_spool(workspace) == 2
    found = find_predictions(workspace, "a")
    assert [one.row for one in found] == [0, 1]
    assert found[0].scores == (0.25, 0.75)
    assert found[0].inputs == {"when": "2026-05-01T12:00:00+00:00", "size": 1.5, "place": None}
    assert found[0].at == NOON
    assert find_predictions(workspace, "b") == []
    assert read_predictions(workspace, "toy").schema == PREDICTIONS.schema
    spool.close()


def test_no_table_is_an_empty_one(workspace: Workspace) -> None:
    assert commit_spool(workspace) == 0
    assert read_predictions(workspace, "toy").schema == PREDICTIONS.schema
    assert read_feedback(workspace.table("feedback")).schema == FEEDBACK.schema
    assert find_predictions(workspace, "a") == []


def test_since_is_included_and_until_is_not(workspace: Workspace) -> None:
    spool = new_spool(workspace)
    times = [NOON.replace(hour=hour) for hour in (10, 11, 12)]
    spool.append([record(str(at.hour), at=at) for at in times])
    spool.close()
    commit_spool(workspace)
    found = read_predictions(workspace, "toy", times[1], times[2])
    assert found.column("request_id").to_pylist() == ["11"]


def test_a_live_segment_is_committed_in_pieces_and_stays(workspace: Workspace) -> None:
    spool = new_spool(workspace)
    spool.append([record("a")])
    assert commit_spool(workspace) == 1
    assert commit_spool(workspace) == 0
    spool.append([record("b")])
    assert commit_spool(workspace) == 1
    assert len(segments(workspace)) == 1
    spool.close()
    assert commit_spool(workspace) == 0
    assert segments(workspace) == []
    spool.append([record("c")])
    spool.close()
    assert commit_spool(workspace) == 1
    assert request_ids(workspace) == ["a", "b", "c"]


def test_rotation_finishes_a_segment(workspace: Workspace) -> None:
    spool = new_spool(workspace, max_segment_bytes=1)
    for name in "abc":
        spool.append([record(name)])
    assert len(segments(workspace)) == 3
    assert commit_spool(workspace) == 3
    assert len(segments(workspace)) == 1, "its writer may go on with the last one"
    spool.close()
    assert request_ids(workspace) == ["a", "b", "c"]


WRITER = """
import sys
import time
from pathlib import Path
from rayapp.observe.spool import Spool
spool, i = Spool(Path(sys.argv[1])), 0
while True:
    spool.append([{"request_id": f"{i:06}", "row": 0, "endpoint": "toy", "release_id": "r",
        "at": "2026-05-01T12:00:00Z", "unit_id": None, "inputs": {}, "scores": [1.0],
        "latency_ms": 1.0}])
    sys.stdout.write(f"{i:06}\\n")
    sys.stdout.flush()
    i += 1
"""


def test_a_killed_writer_loses_no_row_that_it_answered(workspace: Workspace) -> None:
    folder = folder_of(workspace)
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    answered = [writer.stdout.readline().strip() for _ in range(50)]
    commit_spool(workspace)
    assert segments(workspace), "its writer lives"
    writer.send_signal(signal.SIGKILL)
    answered += writer.stdout.read().split("\n")[:-1]
    writer.wait()
    commit_spool(workspace)
    found = request_ids(workspace)
    assert len(found) == len(set(found))
    assert found[: len(answered)] == answered
    assert len(found) - len(answered) in (0, 1)
    assert segments(workspace) == []


def test_a_torn_line_waits_for_its_writer(workspace: Workspace) -> None:
    spool = new_spool(workspace)
    spool.append([record("a"), record("b")])
    (segment,) = segments(workspace)
    whole = segment.read_bytes()
    os.truncate(segment, len(whole) - 5)
    assert commit_spool(workspace) == 1
    with segment.open("ab") as file:
        file.write(whole[-5:])
    assert commit_spool(workspace) == 1
    assert request_ids(workspace) == ["a", "b"]
    spool.close()


def test_a_torn_line_of_a_dead_writer_is_dropped_and_told(
    workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    spool = new_spool(workspace)
    spool.append([record("a"), record("b")])
    (segment,) = segments(workspace)
    os.truncate(segment, segment.stat().st_size - 5)
    spool.close()
    assert commit_spool(workspace) == 1
    assert segments(workspace) == []
    assert "spool_damaged" in caplog.text


def test_a_damaged_line_is_told_and_holds_up_nothing(
    workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    spool = new_spool(workspace)
    spool.append([record("a"), record("b"), record("c")])
    spool.close()
    (segment,) = segments(workspace)
    segment.write_bytes(segment.read_bytes().replace(b'"b"', b'"x"'))
    assert commit_spool(workspace) == 2
    assert request_ids(workspace) == ["a", "c"]
    assert "spool_damaged" in caplog.text


def test_a_committer_that_dies_before_it_removes_the_segment(workspace: Workspace) -> None:
    spool = new_spool(workspace)
    spool.append([record("a"), record("b")])
    spool.close()
    (segment,) = segments(workspace)
    kept = segment.read_bytes()
    assert commit_spool(workspace) == 2
    segment.write_bytes(kept)  # as if it had died between the commit and the removal
    assert commit_spool(workspace) == 0
    assert segments(workspace) == []
    assert request_ids(workspace) == ["a", "b"]


def test_a_committer_that_dies_before_it_commits(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = new_spool(workspace)
    spool.append([record("a")])
    spool.close()

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(commit, "write_deltalake", die)
        with pytest.raises(KeyboardInterrupt):
            commit_spool(workspace)
    assert commit_spool(workspace) == 1
    assert request_ids(workspace) == ["a"]


def test_only_one_process_of_a_machine_commits(workspace: Workspace) -> None:
    spool = new_spool(workspace)
    spool.append([record("a")])
    with commit._turn(folder_of(workspace), wait=False) as is_ours:
        assert is_ours
        assert commit_spool(workspace) == 0
    assert commit_spool(workspace) == 1
    spool.close()


def test_committers_that_do_not_see_each_others_lock(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two machines on one folder: the table's own transaction is what keeps rows single."""
    spool = new_spool(workspace)
    names = [f"{i:03}" for i in range(40)]
    spool.append([record(name) for name in names])

    @contextmanager
    def everybody(_: Path, wait: bool) -> Iterator[bool]:
        yield True

    monkeypatch.setattr(commit, "_turn", everybody)
    with ThreadPoolExecutor(4) as pool:
        moved = list(pool.map(lambda _: commit_spool(workspace), range(4)))
    assert sum(moved) == len(names)
    assert request_ids(workspace) == names
    spool.close()


def test_feedback_takes_the_same_way(workspace: Workspace) -> None:
    folder, uri = workspace.spool("toy") / "feedback", workspace.table("feedback")
    spool = Spool(folder)
    common = {"endpoint": "toy", "request_id": "a", "at": NOON.isoformat()}
    labels = [True, 1.5, "late", None]
    spool.append([{**common, "row": i, "label": v} for i, v in enumerate(labels)])
    assert commit.commit_spool(folder, uri, FEEDBACK) == 4
    assert sorted(read_feedback(uri).column("label").drop_null().to_pylist()) == [
        '"late"',
        "1.5",
        "true",
    ]
    spool.close()


@pytest.mark.parametrize("second_node", ["toy", "other"])
@pytest.mark.parametrize("is_death_found_first", [True, False])
def test_an_answer_that_never_left_is_not_counted_beside_the_one_that_did(
    workspace: Workspace, second_node: str, is_death_found_first: bool
) -> None:
    """A replica dies between record and answer, and another one, of this node or of another one,
    answers. Whichever row gets to the table first, there is one."""
    uri, folder = workspace.table(PREDICTIONS_TABLE), workspace.spool(second_node)
    first, second = new_spool(workspace), Spool(folder / PREDICTIONS_TABLE)
    first.append([record("before"), record("asked-twice", 0), record("asked-twice", 1)])
    die(first)
    if is_death_found_first:
        commit_spool(workspace)
    second.append([record("asked-twice", 0), record("asked-twice", 1), record("after")])
    commit.commit_spool(folder / PREDICTIONS_TABLE, uri, PREDICTIONS)
    commit_spool(workspace)
    assert request_ids(workspace) == ["after", "asked-twice", "asked-twice", "before"]
    assert segments(workspace) == [] or second_node == "toy"
    second.close()


def test_an_answer_that_never_left_may_be_in_the_table_before_its_writer_dies(
    workspace: Workspace,
) -> None:
    first, second = new_spool(workspace), new_spool(workspace)
    first.append([record("a")])
    assert commit_spool(workspace) == 1
    die(first)
    second.append([record("a"), record("b")])
    assert commit_spool(workspace) == 1
    assert request_ids(workspace) == ["a", "b"]
    second.close()


def test_in_one_commit_too(workspace: Workspace) -> None:
    first, second = new_spool(workspace), new_spool(workspace)
    first.append([record("a")])
    second.append([record("a"), record("b")])
    die(first)
    assert commit_spool(workspace) == 2
    assert request_ids(workspace) == ["a", "b"]
    second.close()


def test_only_what_a_death_explains_is_left_out(workspace: Workspace) -> None:
    """A client may use an id again: with other inputs always, with the same ones where no writer
    has died lately."""
    spool, uri = new_spool(workspace), workspace.table(PREDICTIONS_TABLE)
    spool.append([record("a"), record("a")])
    assert commit_spool(workspace) == 2
    die(spool)
    late = new_spool(workspace)
    late.append([{**record("a"), "inputs": {"size": 2.5}}, record("a")])
    assert commit_spool(workspace) == 1
    long_after = datetime.now(UTC) + timedelta(seconds=commit.SETTLE_S + 1)
    late.append([record("a", at=long_after)])
    assert commit.commit_spool(folder_of(workspace), uri, PREDICTIONS) == 1
    late.close()


@pytest.mark.parametrize("is_old", [True, False])
def test_two_tenants_may_choose_one_id(workspace: Workspace, is_old: bool) -> None:
    """The table may be from before predictions had a tenant."""
    kept = [field for field in PREDICTIONS.schema if not (is_old and field.name == "tenant")]
    uri = workspace.table(PREDICTIONS_TABLE)
    DeltaTable.create(uri, pa.schema(kept), partition_by=list(PREDICTIONS.partition_by))
    first, second = new_spool(workspace), new_spool(workspace)
    first.append([record("a") | {"tenant": "acme"}])
    die(first)
    second.append([record("a") | {"tenant": name} for name in ("acme", "globex", None)])
    assert commit_spool(workspace) == 3
    assert sorted(map(str, read_table(uri).column("tenant").to_pylist())) == [
        "None",
        "acme",
        "globex",
    ]
    second.close()


def test_what_is_long_in_the_table_costs_a_commit_nothing(workspace: Workspace) -> None:
    spool, hours = new_spool(workspace), [NOON + timedelta(hours=n) for n in range(3)]
    for hour in hours:
        spool.append([record("a", at=hour)])
        commit_spool(workspace)
    table = DeltaTable(workspace.table(PREDICTIONS_TABLE))
    assert len(list(dataset_of(table, hours[2]).get_fragments())) == 1
    spool.close()


def test_a_commit_that_comes_late_counts_once_too(workspace: Workspace) -> None:
    """Because the table's store was down, say."""
    first, second = new_spool(workspace), new_spool(workspace)
    first.append([record("a")])
    assert commit_spool(workspace) == 1
    die(first)
    assert commit_spool(workspace) == 0
    second.append([record("a"), record("b")])
    folder, an_hour_later = folder_of(workspace), time.time() + 3600
    uri = workspace.table(PREDICTIONS_TABLE)
    assert commit.commit_spool(folder, uri, PREDICTIONS, clock=lambda: an_hour_later) == 1
    assert request_ids(workspace) == ["a", "b"]
    second.close()


def test_a_death_in_the_middle_of_a_commit(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit has seen the writer alive. What another one records in its place is left to the
    next commit, which finds it dead."""
    first, second = new_spool(workspace), new_spool(workspace)
    first.append([record("a")])
    second.append([record("b")])
    assert commit_spool(workspace) == 2
    really_open = commit._open

    def open_late(*arguments: Any) -> Any:
        if first._file is not None:
            die(first)
            second.append([record("a"), record("c")])
        return really_open(*arguments)

    monkeypatch.setattr(commit, "_open", open_late)
    assert commit_spool(workspace) == 0
    assert commit_spool(workspace) == 1
    assert request_ids(workspace) == ["a", "b", "c"]
    second.close()


def test_files_are_read_without_calls_into_python(tmp_path: Path) -> None:
    """A thread of Arrow's that is in Python when the interpreter ends aborts the process: one in
    four `rayapp spending` of a large table did."""
    uri = str(tmp_path / "a table")
    write_deltalake(uri, pa.table({"a": [1, 2]}))
    found = dataset_of(DeltaTable(uri))
    assert isinstance(found.filesystem.base_fs, LocalFileSystem)
    assert found.to_table().num_rows == 2
