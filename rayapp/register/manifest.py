"""Sealing a release: its manifest's digest is its id, and a signature says who sealed it."""

import json
from pathlib import Path

from pydantic import ValidationError

from rayapp.errors import TamperedError, WorkspaceError
from rayapp.register.signing import TRUSTED, SigningKey, verify
from rayapp.schemas.operations import OTHER_VERSION
from rayapp.schemas.record import canonical_json, mismatch, short
from rayapp.schemas.release import Manifest, SignedManifest
from rayapp.storage import Workspace, commit_bytes, read_bytes, sha256

_ODD_FORMS = (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError)
"""What reading bytes of any form as a sealed manifest may raise."""


def seal(manifest: Manifest, key: SigningKey) -> SignedManifest:
    return SignedManifest(
        release_id=manifest.content_digest(),
        manifest=manifest,
        key_id=key.key_id,
        signature=key.sign(manifest.canonical()),
    )


def open_manifest(raw: bytes, trusted: Path) -> SignedManifest:
    """Parse and verify. Raises TamperedError that says whether form, digest or signature is off,
    WorkspaceError for a good manifest with other fields than this version's."""
    try:
        signed = SignedManifest.parse(raw)
    except ValidationError as error:
        release_id = _sealed_id(raw, trusted)
        if release_id is not None:
            raise WorkspaceError(
                f"manifest of release {short(release_id)}: {mismatch(error)}", OTHER_VERSION
            ) from None
        raise TamperedError(
            f"manifest cannot be read: {mismatch(error)}",
            "restore manifest.json from a backup, or release again",
        ) from None
    found = signed.manifest.content_digest()
    if found != signed.release_id:
        raise TamperedError(
            f"manifest of release {short(signed.release_id)} has digest {short(found)}: "
            "it was changed",
            "restore manifest.json from a backup, or release again",
        )
    verify(trusted, signed.key_id, signed.signature, signed.manifest.canonical())
    if signed.canonical() != raw:
        raise TamperedError(
            f"manifest of release {short(signed.release_id)} is spelled otherwise than it was "
            "sealed",
            "restore manifest.json from a backup, or release again",
        )
    return signed


def _sealed_id(raw: bytes, trusted: Path) -> str | None:
    """The release id in a manifest of whatever fields, if its digest and signature fit."""
    try:
        signed = json.loads(raw)
        content = canonical_json(signed["manifest"])
        is_whole = signed.keys() == SignedManifest.model_fields.keys()
        if not is_whole or canonical_json(signed) != raw or sha256(content) != signed["release_id"]:
            return None
        verify(trusted, signed["key_id"], signed["signature"], content)
    except (TamperedError, *_ODD_FORMS):
        return None
    release_id: str = signed["release_id"]
    return release_id


def manifest_uri(workspace: Workspace, release_id: str) -> str:
    return f"{workspace.artifact('releases', release_id)}/manifest.json"


def write_manifest(workspace: Workspace, signed: SignedManifest) -> str:
    uri = manifest_uri(workspace, signed.release_id)
    commit_bytes(uri, signed.canonical())
    return uri


def read_manifest(workspace: Workspace, release_id: str) -> SignedManifest:
    """Raises WorkspaceError when it is missing, TamperedError when it is not what was sealed."""
    uri = manifest_uri(workspace, release_id)
    raw = read_bytes(uri)
    try:
        signed = open_manifest(raw, workspace.keys / TRUSTED)
    except (TamperedError, WorkspaceError) as error:
        raise type(error)(f"{uri}: {error.what}", error.next_step) from None
    if signed.release_id != release_id:
        raise TamperedError(
            f"manifest of release {short(release_id)} is that of {short(signed.release_id)}",
            "restore manifest.json from a backup, or release again",
        )
    return signed
