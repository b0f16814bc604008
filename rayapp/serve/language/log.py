"""One answer's records in the prompt log."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from rayapp.config.language import Redaction
from rayapp.serve.call import Call
from rayapp.serve.language.redaction import redacted
from rayapp.serve.language.tab import Part
from rayapp.serve.predicting import RecordSink, store_charged, trace_id

_TEXTS = ("messages", "prompt", "input", "suffix", "stop", "user")
"""The fields of a request that hold what somebody wrote; tools and schemas are kept as they are."""


def prompt_text(fields: Mapping[str, Any], level: Redaction) -> str:
    """What a request asks, as the log keeps it."""
    given = {k: v for k, v in fields.items() if v is not None}
    texts = {name: redacted(given[name], level) for name in _TEXTS if name in given}
    return orjson.dumps(given | texts).decode()


@dataclass(slots=True)
class AnswerLog:
    """prompt: as prompt_text has it. endpoint: the model as the caller called it. release_id and
    degraded: who answered, once that is known. first_token_s: of time.monotonic, once there was
    one."""

    sink: RecordSink
    call: Call
    prompt: str
    endpoint: str
    redacts: Redaction
    now: Callable[[], datetime]
    release_id: str = ""
    degraded: str | None = None
    first_token_s: float | None = None

    def record(self, part: Part) -> None:
        """Raises Unavailable where it cannot be written; then nothing is paid for it."""
        store_charged(self.sink, [self._fields(part)], part.charges)

    def _fields(self, part: Part) -> dict[str, Any]:
        call = self.call
        begun_s = self.first_token_s
        return {
            "request_id": call.request_id,
            "part": part.number,
            "endpoint": self.endpoint,
            "release_id": self.release_id,
            "at": self.now(),
            "route": call.route,
            "num_prompt_tokens": part.usage.num_prompt,
            "num_cached_tokens": part.usage.num_cached,
            "num_output_tokens": part.usage.num_output,
            "latency_ms": round((time.monotonic() - call.start_s) * 1000, 3),
            "first_token_ms": None if begun_s is None else round((begun_s - call.start_s) * 1e3, 3),
            "finish_reason": part.finish_reason,
            "prompt": self.prompt if part.number == 0 else None,
            "output": self._text(part.said) if part.said else None,
            "degraded": self.degraded,
            "tenant": call.tenant,
            "trace_id": trace_id(call.request.headers),
            "cost_nano_usd": part.charges.money.amount,
            "loan_id": part.charges.money.loan_id,
            "token_loan_id": part.charges.tokens.loan_id,
        }

    def _text(self, said: list[dict[str, Any]]) -> str:
        return orjson.dumps(redacted(said, self.redacts)).decode()
