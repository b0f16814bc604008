"""Many streams on one budget in tokens, while what answers them is killed."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import orjson
import pytest
from llm_head import (
    CROWD,
    CROWD_TOKENS,
    JSON,
    NUM_STREAMS,
    PART_TOKENS,
    PROMPT_TOKENS,
    Served,
    chat,
    engines,
    processes,
)
from waiting import until

from rayapp.observe.prompts import PROMPTS_TABLE, read_prompts

pytestmark = pytest.mark.slow
GATEWAY = "ray::ServeReplica:llm:language-gateway"
FAR = PART_TOKENS + 4
"""So many tokens a stream has when what answers it is killed: the first part is recorded, some of
the second is given."""
WITHOUT_END = {"0": -100, "1": -100, "2": -100}
"""The model's tokens that stand for no text: an engine counts them, and sends nothing of them."""
LOANS_END_S = 180
"""What a dead gateway had borrowed is settled once its last request is past its deadline."""


@dataclass
class Stream:
    """reason: the code of the error that ended it; None while it goes on, and where the connection
    broke without a word."""

    number: int
    num_tokens: int = 0
    text: str = ""
    status: int | None = None
    reason: str | None = None
    is_done: bool = False
    is_over: bool = False

    @property
    def request_id(self) -> str:
        return f"crowd-{self.number}"

    def hear(self, event: str) -> None:
        if event == "[DONE]":
            self.is_done = True
            return
        told = orjson.loads(event)
        if "error" in told:
            self.reason = told["error"]["code"]
        for choice in told.get("choices", ()):
            self.num_tokens += len((choice.get("logprobs") or {}).get("content") or ())
            self.text += choice["delta"].get("content") or ""


async def follow(client: httpx.AsyncClient, stream: Stream) -> None:
    body = chat(stream=True, max_tokens=1000, logprobs=True, logit_bias=WITHOUT_END)
    headers = JSON | {"x-request-id": stream.request_id}
    asked: Any = {"content": body, "headers": headers}
    try:
        while stream.status in (None, 503):  # more at once than a busy machine takes
            async with client.stream("POST", "/v1/chat/completions", **asked) as answer:
                stream.status = answer.status_code
                if answer.is_success:
                    async for line in answer.aiter_lines():
                        if line:
                            stream.hear(line.removeprefix("data: "))
                else:
                    stream.reason = orjson.loads(await answer.aread())["error"]["code"]
            if stream.status == 503:
                await asyncio.sleep(1)
    except httpx.TransportError:  # its gateway was killed
        stream.is_done = False
    stream.is_over = True


async def kill_amid(served: Served, key: str) -> list[Stream]:
    """A gateway first, then the engine, once some are cut by their budget and others far."""
    streams = [Stream(number) for number in range(NUM_STREAMS)]

    def is_amid() -> bool:
        was_cut = any(one.reason == "budget_exceeded" for one in streams)
        return was_cut and any(one.num_tokens >= FAR and not one.is_over for one in streams)

    headers = {"authorization": f"Bearer {key}"}
    limits = httpx.Limits(max_connections=NUM_STREAMS)
    async with (
        httpx.AsyncClient(
            base_url=served.url, headers=headers, timeout=300, limits=limits
        ) as client,
        asyncio.timeout(600),
        asyncio.TaskGroup() as group,
    ):
        for stream in streams:
            group.create_task(follow(client, stream))
        while not is_amid():
            await asyncio.sleep(0.1)
        gateway, _ = processes(served, GATEWAY)
        (engine,) = engines(served)
        gateway.kill()
        await asyncio.sleep(1)  # the survivor's streams go on
        engine.kill()
    return streams


def logged(served: Served, stream: Stream) -> tuple[int, str]:
    """Tokens of prompt and answer that were recorded, and the answer's text."""
    uri = served.shell.workspace.table(PROMPTS_TABLE)
    num_tokens, text = 0, ""
    for part in read_prompts(uri, request_id=stream.request_id).to_pylist():
        num_tokens += part["num_prompt_tokens"] + part["num_output_tokens"]
        text += "".join(said["text"] for said in orjson.loads(part["output"] or "[]"))
    return num_tokens, text


def account(served: Served, unit: str) -> dict[str, Any]:
    told: Sequence[dict[str, Any]] = served.shell.rayapp_json("spending")
    return next(one for one in told if (one["tenant"], one["unit"]) == (CROWD, unit))


def test_what_dies_amid_many_streams_neither_overspends_nor_leaks(served: Served) -> None:
    key = served.key_of(CROWD)
    with served.client(key) as client:
        streams = asyncio.run(kill_amid(served, key))
        reasons = Counter(one.reason for one in streams)
        broken = [one for one in streams if not one.is_done and one.status == 200]
        assert set(reasons) == {"budget_exceeded", "unavailable", None}, reasons
        assert reasons[None] == len(broken) < NUM_STREAMS - 8, reasons

        def ask(max_tokens: int) -> httpx.Response:
            body = chat(max_tokens=max_tokens)
            return client.post("/v1/chat/completions", content=body, headers=JSON)

        until(lambda: account(served, "tokens")["lent"] == 0, wait_s=LOANS_END_S)
        found = account(served, "tokens")
        assert found["spent"] == found["logged"] <= CROWD_TOKENS
        for one in streams:
            given = one.num_tokens + PROMPT_TOKENS if one.num_tokens else 0
            num_logged, text = logged(served, one)
            if one.is_done:
                assert (num_logged, text) == (given, one.text), one
            else:  # a prompt is paid with the first part
                assert given - num_logged <= PART_TOKENS + (0 if num_logged else PROMPT_TOKENS), one

        # All that is left can be had, and no more; the money that was set aside is back, too.
        left = CROWD_TOKENS - found["spent"]
        assert ask(left - PROMPT_TOKENS + 1).json()["error"]["code"] == "budget_exceeded"
        until(lambda: ask(left - PROMPT_TOKENS).is_success, wait_s=400)  # the engine is back
        until(lambda: account(served, "nano_usd")["lent"] == 0)
        money = account(served, "nano_usd")
        assert money["spent"] == money["logged"]
