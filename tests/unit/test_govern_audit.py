"""How much an audit looked at. What it finds is in tests/local."""

import json
from pathlib import Path

import pytest
from released import digest_of_table, release

from rayapp.cli.app import main
from rayapp.cli.audited import show_audit
from rayapp.govern.audit import audit
from rayapp.register.manifest import manifest_uri
from rayapp.storage import Workspace


def test_where_nothing_is_recorded_that_is_said(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAYAPP_WORKSPACE", workspace.uri)
    assert main(["audit", "verify"]) == 0
    assert capsys.readouterr().out == "Nothing is recorded yet: no event, so no artefact.\n"
    assert main(["audit", "verify", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == {"num_events": 0, "num_artefacts": 0, "problems": []}


def test_events_and_artefacts_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two files of the bundle, manifest, card, evaluation, what it took, report, two tables; four
    of them are named twice."""
    released = release(tmp_path)
    found = audit(released.ledger, released.workspace, digest_of_table)
    assert (found.num_events, found.num_artefacts, found.problems) == (5, 9, ())
    show_audit(found)
    assert capsys.readouterr().out == (
        "Every event and every artefact is what was recorded: 5 events and 9 artefacts.\n"
    )
    manifest = Path(manifest_uri(released.workspace, released.signed.release_id))
    manifest.unlink()
    show_audit(audit(released.ledger, released.workspace, digest_of_table))
    assert capsys.readouterr().out == (
        f"{manifest}: missing\n1 finding in 5 events and 8 artefacts.\n"
    )
