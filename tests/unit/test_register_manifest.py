"""A sealed manifest opens as it was; one changed byte anywhere in it, and it does not."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from rayapp.errors import TamperedError, WorkspaceError
from rayapp.register.manifest import (
    manifest_uri,
    open_manifest,
    read_manifest,
    seal,
    write_manifest,
)
from rayapp.register.signing import TRUSTED, load_or_create_key
from rayapp.schemas.data import ContractRef
from rayapp.schemas.model import BundleRef, BundleSchema, FileDigest
from rayapp.schemas.record import canonical_json
from rayapp.schemas.release import Manifest, SignedManifest, Verdict
from rayapp.storage import Workspace, commit_bytes, sha256


def _manifest(endpoint: str = "flight-delay") -> Manifest:
    schema = BundleSchema(
        name="small",
        family="tabular",
        task="binary",
        label="is_late",
        classes=("no", "yes"),
        inputs=(),
        features=(),
    )
    file = FileDigest(path="schema.json", sha256="5" * 64, num_bytes=12)
    return Manifest(
        endpoint=endpoint,
        created_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        run_id="run-1",
        bundle=BundleRef(uri="/bundles/b", digest="b" * 64, files=(file,), bundle_schema=schema),
        snapshot_id="e" * 64,
        data_digests={"flights": "f" * 64},
        contracts=(ContractRef(id="flights", version="1.0.0", digest="c" * 64),),
        config={"rate": 1e-05, "name": "ä", "is_small": True},
        code_digest="d" * 64,
        environment_digest="1" * 64,
        evaluation_digest="2" * 64,
        evaluation_uri="/evaluations/2/evaluation.json",
        verdicts=(Verdict(gate="auc", value="pass", reason="0.72 ≥ 0.7"),),
        policy_digest="3" * 64,
        card_digest="4" * 64,
        card_uri="/cards/4/card.md",
        mlflow_run_id="m",
    )


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(str(tmp_path))


@pytest.fixture
def signed(workspace: Workspace) -> SignedManifest:
    return seal(_manifest(), load_or_create_key(workspace.keys))


def test_the_release_id_is_the_digest_of_the_content(signed: SignedManifest) -> None:
    assert signed.release_id == _manifest().content_digest()
    assert _manifest("another").content_digest() != signed.release_id


def test_what_was_written_is_read(workspace: Workspace, signed: SignedManifest) -> None:
    uri = write_manifest(workspace, signed)
    assert write_manifest(workspace, signed) == uri
    assert read_manifest(workspace, signed.release_id) == signed


def test_each_changed_byte_is_found(workspace: Workspace, signed: SignedManifest) -> None:
    raw = signed.canonical()
    trusted = workspace.keys / TRUSTED
    assert open_manifest(raw, trusted) == signed
    for place in range(len(raw)):
        for bit in (0x01, 0x20, 0x80):
            changed = bytearray(raw)
            changed[place] ^= bit
            with pytest.raises(TamperedError):
                open_manifest(bytes(changed), trusted)


def test_each_refusal_says_what_differs(workspace: Workspace, signed: SignedManifest) -> None:
    trusted = workspace.keys / TRUSTED
    other = signed.manifest.model_copy(update={"run_id": "run-2"})
    stranger = load_or_create_key(workspace.local / "stranger")
    cases = {
        "cannot be read: manifest.endpoint": signed.canonical().replace(
            b'"endpoint":', b'"endpoinT":'
        ),
        "it was changed": signed.model_copy(update={"manifest": other}).canonical(),
        "does not fit": seal(other, stranger)
        .model_copy(update={"key_id": signed.key_id})
        .canonical(),
        "trusted keys are": seal(other, stranger).canonical(),
        "spelled otherwise": signed.model_dump_json(indent=1).encode(),
    }
    for words, raw in cases.items():
        with pytest.raises(TamperedError, match=words):
            open_manifest(raw, trusted)


def test_a_release_of_another_version_is_not_called_tampered(workspace: Workspace) -> None:
    content = json.loads(_manifest().canonical()) | {"mlflow_version": "3"}
    release_id = sha256(canonical_json(content))
    key = load_or_create_key(workspace.keys)
    raw = canonical_json(
        {
            "release_id": release_id,
            "manifest": content,
            "key_id": key.key_id,
            "signature": key.sign(canonical_json(content)),
        }
    )
    commit_bytes(manifest_uri(workspace, release_id), raw)
    with pytest.raises(WorkspaceError, match=r"manifest\.json.*mlflow_version") as error:
        read_manifest(workspace, release_id)
    assert "another version of rayapp" in error.value.next_step
    forged = raw.replace(b"run-1", b"run-2")
    with pytest.raises(TamperedError, match="mlflow_version"):
        open_manifest(forged, workspace.keys / TRUSTED)


def test_another_release_in_its_place_is_refused(
    workspace: Workspace, signed: SignedManifest
) -> None:
    write_manifest(workspace, signed)
    other = seal(_manifest("another"), load_or_create_key(workspace.keys))
    place = Path(manifest_uri(workspace, other.release_id))
    place.parent.mkdir(parents=True)
    place.write_bytes(signed.canonical())
    with pytest.raises(TamperedError, match="is that of"):
        read_manifest(workspace, other.release_id)


def test_a_missing_manifest_is_told(workspace: Workspace) -> None:
    with pytest.raises(WorkspaceError, match="cannot be read"):
        read_manifest(workspace, "0" * 64)
