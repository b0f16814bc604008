"""An engine's answer, on its way to the caller: counted, kept for the log, and without what only
the engine's makers need."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from rayapp.errors import Unavailable
from rayapp.serve.wire.openai import Asked
from rayapp.serve.wire.sse import DONE, EventReader

_MAY_BE_NULL = {*("logprobs", "finish_reason", "content", "refusal")}
"""Of a choice, what OpenAI sends as null where there is nothing."""


@dataclass(slots=True)
class Usage:
    """Tokens by the engine's own count, of all choices together."""

    num_prompt: int = 0
    num_cached: int = 0
    num_output: int = 0

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> "Usage":
        details = told.get("prompt_tokens_details") or {}
        return cls(
            told.get("prompt_tokens") or 0,
            details.get("cached_tokens") or 0,
            told.get("completion_tokens") or 0,
        )


@dataclass(slots=True)
class Said:
    """What an answer says, by choice. text: of a completion or a message; calls: of tools."""

    texts: dict[int, list[str]] = field(default_factory=dict)
    calls: dict[int, list[Any]] = field(default_factory=dict)

    def add(self, choice: Mapping[str, Any]) -> None:
        at = choice.get("index") or 0
        told = choice.get("delta") or choice.get("message") or choice
        text = told.get("content") or told.get("reasoning") or told.get("text")
        if text:
            self.texts.setdefault(at, []).append(text)
        if told.get("tool_calls"):
            self.calls.setdefault(at, []).extend(told["tool_calls"])

    def taken(self) -> list[dict[str, Any]]:
        """By choice, and from now on nothing of it any more."""
        found = [
            {
                "index": at,
                **({"text": "".join(self.texts[at])} if at in self.texts else {}),
                **({"tool_calls": self.calls[at]} if at in self.calls else {}),
            }
            for at in sorted({*self.texts, *self.calls})
        ]
        self.texts, self.calls = {}, {}
        return found


class Relay:
    """Of one answer. name: the model as the caller called it. fingerprint: stands for what
    answered."""

    def __init__(self, asked: Asked, name: str, fingerprint: str) -> None:
        self._asked = asked
        self._name = name
        self._fingerprint = fingerprint
        self._reader = EventReader()
        self.usage = Usage()
        self.said = Said()
        """What was passed on."""
        self._coming: list[Mapping[str, Any]] = []
        self.finish_reason: str | None = None
        self.is_done = False

    def events(self, data: bytes) -> list[dict[str, Any]]:
        """Those that the caller is to get of what came now. Raises Unavailable where the engine
        gave the answer up."""
        found = []
        for told in self._reader.feed(data):
            if told == DONE:
                self.is_done = True
                continue
            event = self._event(orjson.loads(told))
            if event is not None:
                found.append(event)
        return found

    def _event(self, event: dict[str, Any]) -> dict[str, Any] | None:
        if "error" in event:
            raise Unavailable("the engine gave this answer up before it was complete", "ask again")
        usage = event.pop("usage", None)
        if usage is not None:
            self.usage = Usage.of(usage)
        choices = event.get("choices") or []
        for choice in choices:
            self._note(choice)
        if not choices:  # the last one, which has the token counts
            if not self._asked.wants_usage:
                return None
            event["usage"] = usage
        elif self._asked.wants_usage:
            event["usage"] = None
        return self._cleaned(event)

    def passed_on(self) -> None:
        """The caller got the events that were made last."""
        for choice in self._coming:
            self.said.add(choice)
        self._coming.clear()

    def document(self, body: bytes) -> dict[str, Any]:
        """A whole answer that is no stream."""
        document: dict[str, Any] = orjson.loads(body)
        self.usage = Usage.of(document.get("usage") or {})
        for choice in document.get("choices") or []:
            self._note(choice)
        self.is_done = True
        return self._cleaned(document)

    def _note(self, choice: Mapping[str, Any]) -> None:
        self._coming.append(choice)
        if choice.get("finish_reason"):
            self.finish_reason = choice["finish_reason"]

    def _cleaned(self, answer: dict[str, Any]) -> dict[str, Any]:
        made = {k: v for k, v in answer.items() if v is not None or k == "usage"}
        made["model"] = self._name
        if self._asked.kind != "embedding":
            made["system_fingerprint"] = self._fingerprint
        if "choices" in made:
            made["choices"] = [_without_nulls(choice) for choice in made["choices"]]
        return made


def _without_nulls(choice: Mapping[str, Any]) -> dict[str, Any]:
    made = {k: v for k, v in choice.items() if v is not None or k in _MAY_BE_NULL}
    for part in ("message", "delta"):
        if isinstance(made.get(part), dict):
            made[part] = {
                k: v for k, v in made[part].items() if v not in (None, []) or k == "content"
            }
    return made
