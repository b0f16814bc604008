"""Load on a server of OpenAI's chat interface, streamed: so many at a time, or by a trace."""

import asyncio
import csv
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import orjson

NUM_TOKENS = 64
WORDS = (
    *("river", "stone", "light", "under", "morning", "paper", "garden", "winter", "copper"),
    *("silver", "market", "engine", "letter", "window", "harbour", "valley", "bridge", "meadow"),
)
TRACE_CONTEXT_SHARE, TRACE_OUTPUT_SHARE = 1 / 8, 1 / 4
MAX_CONTEXT, MAX_OUTPUT = 400, 64


@dataclass(frozen=True)
class Server:
    """One to be asked. model: as it calls the model. key: that it wants, if any."""

    url: str
    model: str
    key: str | None = None


@dataclass(frozen=True)
class Wanted:
    """at_s: after the beginning; 0 where the load is closed."""

    prompt: str
    num_tokens: int
    at_s: float = 0.0


@dataclass(frozen=True)
class Seen:
    """Of one answer. first_token_s: since the request was meant to be sent."""

    first_token_s: float
    total_s: float
    num_tokens: int


def closed(num_requests: int, seed: int, num_tokens: int = NUM_TOKENS) -> list[Wanted]:
    """Prompts of some twenty words, no two alike."""
    dice = random.Random(seed)
    return [
        Wanted(f"Tell me a story of {' '.join(dice.choices(WORDS, k=12))}.", num_tokens)
        for _ in range(num_requests)
    ]


def traced(path: Path, num_requests: int, rate_rps: float, seed: int) -> list[Wanted]:
    """The beginning of an Azure LLM inference trace (columns TIMESTAMP, ContextTokens,
    GeneratedTokens), its lengths scaled down and its time so that `rate_rps` come on average."""
    dice = random.Random(seed)
    with path.open() as file:
        rows = [row for row, _ in zip(csv.DictReader(file), range(num_requests), strict=False)]
    times = [datetime.fromisoformat(row["TIMESTAMP"][:26]).timestamp() for row in rows]
    scale = len(rows) / rate_rps / max(times[-1] - times[0], 1e-9)
    return [
        Wanted(
            " ".join(dice.choices(WORDS, k=_scaled(row, "ContextTokens", TRACE_CONTEXT_SHARE))),
            _scaled(row, "GeneratedTokens", TRACE_OUTPUT_SHARE),
            (at - times[0]) * scale,
        )
        for row, at in zip(rows, times, strict=True)
    ]


def _scaled(row: dict[str, str], name: str, share: float) -> int:
    most = MAX_CONTEXT if name == "ContextTokens" else MAX_OUTPUT
    return max(1, min(most, round(int(row[name]) * share)))


async def ask(session: aiohttp.ClientSession, server: Server, wanted: Wanted) -> Seen:
    """Raises RuntimeError for an answer that is not whole."""
    body = {
        "model": server.model,
        "messages": [{"role": "user", "content": wanted.prompt}],
        "max_tokens": wanted.num_tokens,
        "min_tokens": wanted.num_tokens,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    headers = {} if server.key is None else {"authorization": f"Bearer {server.key}"}
    begun_s, first_s, usage = time.perf_counter(), None, None
    url = f"{server.url}/v1/chat/completions"
    async with session.post(url, json=body, headers=headers) as response:
        if response.status != 200:
            raise RuntimeError(f"{response.status}: {(await response.text())[:300]}")
        async for line in response.content:
            if not line.startswith(b"data: {"):
                continue
            event: dict[str, Any] = orjson.loads(line[6:])
            if event.get("choices") and event["choices"][0]["delta"].get("content"):
                first_s = first_s or time.perf_counter()
            usage = event.get("usage") or usage
    if first_s is None or usage is None or usage["completion_tokens"] != wanted.num_tokens:
        raise RuntimeError(f"{wanted.num_tokens} tokens were asked for, usage is {usage}")
    return Seen(first_s - begun_s, time.perf_counter() - begun_s, wanted.num_tokens)


async def loaded(
    server: Server, requests: Sequence[Wanted], concurrency: int | None
) -> dict[str, float]:
    """Ask them all, `concurrency` at a time; None: each at its own time. Figures of it."""
    waiting = list(requests)
    seen: list[Seen] = []
    timeout = aiohttp.ClientTimeout(total=600)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        begun_s = time.perf_counter()

        async def work() -> None:
            while waiting:
                seen.append(await ask(session, server, waiting.pop()))

        async def later(wanted: Wanted) -> None:
            await asyncio.sleep(max(0.0, wanted.at_s - (time.perf_counter() - begun_s)))
            seen.append(await ask(session, server, wanted))

        if concurrency is None:
            await asyncio.gather(*map(later, requests))
        else:
            await asyncio.gather(*(work() for _ in range(concurrency)))
        taken_s = time.perf_counter() - begun_s
    return figures(seen, taken_s)


def figures(seen: Sequence[Seen], taken_s: float) -> dict[str, float]:
    num_tokens = sum(one.num_tokens for one in seen)
    first_ms = np.array([one.first_token_s for one in seen]) * 1000
    total_ms = np.array([one.total_s for one in seen]) * 1000
    quantiles = {
        f"{name}_p{percent}_ms": float(np.percentile(values, percent))
        for name, values in (("ttft", first_ms), ("total", total_ms))
        for percent in (50, 95)
    }
    return {"num_requests": len(seen), "tokens_per_s": num_tokens / taken_s, **quantiles}
