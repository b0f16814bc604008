"""One request on its way through the gateway, what comes of it, and who counts it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from rayapp.serve.callers.identity import Principal
from rayapp.serve.endpoints.base import Ask
from rayapp.serve.endpoints.build import Hooks
from rayapp.serve.tracing.span import Span
from rayapp.serve.wire.http import Request, Response, Streamed


class Meter(Hooks, Protocol):
    """Counts under the names of telemetry.METRICS. flush: hand over what was counted, now."""

    def request(self, endpoint: str, release: str, status: int, seconds: float) -> None: ...
    def kept_out(self, tenant: str | None, num_requests: int) -> None: ...
    def rows(self, endpoint: str, release: str, num_rows: int) -> None: ...
    def degraded(self, endpoint: str, reason: str) -> None: ...
    def cost(self, endpoint: str, release: str, tenant: str | None, nano_usd: int) -> None: ...
    def tokens(
        self, endpoint: str, release: str, tenant: str | None, counts: Mapping[str, int]
    ) -> None: ...
    def first_token(self, endpoint: str, seconds: float) -> None: ...
    def cut(self, endpoint: str, reason: str) -> None: ...
    def flush(self) -> None: ...


@dataclass(slots=True)
class Call:
    """One request on its way. start_s and deadline_s are of time.monotonic. endpoint: the one that
    its path names; version: the release that it names, if any. route: its path with {name} and
    {version} in the place of these, once it is known to lead somewhere. ask: what it asks of an
    endpoint, once that is understood. span: None where it is not traced."""

    request: Request
    request_id: str
    start_s: float
    deadline_s: float
    principal: Principal | None = None
    endpoint: str | None = None
    version: str | None = None
    route: str | None = None
    ask: Ask | None = None
    span: Span | None = None
    is_admitted: bool = False

    @property
    def tenant(self) -> str | None:
        return None if self.principal is None else self.principal.tenant


@dataclass(frozen=True, slots=True)
class Answer:
    """endpoint and release_id: who answered, where somebody did. degraded: why it was not who
    should have. prompt_digest: of the prompt that a language model was told by us."""

    response: Response | Streamed
    endpoint: str | None = None
    release_id: str | None = None
    num_rows: int = 0
    degraded: str | None = None
    prompt_digest: str | None = None
