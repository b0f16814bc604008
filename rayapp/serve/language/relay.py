"""An engine's answer, on its way to the caller: counted, kept for the log, and without what only
the engine's makers need."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from rayapp.errors import Unavailable
from rayapp.serve.language.said import Said
from rayapp.serve.wire.openai import Asked
from rayapp.serve.wire.sse import DONE, EventReader

_MAY_BE_NULL = {*("logprobs", "finish_reason", "content", "refusal")}
"""Of a choice, what OpenAI sends as null where there is nothing."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens by the engine's own count, of all prompts and choices together."""

    num_prompt: int = 0
    num_cached: int = 0
    num_output: int = 0

    @property
    def counts(self) -> dict[str, int]:
        """As they are metered."""
        return {"prompt": self.num_prompt, "cached": self.num_cached, "output": self.num_output}

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> "Usage":
        details = told.get("prompt_tokens_details") or {}
        return cls(
            told.get("prompt_tokens") or 0,
            details.get("cached_tokens") or 0,
            told.get("completion_tokens") or 0,
        )

    def at_least(self, other: "Usage") -> "Usage":
        return Usage(
            max(self.num_prompt, other.num_prompt),
            max(self.num_cached, other.num_cached),
            max(self.num_output, other.num_output),
        )


class Relay:
    """Of one answer. name: the model as the caller called it. fingerprint: stands for what
    answered. hides_logprobs: the caller did not ask for them. spent: on another model's answer
    before it; what the caller is told of tokens is what is paid for, so it is among them."""

    def __init__(
        self,
        asked: Asked,
        name: str,
        fingerprint: str,
        hides_logprobs: bool = False,
        spent: Usage | None = None,
    ) -> None:
        self._asked = asked
        self._name = name
        self._fingerprint = fingerprint
        self._hides_logprobs = hides_logprobs
        self._spent = spent
        self._reader = EventReader()
        self.usage = Usage()
        self.said = Said()
        """What was passed on."""
        self._coming: list[Mapping[str, Any]] = []
        self._of_prompt: dict[int, int] = {}
        self._of_choice: dict[int, int] = {}
        self.finish_reason: str | None = None
        self.is_done = False
        self.failure: Unavailable | None = None
        """Why nothing comes after the events that were made last, where the engine failed."""

    def events(self, data: bytes) -> list[dict[str, Any]]:
        """Those that the caller is to get of what came now."""
        found = []
        for told in self._reader.feed(data):
            if told == DONE:
                self.is_done = True
                continue
            event = _loaded(told)
            if event is None:
                self.failure = Unavailable("the engine gave this answer up", "ask again")
                break
            shown = self._event(event)
            if shown is not None:
                found.append(shown)
        return found

    def _count(self, told: Mapping[str, Any], choices: Sequence[Mapping[str, Any]]) -> None:
        """Before the last event, whose counts are of all, vLLM's are of the one choice and its
        prompt. They never fall, so that what was paid for stays so."""
        of_these = Usage.of(told)
        if choices:
            at = choices[0].get("index") or 0
            self._of_prompt[at // self._asked.num_choices] = of_these.num_prompt
            self._of_choice[at] = of_these.num_output
            prompts, outputs = self._of_prompt.values(), self._of_choice.values()
            of_these = Usage(sum(prompts), of_these.num_cached, sum(outputs))
        self.usage = self.usage.at_least(of_these)

    def _event(self, event: dict[str, Any]) -> dict[str, Any] | None:
        usage = event.pop("usage", None)
        choices = event.get("choices") or []
        if usage is not None:
            self._count(usage, choices)
        for choice in choices:
            self._note(choice)
        if not choices:  # the last one, which has the token counts
            if not self._asked.wants_usage:
                return None
            event["usage"] = self._paid(usage)
        elif self._asked.wants_usage:
            event["usage"] = None
        return self._cleaned(event)

    def passed_on(self) -> None:
        """The caller got the events that were made last."""
        for choice in self._coming:
            self.said.add(choice)
        self._coming.clear()

    def document(self, body: bytes) -> dict[str, Any]:
        """A whole answer that is no stream. Raises Unavailable where it is not whole."""
        document = _loaded(body)
        if document is None:
            raise Unavailable("the engine's answer broke off", "ask again")
        self.usage = Usage.of(document.get("usage") or {})
        document["usage"] = self._paid(document.get("usage"))
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
        if self._hides_logprobs:
            for choice in made.get("choices", ()):
                choice["logprobs"] = None
        return made

    def _paid(self, usage: dict[str, Any] | None) -> dict[str, Any] | None:
        spent = self._spent
        if spent is None or usage is None:
            return usage
        first = {"prompt_tokens": spent.num_prompt, "completion_tokens": spent.num_output}
        both = {name: usage.get(name, 0) + number for name, number in first.items()}
        return usage | both | {"total_tokens": sum(both.values()), "first_model": first}


def _loaded(told: bytes) -> dict[str, Any] | None:
    """None for what is no answer."""
    try:
        found = orjson.loads(told)
    except orjson.JSONDecodeError:
        return None
    return found if isinstance(found, dict) and "error" not in found else None


def _without_nulls(choice: Mapping[str, Any]) -> dict[str, Any]:
    made = {k: v for k, v in choice.items() if v is not None or k in _MAY_BE_NULL}
    for part in ("message", "delta"):
        if isinstance(made.get(part), dict):
            made[part] = {
                k: v for k, v in made[part].items() if v not in (None, []) or k == "content"
            }
    return made
