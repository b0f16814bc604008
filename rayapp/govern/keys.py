"""API keys: made, exchanged and revoked in the ledger, which is who knows them.

A key is `rk_<id>_<secret>`, told once. What is kept is its id, its tenant, its role and the SHA-256
of the secret, as the target of the ledger's pointer `key/<id>`, which gateways read as they read
champions: a change reaches them within a second, and the audit holds every pointer to its events.
"""

import hashlib
import re
import secrets
from dataclasses import dataclass

from rayapp.errors import PointerMoved, RayappError, Refused, UserError, WorkspaceError
from rayapp.ledger import Ledger
from rayapp.schemas.operations import EventKind, Pointer
from rayapp.schemas.traffic import KEY_HEAD, KEY_POINTER, TENANT, ApiKey, Role

_HEAD = re.compile(KEY_HEAD)


def create_key(ledger: Ledger, tenant: str, role: Role) -> tuple[str, ApiKey]:
    """The key's text, which nobody can read again, and what is kept of it. Raises UserError."""
    if not TENANT.fullmatch(tenant):
        raise UserError(
            f"tenant {tenant!r} must be 1 to 63 of a-z 0-9 and -, a letter first",
            "choose such a name; it appears in metrics and in the prediction log",
        )
    secret = secrets.token_urlsafe(32)
    key = ApiKey(
        key_id=secrets.token_hex(6),
        tenant=tenant,
        role=role,
        secret_sha256=hashlib.sha256(secret.encode()).hexdigest(),
    )
    _move(ledger, key, 0, EventKind.KEY_CREATED)
    return key.text(secret), key


@dataclass(frozen=True)
class Rotated:
    """text, key: as create_key gives them. failure: why the old key still stands, where it should
    not."""

    text: str
    key: ApiKey
    failure: WorkspaceError | None = None


def rotate_key(ledger: Ledger, key_id: str, keeps_old: bool) -> Rotated:
    """A new key for the same tenant and role; the old one is revoked after it, or kept for callers
    that still change over. Once the new one is made it is returned, whatever comes of the old one:
    its secret could be told nobody later. Raises UserError where there is no old one."""
    _, old = _existing(ledger, key_id)
    text, key = create_key(ledger, old.tenant, old.role)
    try:
        if not keeps_old:
            revoke_key(ledger, old.key_id)
    except Exception as error:  # noqa: BLE001 - a database driver's own errors too
        reason = error.what if isinstance(error, RayappError) else repr(error)
        failure = WorkspaceError(
            f"the new key is made, but the old one, {old.key_id!r}, still stands: {reason}",
            f"see it: rayapp keys list; end it: rayapp keys revoke {old.key_id}",
        )
        return Rotated(text, key, failure)
    return Rotated(text, key)


def revoke_key(ledger: Ledger, key_id: str) -> ApiKey:
    """Raises UserError for a key that is not known, or revoked already; Refused where somebody else
    revokes it meanwhile."""
    pointer, key = _existing(ledger, key_id)
    revoked = key.model_copy(update={"is_revoked": True})
    try:
        _move(ledger, revoked, pointer.revision, EventKind.KEY_REVOKED)
    except PointerMoved:
        raise Refused(
            f"somebody else changed key {key.key_id!r} meanwhile",
            "see what it is now: rayapp keys list",
        ) from None
    return revoked


def list_keys(ledger: Ledger) -> list[ApiKey]:
    """All there ever were, by tenant; revoked ones last."""
    keys = [ApiKey.parse(p.target.encode()) for p in ledger.pointers(KEY_POINTER)]
    return sorted(keys, key=lambda key: (key.is_revoked, key.tenant, key.key_id))


def _existing(ledger: Ledger, key_id: str) -> tuple[Pointer, ApiKey]:
    if (head := _HEAD.match(key_id)) is not None:
        key_id = head[1]  # and the secret, as somebody has it who found it where it should not be
    pointer = ledger.pointer(KEY_POINTER + key_id)
    if pointer is None:
        raise UserError(f"no key {key_id!r}", "see them: rayapp keys list")
    key = ApiKey.parse(pointer.target.encode())
    if key.is_revoked:
        raise UserError(f"key {key_id!r} is revoked", "make another: rayapp keys create TENANT")
    return pointer, key


def _move(ledger: Ledger, key: ApiKey, revision: int, kind: EventKind) -> None:
    payload = {"key_id": key.key_id, "tenant": key.tenant, "role": key.role}
    target = key.canonical().decode()
    ledger.move_pointer(KEY_POINTER + key.key_id, target, revision, kind, payload)
