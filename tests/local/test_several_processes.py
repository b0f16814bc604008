"""What several processes share stays whole: a key they race for, a log whose committer dies."""

import multiprocessing
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest
from log_case import record

from rayapp.observe.node_log import NodeLog
from rayapp.observe.predictions import read_predictions
from rayapp.register.signing import load_or_create_key
from rayapp.storage import Workspace


def _key_id(folder: Path) -> str:
    return load_or_create_key(folder).key_id


def test_processes_that_race_get_the_same_key(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        ids = pool.map(_key_id, [tmp_path / "keys"] * 8)
    assert len(set(ids)) == 1
    assert [p.name for p in (tmp_path / "keys").iterdir() if p.name.startswith(".")] == []


@pytest.mark.timeout(120)
def test_a_killed_committer_is_replaced(tmp_path: Path) -> None:
    workspace = Workspace(str(tmp_path))
    log = NodeLog(workspace, commits_aside=True)
    log.predictions("a").append([record("a", "q0")])
    assert log.commit() == 1
    assert log._aside is not None
    (process,) = log._aside._processes.values()
    process.kill()
    process.join()
    log.predictions("a").append([record("a", "q1")])
    with pytest.raises(BrokenProcessPool):
        log.commit()
    assert log.commit() == 1
    assert log.flush() == 0
    assert read_predictions(workspace.table("predictions")).num_rows == 2
