"""Ed25519 signatures (RFC 8032) over a manifest's canonical bytes, and the keys that are trusted.

The private key lies in the workspace's `keys` folder, readable by its owner only; a public key is
trusted once its file lies in `keys/trusted`. On a cluster the folder is a mounted secret.
"""

import hashlib
import os
import re
import uuid
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from rayapp.errors import TamperedError

PRIVATE_KEY = "release_key.pem"
TRUSTED = "trusted"
_KEY_ID = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class SigningKey:
    """key_id names the public half: the first 16 hex digits of its SHA-256."""

    key_id: str
    private: Ed25519PrivateKey

    def sign(self, message: bytes) -> str:
        return self.private.sign(message).hex()


def load_or_create_key(folder: Path) -> SigningKey:
    """The workspace's key, made on first use. Two processes that race end up with the same one."""
    path = folder / PRIVATE_KEY
    if not path.exists():
        _create(path)
    key = _load(path)
    trusted = folder / TRUSTED / f"{key.key_id}.pub"
    if not trusted.exists():
        trusted.parent.mkdir(parents=True, exist_ok=True)
        _write_once(trusted, _raw(key.private.public_key()), 0o644)
    return key


def verify(trusted: Path, key_id: str, signature: str, message: bytes) -> None:
    """Raises TamperedError for a key that is not trusted, a key file that is not the key it is
    named for, or a signature that does not fit. Only the one spelling that `sign` gives fits."""
    path = trusted / f"{key_id}.pub"
    if not _KEY_ID.fullmatch(key_id) or not path.exists():
        known = sorted(p.stem for p in trusted.glob("*.pub"))
        raise TamperedError(
            f"signed by key {key_id!r}, trusted keys are {known}",
            f"put the signer's public key into {trusted}, if you trust it",
        )
    raw = path.read_bytes()
    if _key_id(raw) != key_id:
        raise TamperedError(f"{path} is not the public key {key_id!r}", "restore the key file")
    try:
        decoded = bytes.fromhex(signature)
        if decoded.hex() != signature:
            raise ValueError("hexadecimal digits of another spelling")
        Ed25519PublicKey.from_public_bytes(raw).verify(decoded, message)
    except (InvalidSignature, ValueError):
        raise TamperedError(
            f"the signature by key {key_id!r} does not fit what was signed",
            "the content or the signature was changed: restore it, or release again",
        ) from None


def _load(path: Path) -> SigningKey:
    try:
        private = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError):
        private = None
    if not isinstance(private, Ed25519PrivateKey):
        raise TamperedError(
            f"{path} is not an Ed25519 private key",
            "restore it from a backup; without one, remove it and releases get a new key",
        )
    return SigningKey(_key_id(_raw(private.public_key())), private)


def _create(path: Path) -> None:
    pem = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    _write_once(path, pem, 0o600)


def _write_once(path: Path, data: bytes, mode: int) -> None:
    """Write the whole file under another name, then link it: the first of two processes wins, and
    nobody sees half a key."""
    temporary = path.with_name(f".{uuid.uuid4().hex}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(temporary, path)
    except FileExistsError:
        return
    finally:
        temporary.unlink()


def _key_id(raw_public: bytes) -> str:
    return hashlib.sha256(raw_public).hexdigest()[:16]


def _raw(public: Ed25519PublicKey) -> bytes:
    return public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
