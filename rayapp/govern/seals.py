"""Is a release's manifest what was sealed? Checked from the bytes alone.

The audit has its own few lines for this, on purpose: it does not trust the code that did the
sealing.
"""

import hashlib
import json
import re
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from rayapp.schemas.record import canonical_json, short
from rayapp.storage import Workspace

_KEY_ID_CHARS = 16
"""A key is named by so many hex digits of its public half's SHA-256."""
_KEY_ID = re.compile(r"[0-9a-f]{16}")
_TEXTS = ("release_id", "key_id", "signature")


def seal_problem(raw: bytes, trusted: Path) -> str | None:
    """What is wrong with a stored manifest, or None. Whatever fields it has, it counts: a release
    that another version of rayapp sealed is as good as one of this version."""
    try:
        signed = json.loads(raw)
        content = canonical_json(signed["manifest"])
        release_id, key_id, seal = (signed[name] for name in _TEXTS)
        if signed.keys() != {"manifest", *_TEXTS} or not _KEY_ID.fullmatch(key_id):
            raise ValueError("other fields than a seal has")
        signature = bytes.fromhex(seal)
        if canonical_json(signed) != raw:
            return "altered: the bytes are not those that were written"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return f"altered: it is no sealed manifest ({type(error).__name__}: {error})"
    digest = hashlib.sha256(content).hexdigest()
    if digest != release_id:
        return f"altered: its content has digest {short(digest)}…, not {short(str(release_id))}…"
    key = trusted / f"{key_id}.pub"
    if not key.exists():
        return f"signed by key {key_id!r}, which is not among the trusted keys"
    public = key.read_bytes()
    if hashlib.sha256(public).hexdigest()[:_KEY_ID_CHARS] != key_id:
        return f"{key} is not the public key {key_id!r}"
    try:
        if signature.hex() != seal:  # the same bytes in other letters
            raise ValueError(seal)
        Ed25519PublicKey.from_public_bytes(public).verify(signature, content)
    except (InvalidSignature, ValueError):
        return f"altered: the signature by key {key_id!r} does not fit"
    return None


def trusted_keys(workspace: Workspace) -> Path:
    return workspace.keys / "trusted"
