"""OpenAI's interface as a whole: paths, receipts, the shape of errors, whole answers, vectors."""

from typing import Any

import httpx
import orjson
import pytest
from language_case import (
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    TEXT,
    LanguageCase,
    chat,
    known_key,
    with_settings,
)

from rayapp.config.tenants import LimitsConfig
from rayapp.serve.callers.limits import Grant, Limiter

DIGEST = "digest-of-engine"


@pytest.fixture
def case() -> LanguageCase:
    return LanguageCase()


def told(answer: httpx.Response) -> tuple[int, str, str]:
    """Of an error: its status, OpenAI's type and our kind. Its shape is always the same."""
    assert answer.headers["content-type"] == "application/json"
    (name, error), *others = answer.json().items()
    assert (name, others) == ("error", [])
    assert set(error) == {"message", "type", "param", "code"}
    assert "; next: " in error["message"]
    return answer.status_code, error["type"], error["code"]


async def get(case: LanguageCase, path: str, **headers: str) -> httpx.Response:
    async with case.client() as client:
        return await client.get(path, headers=headers)


# paths


@pytest.mark.parametrize("prefix", ["/v1", ""])  # Ray Serve takes an application's prefix off
async def test_models_are_listed_and_looked_up(case: LanguageCase, prefix: str) -> None:
    listed = (await get(case, f"{prefix}/models")).json()
    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == ["big", "small", "vectors"]
    one = await get(case, f"{prefix}/models/big")
    assert one.json() == listed["data"][0]
    assert one.json()["object"] == "model"
    assert one.headers["x-release"] == DIGEST
    assert {endpoint for endpoint, _, _ in case.meter.requests} == {"none"}  # no model was asked


@pytest.mark.parametrize("path", ["/v1/models/huge", "/v1/models/a/b"])
async def test_a_model_that_is_not_there(case: LanguageCase, path: str) -> None:
    answer = await get(case, path)
    assert told(answer) == (404, "not_found_error", "model_not_found")
    assert answer.json()["error"]["param"] == "model"
    assert "big" in answer.json()["error"]["message"]
    asked = await case.chat(model="huge")
    assert told(asked) == (404, "not_found_error", "model_not_found")
    assert [endpoint for endpoint, _, _ in case.meter.requests] == ["none", "none"]


async def test_other_paths_and_methods(case: LanguageCase) -> None:
    assert told(await get(case, "/v1/files")) == (404, "not_found_error", "unknown_path")
    answer = await get(case, CHAT)
    assert told(answer) == (405, "invalid_request_error", "method_not_allowed")
    assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize("path", ["/v1", "/v1/", "/", ""])
async def test_nothing_at_the_root_is_told_by_the_callers_path(
    case: LanguageCase, path: str
) -> None:
    answer = await get(case, path)
    assert told(answer) == (404, "not_found_error", "unknown_path")
    assert "nothing at '/v1';" in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/ping", "/ping"])
async def test_a_health_check_needs_no_key(path: str) -> None:
    case = LanguageCase(with_settings(requires_key=True))
    assert (await get(case, path)).json() == {"ready": True}


async def test_an_engine_that_could_not_be_asked_is_named(case: LanguageCase) -> None:
    async def problems() -> Any:
        state = (await get(case, "/v1/ping")).json()
        assert state["ready"] is True  # a gateway that answers is not to be taken away
        return state["problems"]

    assert await problems() == {}
    case.engine.trouble.is_away = True
    assert (await case.chat()).status_code == 503
    told_ = await problems()
    assert list(told_) == ["engines/engine"]
    assert "s ago, was not taken: nobody is there" in told_["engines/engine"]
    case.engine.trouble.is_away = False
    assert (await case.chat()).status_code == 200
    assert await problems() == {}


async def test_an_engine_that_has_not_loaded_yet_is_named(case: LanguageCase) -> None:
    async def problems() -> Any:
        return (await get(case, "/v1/ping")).json()["problems"]

    case.engine.trouble.is_loading = True
    starting = {"engines/engine": "starting: it has no replica that has loaded yet"}
    assert await problems() == starting  # though nobody has asked it anything
    answer = await case.chat(headers={"x-deadline-ms": "50"})
    assert told(answer) == (504, "server_error", "deadline_exceeded")
    message = answer.json()["error"]["message"]
    assert "no answer within" in message
    assert "engines/engine may still be loading" in message
    assert "once `problems` of GET /v1/ping, with a key," in message
    assert await problems() == starting
    case.engine.trouble.is_loading = False
    assert await problems() == {}


async def test_an_engine_that_is_busy_is_not_told_to_be_loading(case: LanguageCase) -> None:
    case.engine.trouble.hangs_before = True
    answer = await case.chat(headers={"x-deadline-ms": "50"})
    assert told(answer)[0] == 504
    assert "loading" not in answer.json()["error"]["message"]
    assert "give it more time in x-deadline-ms" in answer.json()["error"]["message"]
    assert (await get(case, "/v1/ping")).json()["problems"] == {}


async def test_an_arm_that_has_not_loaded_yet_is_told_of_too() -> None:
    arms = {"next": {"model": "small", "share": 1}}
    case = LanguageCase(with_settings({"big": {"split": {"salt": "s", "arms": arms}}}))
    case.engines["other"].trouble.is_loading = True
    answer = await case.chat(headers={"x-deadline-ms": "50"})
    assert told(answer)[0] == 504
    assert "engines/other may still be loading" in answer.json()["error"]["message"]


# errors


async def test_who_may_not_ask(case: LanguageCase) -> None:
    case = LanguageCase(with_settings(requires_key=True))
    answer = await case.chat()
    assert told(answer) == (401, "authentication_error", "unauthorized")
    assert answer.headers["www-authenticate"] == "Bearer"
    key = known_key(case, "reader")
    answer = await case.chat(headers=key)
    assert told(answer)[:2] == (403, "permission_error")
    assert (await get(case, "/v1/models", **key)).status_code == 200


async def test_bodies_that_are_not_read(case: LanguageCase) -> None:
    case = LanguageCase(with_settings(max_body_bytes=1024))
    answer = await case.chat("x " * 1000)
    assert told(answer) == (413, "invalid_request_error", "body_too_large")
    assert "rows" not in answer.json()["error"]["message"]
    answer = await case.post(CHAT, chat(), {"content-type": "text/plain"})
    assert told(answer) == (415, "invalid_request_error", "unsupported_media_type")


async def test_too_many_requests(case: LanguageCase) -> None:
    limits = LimitsConfig.model_validate({"default": {"requests_per_s": 1, "burst": 1}})

    async def lease(tenant: str, wanted: float) -> Grant:
        return Grant(0, 5)

    case = LanguageCase(limiter=Limiter(limits, lease, 1, lambda: 50.0))
    answer = await case.chat()
    assert told(answer) == (429, "rate_limit_error", "rate_limited")
    assert int(answer.headers["retry-after"]) >= 1


async def test_a_full_replica(case: LanguageCase) -> None:
    case = LanguageCase(with_settings(max_ongoing_requests=1))
    case.engine.trouble.hangs_before = True
    first = case.caller(chat())
    second = case.caller(chat())
    await second.done()
    assert second.status == 503
    error = orjson.loads(second.body)["error"]
    assert (error["type"], error["code"]) == ("server_error", "unavailable")
    assert second.headers["retry-after"] == "1"
    first.go()
    await first.done()
    assert case.is_idle()


async def test_an_engine_that_is_away_or_fails(case: LanguageCase) -> None:
    case.engine.trouble.is_away = True
    assert told(await case.chat()) == (503, "server_error", "unavailable")
    case.engine.trouble.is_away = False
    case.engine.trouble.status = 500
    answer = await case.chat()
    assert told(answer) == (503, "server_error", "unavailable")
    assert "inside" not in answer.text
    assert case.is_idle()


async def test_a_bug_tells_nothing(case: LanguageCase) -> None:
    def failing(fields: Any) -> list[int]:
        raise ZeroDivisionError("a secret")

    case.counts = failing
    answer = await case.chat()
    assert told(answer) == (500, "server_error", "internal")
    assert "secret" not in answer.text


async def test_what_the_engine_finds_wrong_is_for_the_caller(case: LanguageCase) -> None:
    answer = await case.chat(temperature=1.5)
    assert told(answer) == (400, "invalid_request_error", "invalid_request")
    assert "not that hot" in answer.json()["error"]["message"]
    case.engine.model = "renamed"  # whatever the engine is called is no matter of the caller's
    answer = await case.chat()
    assert told(answer)[0] == 503
    assert "renamed" not in answer.text


@pytest.mark.parametrize("ends_at", [0, 1])
async def test_a_document_that_breaks_off(case: LanguageCase, ends_at: int) -> None:
    case.engine.trouble.ends_at = ends_at
    assert told(await case.chat()) == (503, "server_error", "unavailable")
    case.engine.trouble.ends_at = None
    case.engine.trouble.breaks_at = ends_at
    assert told(await case.chat()) == (503, "server_error", "unavailable")
    assert case.is_idle()
    assert case.sink.records == []


# receipts


async def test_every_answer_has_a_receipt(case: LanguageCase) -> None:
    answer = await case.chat(headers={"x-request-id": "mine"})
    assert answer.headers["x-request-id"] == "mine"
    assert answer.headers["x-release"] == DIGEST
    assert "x-degraded" not in answer.headers
    refused = await case.chat(temperature=9, headers={"x-request-id": "mine"})
    assert refused.headers["x-request-id"] == "mine"
    wrong = await case.chat(headers={"x-request-id": "no spaces"})
    assert told(wrong) == (400, "invalid_request_error", "bad_request_id")
    away = await case.chat(max_tokens=1000)  # whose model is known by then
    assert away.headers["x-release"] == DIGEST
    statuses = [(endpoint, release, status) for endpoint, release, status in case.meter.requests]
    assert statuses == [
        ("big", DIGEST, 200),
        ("none", "none", 400),
        ("none", "none", 400),
        ("big", DIGEST, 400),
    ]


# whole answers


async def test_a_whole_answer(case: LanguageCase) -> None:
    answer = (await case.chat()).json()
    assert answer["model"] == "big"
    assert answer["system_fingerprint"] == f"fp_{DIGEST[:12]}"
    (choice,) = answer["choices"]
    assert choice["message"] == {"role": "assistant", "content": TEXT}
    assert choice["finish_reason"] == "stop"
    assert answer["usage"]["prompt_tokens"] == answer["usage"]["completion_tokens"] == 6
    assert case.engine.asked[0][1]["model"] == "engine"
    (record,) = case.sink.records
    assert record["part"] == 0
    assert record["finish_reason"] == "stop"
    assert record["first_token_ms"] <= record["latency_ms"]
    assert orjson.loads(record["output"]) == [{"index": 0, "text": TEXT}]
    assert orjson.loads(record["prompt"])["messages"][0]["content"] == TEXT
    assert record["route"] == CHAT
    assert case.meter.first_tokens == ["big"]
    assert case.meter.cuts == []
    counts = {"prompt": 6, "cached": 0, "output": 6}
    assert case.meter.token_counts == [("big", DIGEST, None, counts)]


async def test_what_only_the_engines_makers_need_is_left_out(case: LanguageCase) -> None:
    answer = (await case.chat()).json()
    assert set(answer) == {
        *("id", "object", "created", "model", "choices", "usage", "system_fingerprint")
    }
    (choice,) = answer["choices"]
    assert set(choice) == {"index", "message", "logprobs", "finish_reason"}
    asked = {"model": "big", "prompt": "a b"}
    (choice,) = (await case.post(COMPLETIONS, asked)).json()["choices"]
    assert choice == {"index": 0, "text": "a b", "logprobs": None, "finish_reason": "stop"}


async def test_choices_and_their_lengths(case: LanguageCase) -> None:
    answer = (await case.chat(n=3, max_tokens=5)).json()
    found = [(c["message"]["content"], c["finish_reason"]) for c in answer["choices"]]
    assert found == [
        ("one two three four five ", "length"),
        ("one two three four five ", "stop"),
        ("one two three four ", "stop"),
    ]
    assert answer["usage"]["completion_tokens"] == 14
    (record,) = case.sink.records
    assert record["num_output_tokens"] == 14
    assert len(orjson.loads(record["output"])) == 3


async def test_tools_pass_through(case: LanguageCase) -> None:
    tools = [{"type": "function", "function": {"name": "look", "parameters": {}}}]
    answer = (await case.chat(tools=tools, tool_choice="required")).json()
    assert case.engine.asked[0][1]["tools"] == tools
    (choice,) = answer["choices"]
    assert choice["finish_reason"] == "tool_calls"
    (call,) = choice["message"]["tool_calls"]
    assert call["function"] == {"name": "look", "arguments": TEXT}
    assert choice["message"]["content"] is None
    (said,) = orjson.loads(case.sink.records[0]["output"])
    assert said["tool_calls"][0]["function"]["arguments"] == TEXT


# how long an answer may be


@pytest.mark.parametrize(
    ("fields", "max_tokens"),
    [
        ({}, 20),
        ({"max_tokens": 3}, 3),
        ({"max_completion_tokens": 4}, 4),
        ({"max_tokens": None, "max_completion_tokens": 4}, 4),
        ({"max_tokens": 58}, 58),
    ],
)
async def test_the_engine_is_told_how_long_an_answer_may_be(
    case: LanguageCase, fields: dict[str, Any], max_tokens: int
) -> None:
    assert (await case.chat(**fields)).status_code == 200
    asked = case.engine.asked[0][1]
    assert asked["max_tokens"] == max_tokens
    assert "max_completion_tokens" not in asked


async def test_near_the_end_of_the_context_there_is_less(case: LanguageCase) -> None:
    assert (await case.chat("x " * 50)).status_code == 200
    assert case.engine.asked[0][1]["max_tokens"] == 14


@pytest.mark.parametrize(
    ("text", "fields", "says"),
    [
        (
            "x " * 64,
            {},
            "`messages` has 64 tokens, the model takes at most 64, the answer",
        ),
        (TEXT, {"max_tokens": 59}, "`messages` has 6 tokens and max_tokens is 59, the model takes"),
    ],
)
async def test_what_does_not_fit_is_refused_before_the_engine_is_asked(
    case: LanguageCase, text: str, fields: dict[str, Any], says: str
) -> None:
    answer = await case.chat(text, **fields)
    assert told(answer) == (400, "invalid_request_error", "context_length_exceeded")
    assert says in answer.json()["error"]["message"]
    assert case.engine.asked == []


async def test_each_of_several_prompts_has_the_whole_context(case: LanguageCase) -> None:
    prompts = ["x " * 40, "y " * 40]
    answer = await case.post(COMPLETIONS, {"model": "big", "prompt": prompts, "max_tokens": 2})
    assert [choice["text"] for choice in answer.json()["choices"]] == ["x x ", "y y "]
    refused = await case.post(COMPLETIONS, {"model": "big", "prompt": ["a", "x " * 64]})
    assert told(refused) == (400, "invalid_request_error", "context_length_exceeded")
    assert refused.json()["error"]["param"] == "prompt[1]"


# vectors


async def test_vectors(case: LanguageCase) -> None:
    texts = ["a b", "c", "x " * 62]  # together more than the model takes, each less
    answer = await case.post(EMBEDDINGS, {"model": "vectors", "input": texts})
    assert answer.status_code == 200
    found = answer.json()
    assert [one["embedding"][0] for one in found["data"]] == [2, 1, 62]
    assert (found["model"], found["usage"]["prompt_tokens"]) == ("vectors", 65)
    (record,) = case.sink.records
    counted = (record["num_prompt_tokens"], record["num_output_tokens"], record["output"])
    assert counted == (65, 0, None)
    assert record["first_token_ms"] is None
    assert orjson.loads(record["prompt"])["input"] == texts
    long = await case.post(EMBEDDINGS, {"model": "vectors", "input": "x " * 65})
    assert told(long) == (400, "invalid_request_error", "context_length_exceeded")


async def test_a_model_of_vectors_writes_no_text_and_the_other_way(case: LanguageCase) -> None:
    answer = await case.chat(model="vectors")
    assert told(answer) == (400, "invalid_request_error", "wrong_task")
    answer = await case.post(EMBEDDINGS, {"model": "big", "input": "a"})
    assert told(answer) == (400, "invalid_request_error", "wrong_task")
    assert [engine.asked for engine in case.engines.values()] == [[], [], []]


# tenants


async def test_only_tenants_that_are_told_apart_are_kept_apart(case: LanguageCase) -> None:
    key = known_key(case)
    assert (await case.chat(headers=key)).status_code == 200
    assert "cache_salt" not in case.engine.asked[0][1]
    strict = LanguageCase(with_settings(requires_key=True))
    key = known_key(strict)
    assert (await strict.chat(headers=key)).status_code == 200
    assert strict.engine.asked[0][1]["cache_salt"] == "acme"
    assert strict.sink.records[0]["tenant"] == "acme"
