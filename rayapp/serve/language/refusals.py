"""What an engine says of a request that it does not take, in words for a caller: without the names
of the libraries and classes that it is made of."""

import ast
import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import orjson

from rayapp.errors import RequestError

MAX_MESSAGE_CHARS = 400
"""Of an engine's own words about a request; they may repeat all of it."""
_MAX_READ_CHARS = 20_000
_NEXT = "change what it names, or leave that out"
_LISTED = re.compile(r"\d+ validation errors?:\s")
"""Each error in a line of its own, as Python writes a dict."""
_LOC = re.compile(r"'loc': \(((?:'[^'\n]*'|\d+|[, ])*)\)")
_MSG = re.compile(r"""'msg': ('(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*")""")
_TOLD = re.compile(r"\d+ validation errors? for .*\n(?:(\S.*)\n)?  (.*?) \[type=")
"""The field and what is wrong with it, as pydantic writes the first of its errors."""
_ITS_OWN = re.compile(r" \(parameter=.*\)$", re.DOTALL)
_FIELD = re.compile(r"[a-z_][a-z0-9_]*")
_KINDS = {
    *("body", "str", "int", "float", "bool", "bytes", "list", "tuple", "dict", "set", "none"),
    *("union", "nullable", "default", "chain", "callable", "call", "arguments"),
}
"""What stands between fields: the branch of a union, or a wrapper."""


def refusal(status: int, kind: str, body: bytes) -> RequestError:
    """status, body: of the engine's answer. kind: ours."""
    try:
        error = orjson.loads(body)["error"]
        message, param = str(error["message"])[:_MAX_READ_CHARS], error.get("param")
    except (ValueError, KeyError, TypeError):
        message, param = "", None
    param = param.removeprefix("body.") if isinstance(param, str) else None
    found = _of_list(message) or _of_text(message)
    if found is None:
        what = next((line.strip() for line in message.splitlines() if line.strip()), "")
        what = what or "the engine does not take this request"
        return RequestError(_cut(what), _NEXT, status, kind, param)
    field, why = found
    why = _ITS_OWN.sub("", why.removeprefix("Value error, "))
    if not field:
        return RequestError(_cut(why), _NEXT, status, kind, param)
    what = f"the engine does not take this `{field}`: {why}"
    return RequestError(_cut(what), f"correct `{field}`, or leave it out", status, kind, field)


def _of_list(message: str) -> tuple[str, str] | None:
    if not _LISTED.match(message):
        return None
    loc, msg = _LOC.search(message), _MSG.search(message)
    why = "it is not as it should be"
    if msg is not None:
        with suppress(ValueError, SyntaxError):
            why = str(ast.literal_eval(msg[1]))
    parts: Sequence[Any] = ()
    if loc is not None:
        with suppress(ValueError, SyntaxError):
            parts = ast.literal_eval(f"[{loc[1]}]")
    return _path(parts), why


def _of_text(message: str) -> tuple[str, str] | None:
    found = _TOLD.match(message)
    if found is None:
        return None
    parts = (found[1] or "").split(".")
    return _path([int(part) if part.isdecimal() else part for part in parts]), found[2]


def _path(parts: Sequence[Any]) -> str:
    """As `messages[0].role`."""
    path = ""
    for part in parts:
        if isinstance(part, int):
            path += f"[{part}]"
        elif _FIELD.fullmatch(part) and part not in _KINDS:
            path += f".{part}" if path else part
    return path


def _cut(text: str) -> str:
    return text if len(text) <= MAX_MESSAGE_CHARS else f"{text[:MAX_MESSAGE_CHARS]}…"
