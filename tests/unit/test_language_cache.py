"""Equal questions to a language model: answered once, where each time would give the same."""

import math
from collections.abc import AsyncGenerator
from hashlib import sha256
from typing import Any

import orjson
import pytest
from language_case import EMBEDDINGS, TEXT, LanguageCase, chat, text_of, with_settings
from serving_case import until

from rayapp.config.serving import CacheConfig
from rayapp.schemas.traffic import ApiKey
from rayapp.serve.language.ask import TextAsk, TextReply
from rayapp.serve.language.cache import TextCache
from rayapp.serve.wire.openai import Asked

KEYS = {"0" * 12: "acme", "1" * 12: "globex", "2" * 12: "acme"}
SECRET = "s" * 43


def case_of(**cache: Any) -> LanguageCase:
    models = {name: {"cache": {"ttl_s": 60, **cache}} for name in ("big", "vectors")}
    return LanguageCase(with_settings(models))


def body_of(document: bytes) -> Any:
    return orjson.loads(document)["choices"][0]["message"]["content"]


async def test_the_second_of_two_equal_questions_reaches_no_engine() -> None:
    case = case_of()
    first, second = [await case.chat(temperature=0) for _ in range(2)]
    assert first.content == second.content
    assert len(case.engine.asked) == 1
    assert second.headers["x-release"] == first.headers["x-release"]
    costs = [(r["num_prompt_tokens"], r["num_output_tokens"]) for r in case.sink.records]
    assert costs[0] == costs[1] == (6, 6)
    assert [r["request_id"] for r in case.sink.records] == [
        answer.headers["x-request-id"] for answer in (first, second)
    ]


async def test_a_stream_is_given_again_as_one() -> None:
    case = case_of()
    asked = chat(stream=True, temperature=0, stream_options={"include_usage": True})
    first, second = [await case.caller(asked).done() for _ in range(2)]
    assert len(case.engine.asked) == 1
    assert text_of(second.events) == text_of(first.events) == TEXT
    assert second.events == first.events
    assert second.events[-1] == "[DONE]"


async def test_vectors_are_kept_too() -> None:
    case = case_of()
    asked = {"model": "vectors", "input": ["a b", "c"]}
    answers = [await case.post(EMBEDDINGS, asked | {"user": str(n)}) for n in range(2)]
    assert answers[0].content == answers[1].content
    assert len(case.engines["vectors"].asked) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": 1},
        {"text": "other words"},
        {"max_tokens": 3},
        {"stop": "four"},
        {"stream": True},
        {"model": "small"},
    ],
)
async def test_another_question_is_asked(change: dict[str, Any]) -> None:
    case = case_of()
    await case.chat(temperature=0)
    await case.chat(**{"temperature": 0} | change)
    assert sum(len(engine.asked) for engine in case.engines.values()) == 2


async def test_what_is_left_to_chance_is_asked_each_time() -> None:
    case = case_of()
    for _ in range(2):
        await case.chat()
    assert len(case.engine.asked) == 2


async def test_no_tenant_gets_anothers_answer() -> None:
    models: dict[str, Any] = {"big": {"cache": {}}}
    case = LanguageCase(with_settings(models, requires_key=True))
    for key_id, tenant in KEYS.items():
        digest = sha256(SECRET.encode()).hexdigest()
        case.keys[key_id] = ApiKey(
            key_id=key_id, tenant=tenant, role="caller", secret_sha256=digest
        )
    case.ring.refresh()
    for key_id in (*KEYS, *KEYS):
        headers = {"authorization": f"Bearer rk_{key_id}_{SECRET}"}
        assert (await case.chat(headers=headers, temperature=0)).status_code == 200
    assert len(case.engine.asked) == 2


async def test_an_answer_that_broke_off_is_not_kept() -> None:
    case = case_of()
    asked = chat(stream=True, temperature=0)
    for trouble in ("breaks_at", "ends_at", "errs_at"):
        setattr(case.engine.trouble, trouble, 3)
        await case.caller(asked).done()
        setattr(case.engine.trouble, trouble, None)
    whole = await case.caller(asked).done()
    assert text_of(whole.events) == TEXT
    assert len(case.engine.asked) == 4


async def test_one_that_nobody_waited_for_is_not_kept() -> None:
    case = case_of()
    case.engine.trouble.hangs_at = 3
    caller = case.caller(chat(stream=True, temperature=0))
    await caller.has(2)
    caller.go()
    await caller.done()
    await until(case.is_idle)
    case.engine.trouble.hangs_at = None
    assert text_of((await case.caller(chat(stream=True, temperature=0)).done()).events) == TEXT
    assert len(case.engine.asked) == 2


async def test_what_is_too_large_is_passed_on_and_not_kept() -> None:
    case = case_of(max_bytes=4096)
    for _ in range(2):
        answer = await case.post(EMBEDDINGS, {"model": "vectors", "input": ["a"] * 100})
        assert len(answer.content) > 4096
    assert len(case.engines["vectors"].asked) == 2


async def test_an_answer_of_which_nobody_read_the_rest_is_closed() -> None:
    """By whoever has the reply, who may end before the second part of it."""
    was_closed = False

    async def rest() -> AsyncGenerator[bytes, None]:
        nonlocal was_closed
        try:
            yield b"first"
            yield b"second"
        finally:
            was_closed = True

    class Begun:
        async def predict(self, ask: TextAsk) -> TextReply:
            body = rest()
            return TextReply("r", await anext(body), body)

    asked = Asked("chat", "small", {"temperature": 0})
    cache = TextCache(Begun(), "r", CacheConfig(ttl_s=60))
    reply = await cache.predict(TextAsk("id", "/v1/chat/completions", asked, math.inf))
    await reply.body.aclose()
    assert was_closed
