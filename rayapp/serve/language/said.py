"""What an answer says, by choice, until it is recorded."""

from collections.abc import Mapping
from typing import Any

from rayapp.serve.language.redaction import settled

_TEXTS = {"content": "text", "text": "text", "refusal": "text", "reasoning": "reasoning"}
"""Of a message, a part of one or a completion: where a text stands, and its name in the log."""


class _Growing:
    """A text that comes in pieces."""

    def __init__(self) -> None:
        self._pieces: list[str] = []

    def add(self, piece: str) -> None:
        self._pieces.append(piece)

    def taken(self, is_last: bool) -> str:
        """From now on it is not in here any more. What may be half of a number or an address stays
        for the next time: halves would not be known for what they are."""
        text = "".join(self._pieces)
        end = len(text) if is_last else settled(text)
        self._pieces = [text[end:]] if end < len(text) else []
        return text[:end]


class _Call:
    """Of a tool."""

    def __init__(self) -> None:
        self._facts: dict[str, Any] = {}
        self._function: dict[str, Any] = {}
        self._arguments = _Growing()

    def add(self, call: Mapping[str, Any]) -> None:
        function = call.get("function") or {}
        self._facts |= {k: v for k, v in call.items() if k != "function" and v is not None}
        self._function |= {k: v for k, v in function.items() if k != "arguments" and v is not None}
        self._arguments.add(function.get("arguments") or "")

    def taken(self, is_last: bool) -> dict[str, Any]:
        return {
            **self._facts,
            "function": self._function | {"arguments": self._arguments.taken(is_last)},
        }


class Said:
    """text: of a completion or a message; reasoning: what a model thinks before it."""

    def __init__(self) -> None:
        self._texts: dict[int, dict[str, _Growing]] = {}
        self._calls: dict[int, dict[int, _Call]] = {}

    def add(self, choice: Mapping[str, Any]) -> None:
        at = choice.get("index") or 0
        told = choice.get("delta") or choice.get("message") or choice
        for field, name in _TEXTS.items():
            if told.get(field):
                self._texts.setdefault(at, {}).setdefault(name, _Growing()).add(told[field])
        for number, call in enumerate(told.get("tool_calls") or ()):
            calls = self._calls.setdefault(at, {})
            calls.setdefault(call.get("index", number), _Call()).add(call)

    def taken(self, is_last: bool) -> list[dict[str, Any]]:
        """By choice, what was said since the last time. is_last: there is no next time."""
        found = []
        for at in sorted({*self._texts, *self._calls}):
            texts = {k: text.taken(is_last) for k, text in self._texts.get(at, {}).items()}
            calls = [call.taken(is_last) for call in self._calls.get(at, {}).values()]
            made: dict[str, Any] = {k: text for k, text in texts.items() if text}
            if any(call["function"]["arguments"] for call in calls) or (calls and is_last):
                made["tool_calls"] = calls
            if made:
                found.append({"index": at, **made})
        return found
