"""What `rayapp submit` says where the Jobs API is lost while a job runs."""

import logging
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from heads import known_head

from rayapp.cli import submit as submitting
from rayapp.cli.head_state import write_head
from rayapp.errors import Unavailable
from rayapp.storage import Workspace

ADDRESS = "http://127.0.0.1:8265"
RAW = "HTTPConnectionPool(host='127.0.0.1', port=8265): Max retries exceeded"


class Ending:
    """A Jobs API that is lost once a job's first line was told."""

    error: OSError

    def __init__(self, address: str) -> None:
        pass

    def submit_job(self, submission_id: str, **_: Any) -> str:
        return submission_id

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        yield "round 1\n"
        raise RuntimeError("WebSocket connection closed unexpectedly")

    def get_job_status(self, job_id: str) -> None:
        raise self.error


@pytest.mark.parametrize(
    ("own_address", "is_alive", "error", "says", "next_step"),
    [
        (
            ADDRESS,
            True,
            requests.ConnectionError(RAW),
            rf"the Ray head at {ADDRESS} went away while job train-a-\d+ ran, and the job with it",
            "rayapp up, then submit the same again: it resumes",
        ),
        (
            "http://127.0.0.1:9999",
            True,
            requests.ConnectionError(RAW),
            rf"lost the Jobs API at {ADDRESS} while job train-a-\d+ ran: it cannot be reached",
            "the job may go on",
        ),
        (ADDRESS, False, requests.ConnectionError(RAW), "cannot be reached", "the job may go on"),
        (ADDRESS, True, requests.ReadTimeout("too slow"), "ran: too slow", "the job may go on"),
    ],
)
def test_a_head_that_ends_is_told_as_one(
    own_address: str,
    is_alive: bool,
    error: OSError,
    says: str,
    next_step: str,
    workspace: Workspace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started_s = psutil.Process().create_time() if is_alive else 0.0
    known = known_head(pid=os.getpid(), started_s=started_s, dashboard_url=own_address)
    write_head(workspace, known)
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setattr(submitting, "JobSubmissionClient", Ending)
    monkeypatch.setattr(Ending, "error", error, raising=False)
    monkeypatch.setattr(logging, "disable", lambda level: None)  # it would hold for other tests
    shown: list[str] = []
    with pytest.raises(Unavailable, match=says) as lost:
        submitting.submit("train", "a.yaml", [], {}, ADDRESS, shown.append, workspace)
    assert lost.value.next_step.startswith(next_step)
    assert RAW not in str(lost.value)
    assert shown == ["round 1\n"]
