"""Just enough HTTP over ASGI: a bounded body, one kind of answer, one kind of error."""

import logging
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from rayapp.errors import (
    DataError,
    DeadlineExceeded,
    Overloaded,
    OverRate,
    RayappError,
    RequestError,
    Unavailable,
)
from rayapp.families.inputs import shown
from rayapp.schemas.traffic import REFUSED

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Header = tuple[bytes, bytes]

log = logging.getLogger("rayapp.serve.wire.http")

JSON = b"application/json"
PLAIN_ERROR_AGENTS = (b"gevent-http-client", b" aiohttp/")
"""What tritonclient's HTTP libraries call themselves. It takes `error` for a text, as the Open
Inference Protocol has it, and breaks on an object."""
RATE_LIMITED = "rate_limited"
"""The `type` of a refusal for a caller's rate, of requests or of tokens."""
_REFUSED = (REFUSED.encode(), b"1")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_CHARSET = re.compile(rb"charset *= *\"?([^\"; ]*)")
MAX_DISCARDED_BYTES = 64 * 1024 * 1024
MAX_PARAM_CHARS = 200


class ClientGone(Exception):
    """The client closed the connection before its request was complete."""


@dataclass(slots=True)
class Request:
    """headers: names in lower case; of a repeated header the last value. is_reading: its body is
    being waited for."""

    method: str
    path: str
    headers: Mapping[bytes, bytes]
    receive: Receive
    is_reading: bool = False

    @classmethod
    def of(cls, scope: Scope, receive: Receive) -> "Request":
        path, prefix = scope["path"], scope.get("root_path", "")
        if prefix and path.startswith(prefix):
            path = path[len(prefix) :]
        trimmed = path.rstrip("/") or "/"
        return cls(scope["method"], trimmed, dict(scope["headers"]), receive)


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    body: bytes
    content_type: bytes = JSON
    headers: tuple[Header, ...] = ()


Emit = Callable[[bytes], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Streamed:
    """write: sends a body that grows, piece by piece, to its end; it tells the client itself of
    what goes wrong on the way."""

    write: Callable[[Emit], Awaitable[None]]
    content_type: bytes
    status: int = 200
    headers: tuple[Header, ...] = ()


def json_response(status: int, value: Any, headers: tuple[Header, ...] = ()) -> Response:
    return Response(status, orjson.dumps(value), JSON, headers)


def error_response(
    status: int,
    kind: str,
    message: str,
    next_step: str,
    param: str | None = None,
    headers: tuple[Header, ...] = (),
) -> Response:
    """The one shape of every error: {error: {type, message, param, next}}. Of a param that the
    caller made up only the beginning is said again."""
    param = None if param is None else param[:MAX_PARAM_CHARS]
    error = {"type": kind, "message": message, "param": param, "next": next_step}
    return json_response(status, {"error": error}, headers)


def refusal(error: RequestError) -> Response:
    headers: tuple[Header, ...] = ()
    if error.status == 401:
        headers = ((b"www-authenticate", b"Bearer"),)
    if error.retry_after_s is not None:
        headers = ((b"retry-after", str(error.retry_after_s).encode()),)
    if isinstance(error, OverRate):
        headers = (*headers, _REFUSED)
    return error_response(
        error.status, error.kind, error.what, error.next_step, error.param, headers
    )


def unavailable(error: RayappError, retry_after_s: int = 1) -> Response:
    headers: tuple[Header, ...] = ((b"retry-after", str(retry_after_s).encode()),)
    if isinstance(error, Overloaded):
        headers = (*headers, _REFUSED)
    return error_response(503, "unavailable", error.what, error.next_step, None, headers)


def request_id_of(request: Request) -> str:
    """The caller's own, else a new one."""
    given = request.headers.get(b"x-request-id", b"")
    return given.decode() if _REQUEST_ID.fullmatch(given) else secrets.token_hex(16)


def require_request_id(request: Request, request_id: str) -> None:
    """Raises RequestError where the caller gave one that could not be taken."""
    given = request.headers.get(b"x-request-id")
    if given is not None and given != request_id.encode():
        raise RequestError(
            f"x-request-id is {shown(given.decode('latin-1'))}, must be 1 to 128 of the characters "
            "A-Z a-z 0-9 . _ : -",
            "send another id, or none to be given one",
            400,
            "bad_request_id",
            "x-request-id",
        )


def milliseconds(given: bytes) -> float:
    """Raises RequestError for what is no time to wait."""
    text = given.decode("latin-1").strip()
    if not text.isascii() or not text.isdigit() or not 0 < len(text) <= 9:
        raise RequestError(
            f"x-deadline-ms is {shown(text)}, must be a whole number of milliseconds, 9 digits at "
            "most",
            "say how long you wait for the answer, or leave the header out",
            400,
            "bad_deadline",
            "x-deadline-ms",
        )
    return float(text)


def failed(error: Exception, request: Request, request_id: str) -> Response:
    """What the client is told: everything about its own mistake, nothing about our inside."""
    response = _by_kind(error, request, request_id)
    agent = request.headers.get(b"user-agent", b"").lower()
    if request.path.startswith("/v2") and any(name in agent for name in PLAIN_ERROR_AGENTS):
        return _in_plain_words(response)
    return response


def _by_kind(error: Exception, request: Request, request_id: str) -> Response:
    if isinstance(error, RequestError):
        return refusal(error)
    if isinstance(error, DataError):  # the rows keep the schema, yet a feature cannot be computed
        return error_response(422, "unusable_rows", error.what, error.next_step)
    if isinstance(error, Unavailable):
        return unavailable(error)
    if isinstance(error, DeadlineExceeded):
        return _too_late(error, request)
    log.error("request_failed", extra={"request_id": request_id}, exc_info=error)
    what = "the server failed on this request"
    return error_response(500, "internal", what, f"report request {request_id}")


def _too_late(error: DeadlineExceeded, request: Request) -> Response:
    if request.is_reading:
        what = "the request's body did not come within the time that the request has"
        return error_response(408, "request_timeout", what, "send it faster, or in smaller parts")
    return error_response(504, "deadline_exceeded", error.what, error.next_step)


def readiness(is_ready: bool, state: dict[str, Any]) -> Response:
    headers = () if is_ready else ((b"retry-after", b"1"),)
    return json_response(200 if is_ready else 503, state, headers)


def _in_plain_words(response: Response) -> Response:
    """An error whose `error` is one text, as the Open Inference Protocol has it."""
    error = orjson.loads(response.body)["error"]
    text = f"{error['message']}; next: {error['next']}"
    return json_response(response.status, error | {"error": text}, response.headers)


async def read_body(request: Request, max_bytes: int) -> bytes:
    """Raises RequestError 413 over the limit, having kept no more than the limit in memory.

    A body that is too long is still read to its end and dropped, up to MAX_DISCARDED_BYTES: many
    clients report a broken connection, not the answer, when nobody listens any more.
    """
    chunks: list[bytes] = []
    size = 0
    more = request.is_reading = True
    while more and size <= MAX_DISCARDED_BYTES:
        message = await request.receive()
        if message["type"] != "http.request":
            raise ClientGone
        chunk = message.get("body", b"")
        size += len(chunk)
        if size <= max_bytes:
            chunks.append(chunk)
        else:
            chunks.clear()
        more = message.get("more_body", False)
    request.is_reading = False
    if size > max_bytes:
        raise RequestError(
            f"the body has {size if not more else f'more than {size}'} bytes, "
            f"at most {max_bytes} are taken",
            "send less in each request",
            413,
            "body_too_large",
        )
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def require_content_type(request: Request, allowed: Sequence[bytes]) -> None:
    """Raises RequestError 415. A request without the header is taken to be of the first kind."""
    encoding = request.headers.get(b"content-encoding", b"identity")
    if encoding not in (b"identity", b""):
        raise RequestError(
            f"content-encoding {encoding.decode('latin-1')!r} is not supported",
            "send the body uncompressed",
            415,
            "unsupported_encoding",
        )
    given = request.headers.get(b"content-type", allowed[0])
    if given in allowed:
        return
    kind, _, parameters = given.lower().partition(b";")
    charset = _CHARSET.search(parameters)
    is_unicode = charset is None or charset[1] in (b"utf-8", b"utf8", b"us-ascii")
    if kind.strip() not in allowed or not is_unicode:
        names = " or ".join(a.decode() for a in allowed)
        raise RequestError(
            f"content-type is {shown(given.decode('latin-1'))}, must be {names}, in UTF-8",
            f"set the header content-type: {allowed[0].decode()}",
            415,
            "unsupported_media_type",
        )


async def respond(send: Send, response: Response | Streamed, headers: Sequence[Header]) -> None:
    start: list[Header] = [(b"content-type", response.content_type)]
    if isinstance(response, Response):
        start.append((b"content-length", str(len(response.body)).encode()))
    start += [*response.headers, *headers]
    begin = {"type": "http.response.start", "status": response.status, "headers": start}
    if isinstance(response, Response):
        await send(begin)
        await send({"type": "http.response.body", "body": response.body})
        return
    to_send: list[MutableMapping[str, Any]] = [begin]

    async def emit(piece: bytes) -> None:
        # the start goes with the first piece, so that `write` sees whatever goes wrong with it
        to_send.append({"type": "http.response.body", "body": piece, "more_body": True})
        while to_send:
            await send(to_send.pop(0))

    await response.write(emit)
    for message in (*to_send, {"type": "http.response.body", "body": b""}):
        await send(message)
