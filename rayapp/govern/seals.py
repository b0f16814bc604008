"""Is a release's manifest what was sealed? Checked from the bytes alone.

The audit has its own few lines for this, on purpose: it does not trust the code that did the
sealing.
"""

import hashlib
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from rayapp.schemas.release import SignedManifest
from rayapp.storage import Workspace

_KEY_ID_CHARS = 16
"""A key is named by so many hex digits of its public half's SHA-256."""


def seal_problem(raw: bytes, signed: SignedManifest, trusted: Path) -> str | None:
    """What is wrong with a stored manifest, or None. raw: the bytes that `signed` was read from."""
    content = signed.manifest.canonical()
    digest = hashlib.sha256(content).hexdigest()
    if digest != signed.release_id:
        return f"altered: its content has digest {digest[:12]}…, not {signed.release_id[:12]}…"
    if raw != signed.canonical():
        return "altered: the bytes are not those that were written"
    key = trusted / f"{signed.key_id}.pub"
    if not key.exists():
        return f"signed by key {signed.key_id!r}, which is not among the trusted keys"
    public = key.read_bytes()
    if hashlib.sha256(public).hexdigest()[:_KEY_ID_CHARS] != signed.key_id:
        return f"{key} is not the public key {signed.key_id!r}"
    try:
        signature = bytes.fromhex(signed.signature)
        if signature.hex() != signed.signature:  # the same bytes in other letters
            raise ValueError(signed.signature)
        Ed25519PublicKey.from_public_bytes(public).verify(signature, content)
    except (InvalidSignature, ValueError):
        return f"altered: the signature by key {signed.key_id!r} does not fit"
    return None


def trusted_keys(workspace: Workspace) -> Path:
    return workspace.keys / "trusted"
