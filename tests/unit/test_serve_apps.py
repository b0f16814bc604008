"""What serve_apps puts together: what is served has passed its gates, whoever names it."""

from pathlib import Path

import pytest
from serving_case import ENDPOINT, seal_release

from rayapp.errors import GateRefused
from rayapp.flows.passed import passed
from rayapp.register.manifest import seal, write_manifest
from rayapp.register.signing import load_or_create_key
from rayapp.schemas.release import Verdict
from rayapp.storage import Workspace


def test_a_release_that_a_gate_refused_is_not_served(tmp_path: Path) -> None:
    workspace = Workspace(str(tmp_path / "workspace"))
    good = seal_release(workspace, tmp_path / "bundle", 1, ENDPOINT)
    assert passed(workspace, good.release_id) == good
    verdicts = (*good.manifest.verdicts, Verdict(gate="speed", value="fail", reason="slow"))
    manifest = good.manifest.model_copy(update={"verdicts": verdicts})
    refused = seal(manifest, load_or_create_key(workspace.keys))
    write_manifest(workspace, refused)
    with pytest.raises(GateRefused, match="speed is fail: slow"):
        passed(workspace, refused.release_id)
