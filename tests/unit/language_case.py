"""A gateway for language models around fake engines, and a caller that speaks ASGI by hand."""

import asyncio
import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import fake_llm
import httpx
import orjson
from fake_llm import FakeLlm
from serving_case import NOON, MemoryMeter, MemorySink

from rayapp.config.language import LanguageConfig
from rayapp.schemas.language import Task, WeightsRef
from rayapp.schemas.traffic import ApiKey, Role
from rayapp.serve.background import Background
from rayapp.serve.callers.budgets import Budgets
from rayapp.serve.callers.identity import KeyRing
from rayapp.serve.callers.limits import Limiter
from rayapp.serve.callers.token_limits import TokenLimiter
from rayapp.serve.flags import Flags
from rayapp.serve.follow import ChampionFollower
from rayapp.serve.language.adapters import Adapted
from rayapp.serve.language.charges import Payers
from rayapp.serve.language.gateway import LanguageGateway
from rayapp.serve.language.served import CountTokens, Engine

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
TEXT = "one two three four five six"
CONFIG: dict[str, Any] = {
    "engines": {
        "engine": {"weights": "big", "retry_share": 0},
        "other": {"weights": "small", "retry_share": 0},
        "vectors": {"weights": "vectors"},
    },
    "models": {
        "big": {"engine": "engine", "max_output_tokens": 20},
        "small": {"engine": "other"},
        "vectors": {"engine": "vectors"},
    },
}
TASKS: dict[str, Task] = {"engine": "generate", "other": "generate", "vectors": "embed"}


def with_settings(models: Mapping[str, Any] | None = None, **extra: Any) -> Any:
    """The config of these tests, changed. models: settings of a model, by its name; of one that is
    not there all of them."""
    given = models or {}
    changed = {
        name: {**MODELS.get(name, {}), **given.get(name, {})} for name in {**MODELS, **given}
    }
    return LanguageConfig.model_validate({**CONFIG, "models": changed, **extra})


MODELS: dict[str, dict[str, Any]] = CONFIG["models"]


def weights(name: str, task: Task) -> WeightsRef:
    return WeightsRef(
        name=name,
        uri="memory",
        digest=f"digest-of-{name}",
        files=(),
        task=task,
        source="nowhere",
        source_sha256=None,
        license="none",
        architecture="none",
        num_parameters=1,
        max_context_tokens=64,
    )


@dataclass
class LanguageCase:
    """counts: how the gateway counts tokens, where that is not as the engine does."""

    config: LanguageConfig = field(default_factory=with_settings)
    budgets: Budgets | None = None
    token_budgets: Budgets | None = None
    limiter: Limiter | None = None
    token_limiter: TokenLimiter | None = None
    counts: CountTokens = fake_llm.count
    follower: ChampionFollower[Adapted] | None = None
    flags: Flags | None = None
    later_s: float = 0.0
    """How much later it is for deadlines than by the clock."""

    def __post_init__(self) -> None:
        self.engines = {name: FakeLlm(name) for name in self.config.engines}
        self.engine = self.engines["engine"]
        self.sink = MemorySink()
        self.meter = MemoryMeter()
        self.keys: dict[str, ApiKey] = {}
        self.ring = KeyRing(lambda: self.keys, self.config.requires_key)
        known = {
            name: Engine(name, fake, weights(name, TASKS[name]), 64, lambda f: self.counts(f))
            for name, fake in self.engines.items()
        }
        self.app = LanguageGateway(
            self.config,
            known,
            lambda endpoint: self.sink,
            self.meter,
            Background(lambda patience_s: None, 1, lambda: None, 1, lambda: None),
            lambda: NOON,
            self.ring,
            limiter=self.limiter,
            payers=Payers(self.budgets, self.token_budgets),
            token_limiter=self.token_limiter,
            follower=self.follower,
            flags=self.flags,
        )
        self.app._deadlines._clock_s = lambda: time.monotonic() + self.later_s

    def client(self) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(app=self.app, raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url="http://gateway")

    async def post(
        self, path: str, asked: Any, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        async with self.client() as client:
            content = asked if isinstance(asked, bytes) else orjson.dumps(asked)
            given = {"content-type": "application/json", **(headers or {})}
            return await client.post(path, content=content, headers=given)

    async def chat(
        self, text: str = TEXT, headers: Mapping[str, str] | None = None, **fields: Any
    ) -> httpx.Response:
        return await self.post(CHAT, chat(text, **fields), headers)

    def caller(self, asked: Any, path: str = CHAT, **headers: str) -> "Caller":
        return Caller(self.app, path, orjson.dumps(asked), headers)

    @property
    def output(self) -> str:
        """The text of the one choice that was recorded, over all parts."""
        parts = [orjson.loads(r["output"]) for r in self.sink.records if r["output"]]
        return "".join(choice.get("text", "") for part in parts for choice in part)

    def is_idle(self) -> bool:
        """Nothing of any request is left anywhere."""
        return not self.app.num_ongoing and not any(e.num_ongoing for e in self.engines.values())


def known_key(case: LanguageCase, role: Role = "caller") -> dict[str, str]:
    """The header of a key that the gateway knows."""
    secret, key_id = "s" * 43, "0123456789ab"
    digest = hashlib.sha256(secret.encode()).hexdigest()
    case.keys[key_id] = ApiKey(key_id=key_id, tenant="acme", role=role, secret_sha256=digest)
    case.ring.refresh()
    return {"authorization": f"Bearer rk_{key_id}_{secret}"}


def chat(text: str = TEXT, **fields: Any) -> dict[str, Any]:
    return {"model": "big", "messages": [{"role": "user", "content": text}], **fields}


def events_of(body: bytes) -> list[Any]:
    """[DONE] as it is."""
    assert body.endswith(b"\n\n") or not body
    texts = [line.removeprefix(b"data: ") for line in body.split(b"\n\n")[:-1]]
    return [text.decode() if text == b"[DONE]" else orjson.loads(text) for text in texts]


def text_of(events: Sequence[Any], at: int = 0) -> str:
    """What the events say for one choice."""
    found = []
    for event in events:
        for choice in event.get("choices", ()) if isinstance(event, dict) else ():
            if choice["index"] == at:
                found.append(choice.get("text") or choice.get("delta", {}).get("content") or "")
    return "".join(found)


class Caller:
    """One request by ASGI, whose answer is seen piece by piece. It reads while is_reading."""

    def __init__(self, app: Any, path: str, body: bytes, headers: Mapping[str, str]) -> None:
        self._inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._inbox.put_nowait({"type": "http.request", "body": body, "more_body": False})
        self._changed = asyncio.Event()
        self.is_reading = asyncio.Event()
        self.is_reading.set()
        self.breaks: Exception | None = None
        self.status: int | None = None
        self.headers: dict[str, str] = {}
        self.body = b""
        self.is_complete = False
        scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "headers": [
                (name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()
            ],
        }
        self.task = asyncio.create_task(app(scope, self._inbox.get, self._send))

    async def _send(self, message: Any) -> None:
        if self.breaks is not None:
            raise self.breaks
        await self.is_reading.wait()
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {n.decode(): v.decode() for n, v in message["headers"]}
        else:
            self.body += message.get("body", b"")
            self.is_complete = not message.get("more_body", False)
        self._changed.set()

    @property
    def events(self) -> list[Any]:
        return events_of(self.body)

    def go(self) -> None:
        self._inbox.put_nowait({"type": "http.disconnect"})

    async def has(self, num_events: int) -> list[Any]:
        """The events, once there are so many."""
        async with asyncio.timeout(10):  # only keeps a test that hangs from saying nothing
            while len(self.events) < num_events:
                self._changed.clear()
                await self._changed.wait()
        return self.events

    async def done(self) -> "Caller":
        async with asyncio.timeout(10):
            await self.task
        return self
