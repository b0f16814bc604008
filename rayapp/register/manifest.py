"""Sealing a release: its manifest's digest is its id, and a signature says who sealed it."""

from pathlib import Path

from pydantic import ValidationError

from rayapp.errors import TamperedError
from rayapp.register.signing import TRUSTED, SigningKey, verify
from rayapp.schemas.release import Manifest, SignedManifest
from rayapp.storage import Workspace, commit_bytes, read_bytes


def seal(manifest: Manifest, key: SigningKey) -> SignedManifest:
    return SignedManifest(
        release_id=manifest.content_digest(),
        manifest=manifest,
        key_id=key.key_id,
        signature=key.sign(manifest.canonical()),
    )


def open_manifest(raw: bytes, trusted: Path) -> SignedManifest:
    """Parse and verify. Raises TamperedError that says whether form, digest or signature is off."""
    try:
        signed = SignedManifest.parse(raw)
    except ValidationError as error:
        place = ".".join(str(part) for part in error.errors()[0]["loc"]) or "the file"
        raise TamperedError(
            f"manifest cannot be read: {place}: {error.errors()[0]['msg']}",
            "restore manifest.json from a backup, or release again",
        ) from None
    found = signed.manifest.content_digest()
    if found != signed.release_id:
        raise TamperedError(
            f"manifest of release {signed.release_id[:12]} has digest {found[:12]}: it was changed",
            "restore manifest.json from a backup, or release again",
        )
    verify(trusted, signed.key_id, signed.signature, signed.manifest.canonical())
    if signed.canonical() != raw:
        raise TamperedError(
            f"manifest of release {signed.release_id[:12]} is spelled otherwise than it was sealed",
            "restore manifest.json from a backup, or release again",
        )
    return signed


def manifest_uri(workspace: Workspace, release_id: str) -> str:
    return f"{workspace.artifact('releases', release_id)}/manifest.json"


def write_manifest(workspace: Workspace, signed: SignedManifest) -> str:
    uri = manifest_uri(workspace, signed.release_id)
    commit_bytes(uri, signed.canonical())
    return uri


def read_manifest(workspace: Workspace, release_id: str) -> SignedManifest:
    """Raises WorkspaceError when it is missing, TamperedError when it is not what was sealed."""
    raw = read_bytes(manifest_uri(workspace, release_id))
    signed = open_manifest(raw, workspace.keys / TRUSTED)
    if signed.release_id != release_id:
        raise TamperedError(
            f"manifest of release {release_id[:12]} is that of {signed.release_id[:12]}",
            "restore manifest.json from a backup, or release again",
        )
    return signed
