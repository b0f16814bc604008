"""An answer as server-sent events: in order, counted, recorded, and ended well however it ends."""

import asyncio
from typing import Any

import orjson
import pytest
from language_case import (
    COMPLETIONS,
    TEXT,
    LanguageCase,
    chat,
    events_of,
    text_of,
    with_settings,
)
from serving_case import until

from rayapp.serve.wire.sse import EventReader, event

LONG = " ".join(f"w{number}" for number in range(40))


@pytest.fixture
def case() -> LanguageCase:
    return LanguageCase(with_settings(record_every_tokens=2))


def error_of(events: list[Any]) -> tuple[str, str]:
    """Of a stream that ended badly, and yet ended: OpenAI's type and our kind."""
    *_, told, last = events
    assert last == "[DONE]"
    assert set(told) == {"error"}
    assert set(told["error"]) == {"message", "type", "param", "code"}
    return told["error"]["type"], told["error"]["code"]


def figures(case: LanguageCase) -> tuple[int, int, str | None]:
    """Tokens of prompt and output over all parts, and why the last one was the last."""
    records = case.sink.records
    assert [record["part"] for record in records] == list(range(len(records)))
    assert [record["finish_reason"] for record in records[:-1]] == [None] * (len(records) - 1)
    num_prompt = sum(record["num_prompt_tokens"] for record in records)
    num_output = sum(record["num_output_tokens"] for record in records)
    return num_prompt, num_output, records[-1]["finish_reason"]


async def test_events_come_in_order_and_parts_are_recorded(case: LanguageCase) -> None:
    answer = await case.chat(stream=True)
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["x-release"] == "digest-of-engine"
    events = events_of(answer.content)
    assert events[-1] == "[DONE]"
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert text_of(events) == TEXT
    assert [e["choices"][0]["finish_reason"] for e in events[:-1]] == [None] * 6 + ["stop"]
    assert all("usage" not in e for e in events[:-1])
    assert {(e["model"], e["system_fingerprint"]) for e in events[:-1]} == {
        ("big", "fp_digest-of-en")
    }
    assert figures(case) == (6, 6, "stop")
    assert [r["num_output_tokens"] for r in case.sink.records] == [2, 2, 2]
    assert [r["prompt"] is None for r in case.sink.records] == [False, True, True]
    assert case.output == TEXT
    assert case.meter.cuts == []
    assert case.meter.first_tokens == ["big"]
    assert case.is_idle()


async def test_usage_is_told_where_it_is_asked_for(case: LanguageCase) -> None:
    answer = await case.chat(stream=True, stream_options={"include_usage": True})
    *events, last, done = events_of(answer.content)
    assert done == "[DONE]"
    assert (last["choices"], last["usage"]["total_tokens"]) == ([], 12)
    assert [e["usage"] for e in events] == [None] * len(events)
    for fields in ({"stream_options": {"include_usage": False}}, {"stream_options": None}):
        answer = await case.chat(stream=True, **fields)
        assert all("usage" not in e for e in events_of(answer.content)[:-1])


@pytest.mark.parametrize("options", [{"include_usage": True}, {"include_usage": False}])
async def test_the_engine_always_tells_what_it_counts(case: LanguageCase, options: Any) -> None:
    await case.chat(stream=True, stream_options=options)
    both = {"include_usage": True, "continuous_usage_stats": True}
    assert case.engine.asked[0][1]["stream_options"] == both


async def test_what_only_the_engines_makers_need_is_left_out(case: LanguageCase) -> None:
    events = events_of((await case.chat(stream=True)).content)
    for made in events[:-1]:
        assert set(made) == {*("id", "object", "created", "model", "choices", "system_fingerprint")}
        assert set(made["choices"][0]) == {"index", "delta", "logprobs", "finish_reason"}


async def test_choices_are_counted_together(case: LanguageCase) -> None:
    """An event's own usage is of its choice alone."""
    asked: dict[str, Any] = {"stream_options": {"include_usage": True}}
    events = events_of((await case.chat(stream=True, n=3, **asked)).content)
    assert [text_of(events, at) for at in range(3)] == [
        TEXT,
        "one two three four five ",
        "one two three four ",
    ]
    assert events[-2]["usage"]["completion_tokens"] == 15
    assert figures(case) == (6, 15, "stop")
    outputs = [r["num_output_tokens"] for r in case.sink.records]
    assert max(outputs) <= 6  # two of each of three choices
    assert min(outputs) >= 0


async def test_prompts_are_counted_together(case: LanguageCase) -> None:
    asked = {"model": "big", "prompt": ["a b c", "d e"], "n": 2, "stream": True}
    events = events_of((await case.post(COMPLETIONS, asked)).content)
    assert [text_of(events, at) for at in range(4)] == ["a b c", "a b ", "d e", "d "]
    assert figures(case) == (5, 8, "stop")


async def test_tools_are_called_in_pieces_and_recorded_as_one(case: LanguageCase) -> None:
    tools = [{"type": "function", "function": {"name": "look"}}]
    events = events_of((await case.chat(stream=True, tools=tools)).content)
    deltas = [e["choices"][0]["delta"] for e in events[1:-1]]
    assert deltas[0]["tool_calls"][0]["function"]["name"] == "look"
    arguments = [delta["tool_calls"][0]["function"]["arguments"] for delta in deltas]
    assert "".join(arguments) == TEXT
    assert events[-2]["choices"][0]["finish_reason"] == "tool_calls"
    recorded = [orjson.loads(r["output"])[0] for r in case.sink.records if r["output"]]
    kept = [call["function"]["arguments"] for one in recorded for call in one["tool_calls"]]
    assert "".join(kept) == TEXT
    assert {one["tool_calls"][0]["function"]["name"] for one in recorded} == {"look"}


async def test_an_address_that_comes_in_pieces_is_hidden(case: LanguageCase) -> None:
    tools = [{"type": "function", "function": {"name": "look"}}]
    text = "card 4111 1111 1111 1111 of bob@example.com !"
    asks: list[dict[str, Any]] = [{}, {"tools": tools}]
    for asked in asks:
        case.sink.records.clear()
        answer = await case.chat(text, stream=True, **asked)
        assert b"4111" in answer.content
        kept = "".join(r["output"] or "" for r in case.sink.records)
        assert "4111" not in kept
        assert "1111" not in kept
        assert "[card]" in kept
        assert "bob" not in kept
        assert "4111" not in str(case.sink.records)


# a caller that goes away


async def test_a_caller_that_goes_before_the_first_token(case: LanguageCase) -> None:
    case.engine.trouble.hangs_before = True
    for is_stream in (True, False):
        caller = case.caller(chat(stream=is_stream))
        await until(lambda: case.engine.num_ongoing)
        caller.go()
        await caller.done()
        assert (caller.status, case.is_idle()) == (None, True)
    assert case.sink.records == []  # nobody got anything
    assert case.meter.token_counts == []


async def test_a_caller_that_goes_in_the_middle(case: LanguageCase) -> None:
    case.engine.trouble.hangs_at = 4
    caller = case.caller(chat(stream=True))
    await caller.has(4)
    assert case.engine.num_ongoing == 1
    caller.go()
    await caller.done()
    assert case.is_idle()
    assert figures(case) == (6, 3, "client_gone")
    assert case.output == "one two three "
    assert case.meter.cuts == [("big", "client_gone")]
    assert case.meter.token_counts[0][3] == {"prompt": 6, "cached": 0, "output": 3}


async def test_a_caller_that_goes_while_a_whole_answer_comes(case: LanguageCase) -> None:
    case.engine.trouble.hangs_at = 1
    caller = case.caller(chat())
    await until(lambda: case.engine.num_ongoing)
    caller.go()
    await caller.done()
    assert (case.is_idle(), case.sink.records) == (True, [])


async def test_one_that_is_stopped_records_what_was_given(case: LanguageCase) -> None:
    case.engine.trouble.hangs_at = 4
    caller = case.caller(chat(stream=True))
    await caller.has(4)
    caller.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller.task
    assert case.is_idle()
    assert figures(case) == (6, 3, "stopped")


# an engine that fails


@pytest.mark.parametrize("trouble", ["breaks_at", "ends_at", "errs_at"])
@pytest.mark.parametrize("at", [0, 1, 4])
async def test_an_engine_that_fails_in_the_middle(
    case: LanguageCase, trouble: str, at: int
) -> None:
    setattr(case.engine.trouble, trouble, at)
    answer = await case.chat(stream=True)
    assert case.is_idle()
    if at == 0 and trouble != "errs_at":  # nothing has begun
        assert answer.status_code == 503
        assert case.sink.records == []
        return
    assert answer.status_code == 200
    events = events_of(answer.content)
    assert error_of(events) == ("server_error", "unavailable")
    assert "inside" not in answer.text
    assert text_of(events) == "".join(["one ", "two ", "three "][: max(0, at - 1)])
    assert figures(case)[1:] == (max(0, at - 1), "unavailable")
    assert case.output == text_of(events)
    assert case.meter.cuts == [("big", "unavailable")]


async def test_what_came_together_with_an_error_is_still_given(case: LanguageCase) -> None:
    case.engine.trouble.errs_at = 4
    case.engine.pieces = lambda body: [body]
    events = events_of((await case.chat(stream=True)).content)
    assert text_of(events) == "one two three "
    assert error_of(events) == ("server_error", "unavailable")
    assert figures(case) == (6, 3, "unavailable")


async def test_what_is_no_json_is_the_engines_failure(case: LanguageCase) -> None:
    case.engine.pieces = lambda body: [body[:300], b"data: {oh\n\n", body[300:]]
    answer = await case.chat(stream=True)
    assert error_of(events_of(answer.content)) == ("server_error", "unavailable")


# records that cannot be kept


class FullDisk:
    """Takes some records and no more, or takes them again later."""

    def __init__(self, takes: list[bool]) -> None:
        self.takes = takes
        self.records: list[Any] = []

    def append(self, records: Any) -> None:
        if not (self.takes.pop(0) if self.takes else True):
            raise OSError(28, "No space left on device")
        self.records += records


@pytest.mark.parametrize(
    "takes", [[False], [True, False], [True, False, False], [True, True, False]]
)
async def test_a_full_disk_ends_an_answer_well(case: LanguageCase, takes: list[bool]) -> None:
    disk: Any = FullDisk(list(takes))
    case.sink = disk
    caller = await case.caller(chat(stream=True)).done()
    assert caller.is_complete
    assert error_of(caller.events) == ("server_error", "unavailable")
    assert case.is_idle()
    num_kept = takes.index(False)
    assert [r["num_output_tokens"] for r in disk.records] == [2] * num_kept
    assert case.meter.cuts == [("big", "unavailable")]
    counted = [counts["output"] for *_, counts in case.meter.token_counts]
    assert counted == ([2 * num_kept] if num_kept else [])


async def test_a_whole_answer_that_cannot_be_recorded_is_none(case: LanguageCase) -> None:
    case.sink.error = OSError(28, "No space left on device")
    answer = await case.chat()
    assert answer.status_code == 503
    assert "No space left" in answer.json()["error"]["message"]
    assert TEXT not in answer.text
    assert case.meter.token_counts == []


# who does not read on


async def test_one_that_does_not_read_keeps_no_engine_busy(case: LanguageCase) -> None:
    case.engine.trouble.hangs_at = 4
    caller = case.caller(chat(stream=True))
    await caller.has(4)
    caller.is_reading.clear()
    case.later_s = 1e6  # its deadline is over
    await until(lambda: not case.engine.num_ongoing)
    assert figures(case) == (6, 3, "deadline")
    assert not caller.task.done()  # the end of it is still to be read
    caller.is_reading.set()
    await caller.done()
    assert error_of(caller.events) == ("server_error", "deadline_exceeded")
    assert case.is_idle()


# the form


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_events_come_in_any_pieces(size: int, newline: bytes) -> None:
    told = [{"a": 1}, {"b": "é\n"}]
    body = b": a comment\n\n" + b"".join(map(event, told)) + b"event: x\n\ndata:1\n\n"
    body = body.replace(b"\n", newline)
    reader = EventReader()
    found = []
    for at in range(0, len(body), size):
        found += reader.feed(body[at : at + size])
    assert [orjson.loads(data) for data in found] == [*told, 1]


async def test_one_that_cannot_even_be_sent_the_beginning_leaves_nothing(
    case: LanguageCase,
) -> None:
    caller = case.caller(chat(stream=True))
    caller.breaks = ConnectionResetError("gone")
    with pytest.raises(ConnectionResetError):
        await caller.done()
    assert case.is_idle()
    assert figures(case)[1:] == (0, "failed")
