"""One answer's records in the prompt log."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from rayapp.config.language import Redaction
from rayapp.serve.endpoints.base import Assignment
from rayapp.serve.language.ask import TextAsk, TextReply
from rayapp.serve.language.redaction import redacted
from rayapp.serve.language.tab import Part
from rayapp.serve.predicting import RecordSink, store_charged, trace_id
from rayapp.storage import sha256

_TEXTS = ("messages", "prompt", "input", "suffix", "stop", "user")
"""The fields of a request that hold what somebody wrote; tools and schemas are kept as they are."""


def prompt_text(fields: Mapping[str, Any], level: Redaction) -> str:
    """What a request asks, as the log keeps it."""
    given = {k: v for k, v in fields.items() if v is not None}
    texts = {name: redacted(given[name], level) for name in _TEXTS if name in given}
    return orjson.dumps(given | texts).decode()


def kept_unit(unit: str, level: Redaction) -> str:
    """As the log keeps it: a unit may be somebody's address. What is left out is stood for by a
    digest, by which a unit's rows still belong together."""
    if redacted(unit, level) == unit:
        return unit
    return f"sha256:{sha256(unit.encode('utf-8', 'surrogatepass'))}"


@dataclass(slots=True)
class AnswerLog:
    """start_s: of time.monotonic, as is first_token_s, which is there once a token was. endpoint:
    the model as the caller called it. assignment: by which the reply came to be."""

    sink: RecordSink
    ask: TextAsk
    start_s: float
    endpoint: str
    redacts: Redaction
    now: Callable[[], datetime]
    reply: TextReply
    assignment: Assignment | None
    first_token_s: float | None = None

    def record(self, part: Part) -> None:
        """Raises Unavailable where it cannot be written; then nothing is paid for it."""
        store_charged(self.sink, [self._fields(part)], part.charges)

    def _fields(self, part: Part) -> dict[str, Any]:
        ask = self.ask
        first_s, reply = self.first_token_s, self.reply
        bill = reply.bill
        return {
            "request_id": ask.request_id,
            "part": part.number,
            "endpoint": self.endpoint,
            "release_id": reply.release_id,
            "at": self.now(),
            "route": ask.path,
            "num_prompt_tokens": part.usage.num_prompt,
            "num_cached_tokens": part.usage.num_cached,
            "num_output_tokens": part.usage.num_output,
            "latency_ms": round((time.monotonic() - self.start_s) * 1000, 3),
            "first_token_ms": None if first_s is None else round((first_s - self.start_s) * 1e3, 3),
            "finish_reason": part.finish_reason,
            "prompt": bill.prompt if bill is not None and part.number == 0 else None,
            "prompt_digest": None if bill is None else bill.prompt_digest,
            "output": self._text(part.said) if part.said else None,
            "degraded": reply.degraded,
            **self._assigned(),
            **self._doubted(),
            "tenant": ask.tenant,
            "trace_id": trace_id(ask.headers),
            "cost_nano_usd": part.charges.money.amount,
            "loan_id": part.charges.money.loan_id,
            "token_loan_id": part.charges.tokens.loan_id,
        }

    def _assigned(self) -> dict[str, Any]:
        made = self.assignment
        if made is None:
            return {}
        unit = None if made.unit is None else kept_unit(made.unit, self.redacts)
        return {"arm": made.arm, "propensity": made.propensity, "unit": unit}

    def _doubted(self) -> dict[str, Any]:
        doubt = self.reply.doubt
        if doubt is None:
            return {}
        return {"confidence": doubt.confidence, "max_error": doubt.max_error}

    def _text(self, said: list[dict[str, Any]]) -> str:
        return orjson.dumps(redacted(said, self.redacts)).decode()
