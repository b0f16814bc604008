"""What the gateway of language models costs beside the engine, duty by duty, without a server.

    python -m benchmarks.llm_gateway [--tokens 64] [OUTPUT.json]

One streamed chat answer of so many tokens, from an engine that costs nothing (its events lie ready,
as vLLM writes them), through the real gateway with the real spool; ASGI messages in one process, so
no socket, no Ray and no tokenizer is in the figures. CPU time of the process, the lowest of several
means: for an answer by a gateway that only checks, counts, passes on and records, and what each
duty adds to it.
"""

import argparse
import asyncio
import logging
import platform
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, MutableMapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from benchmarks import results_file
from benchmarks.stand_ins import LIMITS, TRACING, Encoded, NoMeter, always, lowest_us
from rayapp.config.language import LanguageConfig
from rayapp.govern.accounts import Accounts
from rayapp.observe.spool import Spool
from rayapp.schemas.language import Adapter, Answering, Prefix, WeightsRef
from rayapp.schemas.traffic import ApiKey
from rayapp.serve.callers.budgets import Budgets
from rayapp.serve.callers.identity import KeyRing
from rayapp.serve.callers.limits import Limiter
from rayapp.serve.language.charges import NOBODY, Payers
from rayapp.serve.language.gateway import LanguageGateway
from rayapp.serve.language.served import Engine
from rayapp.serve.tracing.otlp import OtlpTracer
from rayapp.serve.wire.openai import CHAT
from rayapp.serve.wire.sse import LAST_EVENT, event
from rayapp.storage import sha256

NUM_PROMPT = 40
WEIGHTS = WeightsRef(
    name="w",
    uri="/nowhere",
    digest="0" * 64,
    files=(),
    task="generate",
    source="",
    source_sha256=None,
    license="MIT",
    architecture="None",
    num_parameters=0,
    max_context_tokens=4096,
)
PRICES = {"usd_per_million_input_tokens": 0.05, "usd_per_million_output_tokens": 0.15}
PLAIN: dict[str, Any] = {
    "engines": {"e": {"weights": "w", "retry_share": 0}},
    "models": {"m": {"engine": "e", "breaker": None}},
    "redacts": "nothing",
}
DUTIES: dict[str, dict[str, Any]] = {
    "retry": {"engines": {"e": {"weights": "w"}}},
    "breaker": {"models": {"m": {"engine": "e"}}},
    "rate_limit": {"limits": LIMITS},
    "price": {"models": {"m": {"engine": "e", "breaker": None, **PRICES}}},
    "budget": {
        "models": {"m": {"engine": "e", "breaker": None, **PRICES}},
        "budgets": {"default_usd": 1e6},
    },
    "redacts_contacts": {"redacts": "contacts"},
    "redacts_text": {"redacts": "text"},
    "records_every_8_tokens": {"record_every_tokens": 8},
    "tracing_sampled": {"tracing": TRACING | {"sample_share": 1}},
}
"""Each by itself on top of a gateway that checks, counts, passes on and records. An answer is
recorded once each 32 tokens where it is not said. `api_key` comes beside them."""


class Ready:
    """An engine whose answer lies ready."""

    def __init__(self, num_tokens: int) -> None:
        common = {"id": "chatcmpl-0", "object": "chat.completion.chunk", "created": 0, "model": "e"}
        choice: dict[str, Any] = {
            "index": 0,
            "logprobs": None,
            "finish_reason": None,
            "token_ids": None,
        }
        self._events = []
        for number in range(num_tokens + 1):
            delta = {"content": " word"} if number else {"role": "assistant", "content": ""}
            told = choice | {"delta": delta}
            if number == num_tokens:
                told["finish_reason"] = "length"
            usage = {
                "prompt_tokens": NUM_PROMPT,
                "total_tokens": NUM_PROMPT + number,
                "completion_tokens": number,
            }
            self._events.append(event(common | {"choices": [told], "usage": usage}))
        self._events += [event(common | {"choices": [], "usage": usage}), LAST_EVENT]

    async def open(
        self,
        path: str,
        body: bytes,
        prefix: Prefix | None = None,
        adapter: Adapter | None = None,
    ) -> Answering:
        return Answering(200, self._body())

    async def is_there(self) -> bool:
        return True

    async def _body(self) -> AsyncGenerator[bytes, None]:
        for told in self._events:
            yield told


class Site:
    def __init__(self, folder: Path, num_tokens: int) -> None:
        self._spool = Spool(folder / "spool")
        self._bank = Accounts(f"sqlite:///{folder}/accounts.db", "benchmark")
        self._engine = Engine("e", Ready(num_tokens), WEIGHTS, 4096, lambda fields: [NUM_PROMPT])
        secret = "s" * 43
        self._key = ApiKey(
            key_id="0" * 12, tenant="t", role="caller", secret_sha256=sha256(secret.encode())
        )
        self.authorization = f"Bearer rk_{self._key.key_id}_{secret}".encode()
        self.tracers: list[OtlpTracer] = []

    def gateway(self, settings: Mapping[str, Any]) -> LanguageGateway:
        config = LanguageConfig.model_validate(PLAIN | dict(settings))
        background: Any = None
        keys = KeyRing(lambda: {self._key.key_id: self._key}, requires_key=False)
        keys.refresh()
        tracer = None
        if config.tracing is not None:
            tracer = OtlpTracer(config.tracing, "benchmark", lambda name, number: None, Encoded())
            self.tracers.append(tracer)
        return LanguageGateway(
            config,
            {"e": self._engine},
            lambda model: self._spool,
            NoMeter(),
            background,
            lambda: datetime.now(UTC),
            keys,
            Limiter(config.limits, always, share=1) if config.limits else None,
            Payers(Budgets(config.budgets, self._bank, 120)) if config.budgets else NOBODY,
            tracer,
        )


def request(
    gateway: LanguageGateway, authorization: bytes | None = None
) -> Callable[[], Awaitable[bytes]]:
    asked = {"model": "m", "messages": [{"role": "user", "content": "word " * 30}], "stream": True}
    body = orjson.dumps(asked)
    headers = [(b"content-type", b"application/json")]
    if authorization is not None:
        headers.append((b"authorization", authorization))
    scope = {"type": "http", "method": "POST", "path": CHAT, "headers": headers}

    async def ask() -> bytes:
        sent: list[MutableMapping[str, Any]] = []
        was_read = False

        async def receive() -> MutableMapping[str, Any]:
            nonlocal was_read
            if was_read:
                await asyncio.Event().wait()
            was_read = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: MutableMapping[str, Any]) -> None:
            sent.append(message)

        await gateway(scope, receive, send)
        answer = b"".join(message.get("body", b"") for message in sent)
        if not answer.endswith(LAST_EVENT):
            raise AssertionError(answer[-300:])
        return answer

    return ask


async def asked_at(site: Site) -> dict[str, Callable[[], Awaitable[bytes]]]:
    """What asks each gateway, by what it does; all of them answer alike."""
    asked = {"plain": request(site.gateway({}))}
    asked["api_key"] = request(site.gateway({}), site.authorization)
    asked |= {name: request(site.gateway(duty)) for name, duty in DUTIES.items()}
    if len({(await ask()).count(b" word") for ask in asked.values()}) != 1:
        raise AssertionError("answers differ")
    return asked


async def measure(folder: Path, num_tokens: int) -> dict[str, Any]:
    site = Site(folder, num_tokens)
    found = await lowest_us(await asked_at(site))
    for tracer in site.tracers:
        tracer.close()
    plain = found.pop("plain")
    return {
        "answer_us": round(plain, 1),
        "token_us": round(plain / num_tokens, 2),
        "added_us_by_duty": {name: round(us - plain, 1) for name, us in found.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", nargs="?")
    parser.add_argument("--tokens", type=int, default=64)
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="rayapp-benchmark-") as folder:
        found = asyncio.run(measure(Path(folder), given.tokens))
    about = {
        "benchmark": "llm_gateway",
        "num_tokens": given.tokens,
        "python": platform.python_version(),
    }
    result = about | results_file.measured_here() | found
    results_file.tell(results_file.path_of("llm_gateway", given.output), result)


if __name__ == "__main__":
    main()
