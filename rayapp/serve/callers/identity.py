"""Who asks: identity comes from the credential and from nothing else that a request says."""

import hashlib
import hmac
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rayapp.errors import RequestError
from rayapp.schemas.traffic import KEY_MARK, KEY_TEXT, ApiKey, Role

log = logging.getLogger("rayapp.serve.callers.identity")

_BEARER = re.compile(b"bearer +" + KEY_TEXT.encode(), re.IGNORECASE)
_MARK = KEY_MARK.encode()
ANONYMOUS = ""
"""The tenant of everybody without a key, where each request is counted to one."""
_MAX_KNOWN = 4096
"""So many credentials are remembered with whom they stand for."""


@dataclass(frozen=True, slots=True)
class Principal:
    tenant: str
    role: Role
    key_id: str


class KeyRing:
    """The keys there are. `refresh` reads them and may run in any thread; a key that was revoked
    counts until then. read_keys: key id → key."""

    def __init__(self, read_keys: Callable[[], Mapping[str, ApiKey]], requires_key: bool) -> None:
        self._read_keys = read_keys
        self._requires_key = requires_key
        self._is_away = False
        self._keys: Mapping[str, ApiKey] = {}
        self._known: dict[bytes, Principal] = {}

    def refresh(self) -> None:
        """Never raises: while the ledger is away, the keys that were known still count."""
        try:
            keys = dict(self._read_keys())
        except Exception:  # a database driver's own errors too
            if not self._is_away:  # a poll repeats itself, the log need not
                log.exception("keys_not_read")
            self._is_away = True
            return
        self._is_away = False
        if keys != self._keys:
            self._keys = keys
            self._known = {}

    def identify(self, credential: bytes | None) -> Principal | None:
        """credential: the authorization header. None where there is none and none is needed.
        Raises RequestError 401."""
        if credential is None:
            if self._requires_key:
                raise _unauthorized("this server wants an API key")
            return None
        known = self._known  # refresh may put another in its place meanwhile
        principal = known.get(credential)
        if principal is None:
            principal = self._verified(credential)
            if principal is not None and len(known) < _MAX_KNOWN:
                known[credential] = principal
        return principal

    def known(self, credential: bytes | None) -> Principal | None:
        """As identify, for those who need no key; None also for a wrong one."""
        try:
            return self.identify(credential)
        except RequestError:
            return None

    def _verified(self, credential: bytes) -> Principal | None:
        found = _BEARER.fullmatch(credential)
        if found is None:
            if not self._requires_key and _MARK not in credential:
                return None  # a proxy's own, or the placeholder of a client that must send one
            raise _unauthorized("the authorization header holds no API key of ours")
        key = self._keys.get(found[1].decode())
        digest = hashlib.sha256(found[2]).hexdigest()
        is_right = hmac.compare_digest(digest, key.secret_sha256 if key is not None else "-" * 64)
        if key is None or not is_right or key.is_revoked:
            raise _unauthorized("the API key is not known, or was revoked")
        return Principal(key.tenant, key.role, key.key_id)


def called(tenant: str) -> str:
    """Whom a message speaks of."""
    return "callers without a key" if tenant == ANONYMOUS else f"tenant {tenant!r}"


def require_caller(principal: Principal | None) -> None:
    """Raises RequestError 403 for a key that may only look."""
    if principal is not None and principal.role != "caller":
        raise RequestError(
            f"key {principal.key_id} has the role {principal.role!r}, this needs 'caller'",
            "ask with a key of that role: rayapp keys create TENANT --role caller",
            403,
            "forbidden",
        )


def _unauthorized(what: str) -> RequestError:
    return RequestError(
        what,
        "send the header authorization: Bearer rk_…; a key is made by: rayapp keys create TENANT",
        401,
        "unauthorized",
    )
