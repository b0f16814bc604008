"""What the command line says where there is nothing to do, or nothing that can be done."""

import json
from pathlib import Path

import pytest

from rayapp.cli import head, ports
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


@pytest.mark.parametrize("variable", ["RAYAPP_DASHBOARD_PORT", "RAYAPP_GRPC_PORT"])
def test_one_port_for_two_uses_starts_no_head(
    variable: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def launch(*_: object) -> None:
        raise AssertionError("a head is launched")

    monkeypatch.setattr(head, "_launch", launch)
    monkeypatch.setattr(ports, "is_free", lambda port: True)  # looks by a socket
    monkeypatch.setenv("RAYAPP_HTTP_PORT", "21101")
    monkeypatch.setenv(variable, "21101")
    assert main(["up"]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "RAYAPP_HTTP_PORT" in told
    assert variable in told
    assert "are both 21101, each needs a port of its own" in told
    assert told.endswith(" rayapp up")


def test_a_port_that_is_promised_is_not_handed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listens on the endpoints' port before something is deployed."""
    monkeypatch.setattr(ports, "is_free", lambda port: True)
    monkeypatch.setattr(ports, "_RANGE", range(20_000, 20_003))
    assert set(ports.free_ports(2, promised=[20_001])) == {20_000, 20_002}


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


def test_each_column_of_the_keys_has_a_title(capsys: pytest.CaptureFixture[str]) -> None:
    for tenant in ("acme", "umbrella"):
        assert main(["keys", "create", tenant, "--json"]) == 0
    made = json.loads(capsys.readouterr().out.split("\n}\n")[0] + "}")
    assert main(["keys", "revoke", made["key_id"]]) == 0
    capsys.readouterr()
    assert main(["keys", "list"]) == 0
    title, *keys = (line.split() for line in capsys.readouterr().out.splitlines())
    assert title == ["key", "tenant", "role", "state"]
    assert sorted(key[1:] for key in keys) == [
        ["acme", "caller", "revoked"],
        ["umbrella", "caller", "valid"],
    ]


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
