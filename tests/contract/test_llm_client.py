"""What a gateway relies on of an engine: the fake of the unit tests, alone and as an engine in the
gateway's own process, and vLLM, by one suite.

The fake always. vLLM where RAYAPP_TEST_LLM_URL names a bare one, for example
    .venv-llm/bin/python -m vllm.entrypoints.openai.api_server --model FOLDER --port 8001
with any model that has a chat template and a context of at most 4096 tokens.
"""

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import httpx
import orjson
import pytest
from fake_llm import FakeLlm
from http_llm import HttpLlm

from rayapp.errors import Unavailable
from rayapp.schemas.language import Adapter, LlmClient, Open
from rayapp.serve.language.client import AdapterUnavailable, InlineLlm
from rayapp.serve.wire.sse import DONE, EventReader

URL = os.environ.get("RAYAPP_TEST_LLM_URL")
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
BOTH = {"include_usage": True, "continuous_usage_stats": True}


@dataclass
class Backend:
    """num_running: requests that the engine works on."""

    client: LlmClient
    model: str
    max_context_tokens: int
    num_running: Callable[[], Any]
    is_fake: bool

    def body(self, path: str, **fields: Any) -> bytes:
        asked = {"model": self.model, "max_tokens": 8, "temperature": 0, "ignore_eos": True}
        text = "one two three four five six seven eight nine ten"
        content: Any = {"prompt": text}
        if path == CHAT:
            content = {"messages": [{"role": "user", "content": text}]}
        return orjson.dumps({**asked, **content, **fields})

    async def answer(self, path: str, **fields: Any) -> tuple[int, Any]:
        answering = await self.client.open(path, self.body(path, **fields))
        parts = [part async for part in answering.body]
        return answering.status, orjson.loads(b"".join(parts))

    async def events(self, path: str, **fields: Any) -> list[Any]:
        """All but [DONE], which is the last."""
        body = self.body(path, stream=True, **fields)
        answering = await self.client.open(path, body)
        assert answering.status == 200
        reader, found = EventReader(), []
        async for part in answering.body:
            found += reader.feed(part)
        assert found[-1] == DONE
        return [orjson.loads(data) for data in found[:-1]]


@pytest.fixture(params=["fake", "inline", "vllm"])
async def backend(request: pytest.FixtureRequest) -> AsyncIterator[Backend]:
    if request.param != "vllm":
        fake = FakeLlm("engine", max_context_tokens=64)

        async def num_ongoing() -> int:
            return fake.num_ongoing

        client = fake if request.param == "fake" else InlineLlm("engine", opened_by(fake))
        yield Backend(client, "engine", 64, num_ongoing, is_fake=True)
        return
    if URL is None:
        pytest.skip("RAYAPP_TEST_LLM_URL names no bare vLLM")
    async with httpx.AsyncClient(base_url=URL, timeout=120) as http:
        (model,) = (await http.get("/v1/models")).json()["data"]

        async def num_running() -> int:
            lines = (await http.get("/metrics")).text.splitlines()
            (line,) = [one for one in lines if one.startswith("vllm:num_requests_running{")]
            return int(float(line.split()[-1]))

        length = model["max_model_len"]
        yield Backend(HttpLlm(http), model["id"], length, num_running, is_fake=False)


def opened_by(fake: FakeLlm) -> Open:
    """As an engine in the gateway's process opens an answer."""

    async def opened(*asked: Any) -> AsyncGenerator[int | bytes, None]:
        answering = await fake.open(*asked)
        async with aclosing(answering.body) as body:
            yield answering.status
            async for part in body:
                yield part

    return opened


def told(choice: dict[str, Any]) -> str:
    """What a choice of an event, or of a document, says."""
    of = choice.get("delta") or choice.get("message") or choice
    return of.get("content") or of.get("text") or ""


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
async def test_a_document_has_its_usage(backend: Backend, path: str) -> None:
    status, document = await backend.answer(path)
    assert status == 200
    usage = document["usage"]
    assert usage["completion_tokens"] == 8
    assert usage["total_tokens"] == usage["prompt_tokens"] + 8
    (choice,) = document["choices"]
    assert choice["finish_reason"] == "length"
    assert told(choice)


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
async def test_a_stream_says_what_a_document_does(backend: Backend, path: str) -> None:
    _, document = await backend.answer(path)
    events = await backend.events(path, stream_options=BOTH)
    *given, last = events
    assert all(len(event["choices"]) == 1 for event in given)
    assert "".join(told(event["choices"][0]) for event in given) == told(document["choices"][0])
    assert given[-1]["choices"][0]["finish_reason"] == "length"
    assert (last["choices"], last["usage"]["completion_tokens"]) == ([], 8)


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
async def test_each_event_of_a_stream_has_its_usage(backend: Backend, path: str) -> None:
    *given, last = await backend.events(path, stream_options=BOTH)
    counts = [event["usage"]["completion_tokens"] for event in given]
    assert counts == sorted(counts)
    assert counts[-1] == 8
    assert {event["usage"]["prompt_tokens"] for event in [*given, last]} == {
        last["usage"]["prompt_tokens"]
    }
    assert all(told(event["choices"][0]) == "" for event in given if not _num_output(event))
    without = await backend.events(path)
    assert all(event.get("usage") is None for event in without)


def _num_output(event: dict[str, Any]) -> int:
    return int(event["usage"]["completion_tokens"])


async def test_an_events_usage_is_of_its_choice_and_prompt(backend: Backend) -> None:
    """Only the last event has that of all together."""
    prompts = ["one two three four five six", "a b c d e f g h i j k l m n o"]
    *given, last = await backend.events(
        COMPLETIONS, prompt=prompts, n=2, temperature=0.5, stream_options=BOTH, max_tokens=4
    )
    of_choice, of_prompt = {}, {}
    for event in given:
        (choice,) = event["choices"]
        of_choice[choice["index"]] = _num_output(event)
        of_prompt[choice["index"] // 2] = event["usage"]["prompt_tokens"]
    assert of_choice == dict.fromkeys(range(4), 4)
    assert len(set(of_prompt.values())) == 2
    assert last["usage"]["prompt_tokens"] == sum(of_prompt.values())
    assert last["usage"]["completion_tokens"] == 16


async def test_a_chats_choices_are_counted_apart(backend: Backend) -> None:
    *given, last = await backend.events(
        CHAT, n=2, temperature=0.5, stream_options=BOTH, max_tokens=4
    )
    of_choice = {event["choices"][0]["index"]: _num_output(event) for event in given}
    assert of_choice == {0: 4, 1: 4}
    assert last["usage"]["completion_tokens"] == 8
    assert last["usage"]["prompt_tokens"] == given[0]["usage"]["prompt_tokens"]


@pytest.mark.parametrize("is_stream", [True, False])
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
async def test_what_is_too_long_is_refused(backend: Backend, path: str, is_stream: bool) -> None:
    status, told_ = await backend.answer(
        path, max_tokens=backend.max_context_tokens, stream=is_stream
    )
    assert status == 400
    assert str(backend.max_context_tokens) in told_["error"]["message"]
    assert isinstance(told_["error"]["type"], str)


async def test_a_model_that_is_not_there(backend: Backend) -> None:
    status, told_ = await backend.answer(CHAT, model="nobody")
    assert status == 404
    assert "nobody" in told_["error"]["message"]


@pytest.mark.parametrize("num_read", [0, 1])
async def test_closing_an_answer_ends_the_work_on_it(backend: Backend, num_read: int) -> None:
    most = min(40, backend.max_context_tokens - 60) if backend.is_fake else 400
    body = backend.body(COMPLETIONS, stream=True, max_tokens=max(most, 20))
    answering = await backend.client.open(COMPLETIONS, body)
    for _ in range(num_read):
        await anext(answering.body)
    async with asyncio.timeout(60):  # only keeps a test that hangs from saying nothing
        while not await backend.num_running():
            await asyncio.sleep(0.01)
        await answering.body.aclose()
        while await backend.num_running():
            await asyncio.sleep(0.01)
    status, _ = await backend.answer(COMPLETIONS)
    assert status == 200


async def test_an_engine_that_answers_is_there(backend: Backend) -> None:
    assert await backend.client.is_there()


async def test_nobody_is_there() -> None:
    fake = FakeLlm()
    fake.trouble.is_away = True
    inline = InlineLlm("engine", opened_by(fake))
    async with httpx.AsyncClient(base_url="http://127.0.0.1:9", timeout=5) as client:
        for absent in (fake, inline, HttpLlm(client)):
            with pytest.raises(Unavailable):
                await absent.open(CHAT, b"{}")


async def test_a_bare_engine_does_not_answer_for_an_adapter() -> None:
    """By its own weights it would answer as if nobody had tuned them."""
    adapter = Adapter("r1", "memory", ())
    async with httpx.AsyncClient(base_url="http://127.0.0.1:9", timeout=5) as http:
        with pytest.raises(AdapterUnavailable, match="loads no adapters"):
            await HttpLlm(http).open(CHAT, b"{}", adapter=adapter)


@pytest.mark.parametrize(("path", "wanted"), [(CHAT, True), (COMPLETIONS, 0)])
async def test_every_token_has_a_logprob_where_it_is_asked_for(
    backend: Backend, path: str, wanted: Any
) -> None:
    _, document = await backend.answer(path, logprobs=wanted)
    (choice,) = document["choices"]
    events = await backend.events(path, stream_options=BOTH, logprobs=wanted)
    given = [event["choices"][0] for event in events[:-1]]
    for found in (logprobs_of([choice]), logprobs_of(given)):
        assert len(found) == 8
        assert all(logprob <= 0 for logprob in found)
    assert logprobs_of([choice]) == pytest.approx(logprobs_of(given), abs=0.01)
    _, plain = await backend.answer(path)
    assert plain["choices"][0]["logprobs"] is None


def logprobs_of(choices: list[Any]) -> list[float]:
    found: list[float] = []
    for choice in choices:
        told = choice["logprobs"] or {}
        found += [token["logprob"] for token in told.get("content") or ()]
        found += told.get("token_logprobs") or ()
    return found
