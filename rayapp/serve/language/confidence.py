"""How likely a language model finds its own whole answer: the product of its tokens' probabilities,
with that of ending there. An evaluation measures the same (families.llm.answer), and by its
calibration_error how often such answers are right."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from rayapp.errors import Unavailable
from rayapp.serve.language.relay import Relay, Usage
from rayapp.serve.wire.openai import Asked


@dataclass(frozen=True, slots=True)
class Heard:
    """A whole answer. confidence: None where the engine does not tell it of every token."""

    usage: Usage
    confidence: float | None


def with_logprobs(asked: Asked) -> tuple[Asked, bool]:
    """What an engine is asked so that it tells; and whether only we want to know."""
    given = asked.fields.get("logprobs")
    if given is not None and given is not False:
        return asked, False
    wanted: bool | int = True if asked.kind == "chat" else 0
    return replace(asked, fields={**asked.fields, "logprobs": wanted}), True


def heard(told: bytes, asked: Asked) -> Heard | None:
    """None for what is no whole answer."""
    relay = Relay(asked, "", "")
    try:
        found = relay.events(told) if asked.is_stream else [relay.document(told)]
    except Unavailable:
        return None
    if not relay.is_done or relay.failure is not None:
        return None
    of_choice: dict[int, list[float]] = {}
    for event in found:
        for choice in event.get("choices") or ():
            of_choice.setdefault(choice["index"], []).extend(_logprobs(choice))
    is_told = sum(map(len, of_choice.values())) == relay.usage.num_output
    if not is_told or len(of_choice) < asked.num_answers or asked.fields.get("echo"):
        return Heard(relay.usage, None)
    return Heard(relay.usage, math.exp(min(map(sum, of_choice.values()))))


def _logprobs(choice: Mapping[str, Any]) -> list[float]:
    told = choice.get("logprobs") or {}
    if "content" in told:  # of a chat
        return [token["logprob"] for token in told["content"] or ()]
    return [logprob for logprob in told.get("token_logprobs") or () if logprob is not None]
