"""What stands between a request and an engine: deadlines, another try, another model, a breaker."""

from typing import Any

import orjson
import pytest
from language_case import TEXT, LanguageCase, chat, text_of, with_settings
from serving_case import until

RETRIED: dict[str, Any] = {
    "engines": {
        "engine": {"weights": "big"},
        "other": {"weights": "small", "retry_share": 0},
        "vectors": {"weights": "vectors"},
    }
}
STOOD_IN: dict[str, Any] = {"big": {"fallback": [{"model": "small"}], "timeout_ms": 60_000}}


def code_of(body: bytes) -> str:
    return str(orjson.loads(body)["error"]["code"])


# deadlines


@pytest.mark.parametrize("is_stream", [True, False])
async def test_a_deadline_before_an_answer_begins(is_stream: bool) -> None:
    case = LanguageCase()
    case.engine.trouble.hangs_before = True
    caller = case.caller(chat(stream=is_stream))
    await until(lambda: case.engine.num_ongoing)
    case.later_s = 120
    await caller.done()
    assert (caller.status, code_of(caller.body)) == (504, "deadline_exceeded")
    assert orjson.loads(caller.body)["error"]["type"] == "server_error"
    assert (case.is_idle(), case.sink.records) == (True, [])


async def test_a_deadline_while_a_whole_answer_comes() -> None:
    case = LanguageCase()
    case.engine.trouble.hangs_at = 1
    caller = case.caller(chat())
    await until(lambda: case.engine.num_ongoing)
    case.later_s = 120
    await caller.done()
    assert (caller.status, code_of(caller.body)) == (504, "deadline_exceeded")
    assert (case.is_idle(), case.sink.records) == (True, [])


@pytest.mark.parametrize("headers", [{}, {"x_deadline_ms": "60000"}])
async def test_a_deadline_within_a_stream(headers: dict[str, str]) -> None:
    case = LanguageCase(with_settings(record_every_tokens=2))
    case.engine.trouble.hangs_at = 4
    caller = case.caller(chat(stream=True), **headers)
    await caller.has(4)
    case.later_s = 60 if headers else 120
    await caller.done()
    *given, told, last = caller.events
    assert (text_of(given), last) == ("one two three ", "[DONE]")
    assert told["error"]["code"] == "deadline_exceeded"
    assert caller.is_complete
    assert case.sink.records[-1]["finish_reason"] == "deadline"
    assert sum(record["num_output_tokens"] for record in case.sink.records) == 3
    assert case.meter.cuts == [("big", "deadline")]
    assert case.is_idle()


async def test_a_deadline_that_is_over_asks_nobody() -> None:
    case = LanguageCase()
    case.later_s = 1e6
    assert (await case.chat()).status_code == 504
    assert case.engine.asked == []


# another try


async def test_an_engine_is_asked_once_more() -> None:
    case = LanguageCase(with_settings(**RETRIED))
    case.engine.trouble.is_away = True
    assert (await case.chat()).status_code == 503
    assert case.meter.second_asks == ["retry"]
    case.engine.trouble.is_away = False
    case.engine.trouble.status = 500
    assert (await case.chat()).status_code == 503
    assert len(case.engine.asked) == 2
    case.engine.trouble.status = None
    await case.chat(temperature=1.5)  # what the caller has to mend is not asked again
    assert len(case.engine.asked) == 3
    case.engine.trouble.breaks_at = 4  # nor what has begun
    await case.chat(stream=True)
    assert len(case.engine.asked) == 4


async def test_an_engine_in_the_gateways_process_is_not_asked_again() -> None:
    """Nobody else could answer."""
    case = LanguageCase(with_settings(**RETRIED, inline="engine"))
    case.engine.trouble.is_away = True
    assert (await case.chat()).status_code == 503
    assert case.meter.second_asks == []


# another model


@pytest.mark.parametrize(
    ("trouble", "reason"), [("is_away", "unavailable"), ("hangs_before", "timeout")]
)
@pytest.mark.parametrize("is_stream", [True, False])
async def test_another_model_answers_instead(trouble: str, reason: str, is_stream: bool) -> None:
    case = LanguageCase(with_settings(STOOD_IN))
    setattr(case.engine.trouble, trouble, True)
    caller = case.caller(chat(stream=is_stream))
    if trouble == "hangs_before":
        await until(lambda: case.engine.num_ongoing)
        case.later_s = 61
    await caller.done()
    assert caller.status == 200
    assert caller.headers["x-degraded"] == reason
    assert caller.headers["x-release"] == "digest-of-other"
    answer = caller.events[1] if is_stream else orjson.loads(caller.body)
    assert answer["model"] == "big"  # as the caller called it
    assert answer["system_fingerprint"] == "fp_digest-of-ot"
    said = text_of(caller.events) if is_stream else answer["choices"][0]["message"]["content"]
    assert said == TEXT
    asked = case.engines["other"].asked[0][1]
    assert (asked["model"], asked["max_tokens"]) == ("other", 20)
    record = case.sink.records[-1]
    assert (record["endpoint"], record["release_id"]) == ("big", "digest-of-other")
    assert record["degraded"] == reason
    assert case.meter.degradations == [("big", reason)]
    assert case.is_idle()


async def test_no_other_model_is_asked_for_what_the_caller_has_to_mend() -> None:
    case = LanguageCase(with_settings(STOOD_IN))
    assert (await case.chat(temperature=1.5)).status_code == 400
    assert case.engines["other"].asked == []


async def test_where_nobody_answers_the_intended_models_trouble_is_told() -> None:
    case = LanguageCase(with_settings(STOOD_IN))
    case.engine.trouble.status = 500
    case.engines["other"].trouble.is_away = True
    answer = await case.chat()
    assert answer.status_code == 503
    assert "status 500" in answer.json()["error"]["message"]
    assert case.is_idle()


# the breaker


async def test_an_engine_that_fails_is_left_alone_for_a_while() -> None:
    breaker = {"min_requests": 3, "open_s": 3600}
    case = LanguageCase(with_settings({"big": {"breaker": breaker}}))
    case.engine.trouble.status = 500
    for _ in range(4):
        await case.chat(temperature=1.5 if case.engine.trouble.status is None else 0)
    assert case.meter.breakers == [("engine", "open")]
    assert len(case.engine.asked) == 3
    case.engine.trouble.status = None
    answer = await case.chat()
    assert answer.status_code == 503
    assert "is not asked again" in answer.json()["error"]["message"]
    assert (await case.chat(model="small")).status_code == 200


@pytest.mark.parametrize(("is_stream", "num_states"), [(True, 1), (False, 0)])
async def test_whole_answers_that_are_long_open_no_breaker(
    is_stream: bool, num_states: int
) -> None:
    """A stream that did not begin in time speaks against the engine. Of a whole answer nobody knows
    whether it began."""
    breaker = {"breaker": {"min_requests": 2, "open_s": 3600}}
    case = LanguageCase(with_settings({"big": {**STOOD_IN["big"], **breaker}}))
    case.engine.trouble.hangs_before = True
    callers = [case.caller(chat(stream=is_stream)) for _ in range(3)]
    await until(lambda: case.engine.num_ongoing == 3)
    case.later_s = 61
    for caller in callers:
        await caller.done()
        assert caller.headers["x-degraded"] == "timeout"
    assert len(case.meter.breakers) == num_states
    assert case.is_idle()


@pytest.mark.parametrize(("headers", "states"), [({}, ["open"]), ({"x-deadline-ms": "20"}, [])])
async def test_streams_that_do_not_begin_in_all_the_time_there_is_open_the_breaker(
    headers: dict[str, str], states: list[str]
) -> None:
    breaker = {"breaker": {"min_requests": 2, "open_s": 3600}}
    case = LanguageCase(with_settings({"big": breaker}, deadline_ms=500))
    case.engine.trouble.hangs_before = True
    callers = [case.caller(chat(stream=True), **headers) for _ in range(2)]
    for caller in callers:
        await caller.done()
        assert caller.status == 504
    assert [state for _, state in case.meter.breakers] == states
    assert case.is_idle()


async def test_what_callers_do_wrong_opens_no_breaker() -> None:
    case = LanguageCase(with_settings({"big": {"breaker": {"min_requests": 2}}}))
    for _ in range(5):
        assert (await case.chat(temperature=1.5)).status_code == 400
    case.engine.trouble.hangs_before = True
    for _ in range(5):
        caller = case.caller(chat())
        await until(lambda: case.engine.num_ongoing)
        caller.go()
        await caller.done()
    assert case.meter.breakers == []
