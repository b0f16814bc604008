"""What the command line says where there is nothing to do, or nothing that can be done."""

from pathlib import Path

import pytest

from rayapp.cli.app import main
from rayapp.cli.doctor import _disk, _place
from rayapp.ledger import Ledger
from rayapp.schemas.operations import EventKind
from rayapp.storage import Workspace


@pytest.fixture(autouse=True)
def _in_workspace(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYAPP_WORKSPACE", workspace.uri)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["up", "--num-cpus", "-1"], "--num-cpus is -1, must be 1 or more"),
        (["up", "--num-gpus", "-2"], "--num-gpus is -2, must be 0 or more"),
        (["kpis", "--window-days", "-1"], "--window-days is -1, must be from 1 to 36500"),
        (["kpis", "--window-days", "9999999"], "--window-days is 9999999, must be from 1 to"),
    ],
)
def test_a_number_that_cannot_be_is_refused(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert says in " ".join(capsys.readouterr().err.split())


def test_where_no_release_is_that_is_said(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["releases"]) == 0
    assert capsys.readouterr().out == "There are no releases yet.\n"
    payload = {"endpoint": "trip-length", "run_id": "r"}
    Ledger.of(workspace, "test").append(EventKind.RELEASE_SEALED, "a" * 64, payload)
    assert main(["releases", "nonsuch"]) == 0
    output = capsys.readouterr()
    assert output.out == "There are no releases of endpoint 'nonsuch', only of trip-length.\n"
    assert output.err == "  next: rayapp releases\n"


def test_a_new_key_is_for_endpoints_and_for_models(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "create", "acme"]) == 0
    told = [line.strip() for line in capsys.readouterr().err.splitlines()]
    assert told[-2:] == ["next: rayapp ask ENDPOINT", 'next: rayapp ask MODEL "question"']


def test_doctor_says_of_a_bucket_that_it_was_not_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    bucket = Workspace.from_environment({"RAYAPP_WORKSPACE": "s3://nobucket/x"})
    found = _place(bucket)
    assert (found.state, found.what) == (
        "warning",
        "s3://nobucket/x: not looked at, it is a bucket",
    )
    assert _disk(bucket).what.endswith(f"for this machine's part, {bucket.local}")
    folder = Workspace.from_environment({"RAYAPP_WORKSPACE": str(tmp_path)})
    assert (_place(folder).state, _place(folder).what) == ("ok", str(tmp_path))
