"""What serve_apps puts together: what is served has passed its gates, whoever names it."""

from pathlib import Path

import pytest
from serving_case import ENDPOINT, make_bundle, seal_release
from test_evaluate_judge import LANGUAGE

from rayapp.errors import GateRefused
from rayapp.flows.passed import READ_AGAIN_S, Kinds, passed
from rayapp.register.manifest import seal, write_manifest
from rayapp.register.signing import load_or_create_key
from rayapp.schemas.model import BundleSchema
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


def test_a_manifest_that_cannot_be_read_is_not_read_at_each_look(tmp_path: Path) -> None:
    schema = make_bundle(tmp_path / "bundle", seed=1)
    adapted = schema.model_copy(update={"language": LANGUAGE})
    schemas: dict[str, BundleSchema] = {"rows": schema}
    asked: list[str] = []
    now_s = 0.0

    def read(release_id: str) -> BundleSchema | None:
        asked.append(release_id)
        return schemas.get(release_id)

    kinds = Kinds(read, lambda: now_s)
    for _ in range(3):
        assert [kinds.is_language(one) for one in ("rows", "words")] == [False, False]
    assert asked == ["rows", "words"]
    schemas["words"] = adapted  # its bucket answers again
    now_s = READ_AGAIN_S
    assert [kinds.is_language("words") for _ in range(3)] == [True, True, True]
    assert asked == ["rows", "words", "words"]
