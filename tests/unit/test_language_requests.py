"""What callers may send, and what an engine is sent for it."""

from typing import Any

import orjson
import pytest
from language_case import CHAT, COMPLETIONS, EMBEDDINGS, LanguageCase

from rayapp.errors import RequestError
from rayapp.serve.wire.openai import MAX_DEPTH, Asked, Most, for_engine, parse

MOST = Most(choices=4, prompts=3, inputs=5)
HELLO = [{"role": "user", "content": "hello"}]
REMOTE = {"$ref": "http://example.com/city.json"}
NESTED: Any = None
for _ in range(MAX_DEPTH):
    NESTED = [NESTED]


def tool(**function: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "look", **function}}


def form(**schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "city", "schema": schema}}


def asked(path: str = CHAT, **fields: Any) -> Asked:
    content: dict[str, dict[str, Any]] = {
        CHAT: {"messages": HELLO},
        COMPLETIONS: {"prompt": "a"},
        EMBEDDINGS: {"input": "a"},
    }
    made = {"model": "big", **content[path], **fields}
    return parse(path, orjson.dumps(made), MOST)


def refused(body: bytes, path: str = CHAT) -> RequestError:
    with pytest.raises(RequestError) as error:
        parse(path, body, MOST)
    assert (error.value.status, error.value.kind) == (400, "invalid_request")
    return error.value


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "no JSON in UTF-8"),
        (b"{", "no JSON in UTF-8"),
        (b'{"model": "\xff"}', "no JSON in UTF-8"),
        (b'{"model": "\\ud800"}', "no JSON in UTF-8"),
        (b'{"temperature": NaN}', "no JSON in UTF-8"),
        (b"[" * 5000, "no JSON in UTF-8"),
        (b"[]", "the body is a list"),
        (b"null", "the body is null"),
        (b'"text"', "the body is a text"),
        (b"{}", "`model` is missing"),
        (b'{"model": 1}', "`model` is 1"),
        (b'{"model": "big"}', "`messages` is missing"),
    ],
)
def test_bodies_that_are_no_request(body: bytes, says: str) -> None:
    assert says in refused(body).what


@pytest.mark.parametrize(
    ("path", "content", "most"), [(COMPLETIONS, "prompt", 3), (EMBEDDINGS, "input", 5)]
)
def test_so_many_prompts_and_no_more_fit_into_one_request(
    path: str, content: str, most: int
) -> None:
    """Of texts, and of lists of token ids; one list of ids is one prompt, however long."""
    for one in ("a", [1, 2]):
        asked(path, **{content: [one] * most})
        many = orjson.dumps({"model": "big", content: [one] * (most + 1)})
        assert f"`{content}` is a list of {most + 1}" in refused(many, path).what
    asked(path, **{content: [1] * 1000})


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        (COMPLETIONS, {"prompt": 5}, "prompt"),
        (COMPLETIONS, {"prompt": [""]}, "prompt[0]"),
        (COMPLETIONS, {"prompt": ["a", None]}, "prompt[1]"),
        (COMPLETIONS, {"prompt": [[1, 2], [None]]}, "prompt[1]"),
        (COMPLETIONS, {"prompt": [[1, 2], [-1]]}, "prompt[1]"),
        (COMPLETIONS, {"logprobs": True}, "logprobs"),
        (EMBEDDINGS, {"input": [{}]}, "input[0]"),
        (EMBEDDINGS, {"input": {"a": 1}}, "input"),
        (EMBEDDINGS, {"encoding_format": "bytes"}, "encoding_format"),
        (EMBEDDINGS, {"dimensions": 0}, "dimensions"),
    ],
)
def test_what_is_no_text_and_no_tokens(path: str, fields: dict[str, Any], param: str) -> None:
    content = {COMPLETIONS: {"prompt": "a"}, EMBEDDINGS: {"input": "a"}}[path]
    error = refused(orjson.dumps({"model": "big", **content, **fields}), path)
    assert error.param == param


def test_a_whole_number_may_have_a_point() -> None:
    """JSON makes no difference, nor do clients that compute one."""
    made = asked(max_tokens=7.0, n=2.0, seed=3.0)
    assert (made.max_tokens, made.num_choices) == (7, 2)
    assert [type(made.fields[name]) for name in ("max_tokens", "n", "seed")] == [int] * 3
    refused(orjson.dumps({"model": "big", "messages": HELLO, "seed": float(2**60)}))


def test_what_is_only_openais_has_no_likeness_here() -> None:
    error = refused(orjson.dumps({"model": "big", "messages": HELLO, "store": True}))
    assert error.next_step == "leave it out: it would have no effect"


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"temprature": 1}, "temprature", "did you mean `temperature`?"),
        ({"zzz": 1}, "zzz", "there is no field 'zzz'"),
        ({"z" * 100: 1}, "z" * 100, "there is no field"),
        ({"store": True}, "store", "there is no field 'store'"),
        ({"messages": []}, "messages", "`messages` is an empty list"),
        ({"messages": "hello"}, "messages", "`messages` is 'hello'"),
        ({"messages": ["hello"]}, "messages[0]", "messages[0] is 'hello'"),
        ({"n": 5}, "n", "`n` is 5, must be a whole number from 1 to 4"),
        ({"n": 0}, "n", "must be a whole number"),
        ({"n": True}, "n", "must be a whole number"),
        ({"n": "2"}, "n", "must be a whole number"),
        ({"temperature": 2.1}, "temperature", "must be a number from 0 to 2"),
        ({"temperature": "1"}, "temperature", "must be a number"),
        ({"temperature": True}, "temperature", "must be a number"),
        ({"top_p": -0.1}, "top_p", "must be a number from 0 to 1"),
        ({"presence_penalty": -3}, "presence_penalty", "from -2 to 2"),
        ({"frequency_penalty": 3}, "frequency_penalty", "from -2 to 2"),
        ({"max_tokens": 0}, "max_tokens", "from 1 to"),
        ({"max_tokens": 1.5}, "max_tokens", "must be a whole number"),
        ({"max_completion_tokens": -1}, "max_completion_tokens", "from 1 to"),
        ({"min_tokens": -1}, "min_tokens", "from 0 to"),
        ({"min_p": 2}, "min_p", "must be a number from 0 to 1"),
        ({"top_k": -2}, "top_k", "from -1 to"),
        ({"repetition_penalty": 0}, "repetition_penalty", "must be a number above 0"),
        ({"stop_token_ids": ["a"]}, "stop_token_ids", "must be a list of token ids"),
        ({"logit_bias": [1]}, "logit_bias", "is a list of 1, must be an object"),
        ({"logit_bias": {"5": 101}}, "logit_bias.5", "must be a number from -100 to 100"),
        ({"ignore_eos": 1}, "ignore_eos", "must be true or false"),
        ({"logprobs": 5}, "logprobs", "must be true or false"),
        ({"structured_outputs": "a"}, "structured_outputs", "must be an object"),
        ({"user": 7}, "user", "`user` is 7, must be a text"),
        ({"top_logprobs": 21}, "top_logprobs", "from 0 to 20"),
        ({"max_tokens": 1, "max_completion_tokens": 1}, "max_tokens", "both say"),
        ({"stream": "yes"}, "stream", "must be true or false"),
        (
            {"stream_options": {"include_usage": True}},
            "stream_options",
            "is an object of 1 and `stream` is missing",
        ),
        ({"stream": True, "stream_options": [1]}, "stream_options", "is a list of 1"),
        (
            {"stream": True, "stream_options": {"include_usage": "yes"}},
            "include_usage",
            "must be true or false",
        ),
        (
            {"stream": True, "stream_options": {"continuous_usage_stats": True}},
            "stream_options",
            "there is no field 'continuous_usage_stats'",
        ),
        ({"tools": NESTED}, None, "deep"),
        ({"chat_template_kwargs": "x"}, "chat_template_kwargs", "is 'x'"),
        (
            {"chat_template_kwargs": {"chat_template": "{{ 1 }}"}},
            "chat_template_kwargs",
            "with chat_template",
        ),
        ({"chat_template_kwargs": {"tokenize": True}}, "chat_template_kwargs", "with tokenize"),
    ],
)
def test_fields_that_are_wrong_or_would_have_no_effect(
    fields: dict[str, Any], param: str | None, says: str
) -> None:
    error = refused(orjson.dumps({"model": "big", "messages": HELLO, **fields}))
    assert says in error.what
    assert error.param == param


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (COMPLETIONS, {"prompt": ""}),
        (COMPLETIONS, {"prompt": []}),
        (COMPLETIONS, {"messages": HELLO, "prompt": "a"}),
        (COMPLETIONS, {"prompt": "a", "max_completion_tokens": 1}),
        (COMPLETIONS, {"prompt": "a", "tools": [1]}),
        (EMBEDDINGS, {"input": ""}),
        (EMBEDDINGS, {"input": "a", "temperature": 1}),
        (EMBEDDINGS, {"input": "a", "stream": True}),
    ],
)
def test_each_path_has_fields_of_its_own(path: str, fields: dict[str, Any]) -> None:
    refused(orjson.dumps({"model": "big", **fields}), path)


def test_what_asks_for_nothing_may_be_said() -> None:
    found = asked(store=False, metadata=None, service_tier=None, foo=None, n=None, stream=None)
    assert (found.num_choices, found.max_tokens, found.is_stream) == (1, None, False)
    assert not asked(stream=True, stream_options={"include_obfuscation": False}).wants_usage
    sent = orjson.loads(for_engine(asked(store=False, foo=None, user="me"), "e", 3, None))
    assert sent == {"model": "e", "messages": HELLO, "max_tokens": 3}


@pytest.mark.parametrize(
    ("path", "fields", "num_answers"),
    [
        (CHAT, {"n": 3}, 3),
        (COMPLETIONS, {"prompt": "a b", "n": 3}, 3),
        (COMPLETIONS, {"prompt": [1, 2]}, 1),
        (COMPLETIONS, {"prompt": ["a", "b"], "n": 2}, 4),
        (COMPLETIONS, {"prompt": [[1, 2], [3]]}, 2),
    ],
)
def test_how_many_answers_a_request_wants(
    path: str, fields: dict[str, Any], num_answers: int
) -> None:
    assert asked(path, **fields).num_answers == num_answers


def test_an_engine_is_sent_the_rest_as_it_is() -> None:
    fields: dict[str, Any] = {"temperature": 0.5, "tools": [tool()], "stop": ["\n"], "seed": 1}
    sent = orjson.loads(for_engine(asked(**fields, stream=True), "e", 3, "acme"))
    assert sent.items() >= fields.items()
    assert sent["cache_salt"] == "acme"
    sent = orjson.loads(for_engine(asked(EMBEDDINGS, dimensions=2, user="me"), "e", 0, "acme"))
    assert sent == {"model": "e", "input": "a", "dimensions": 2}


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, EMBEDDINGS])
async def test_a_refusal_reaches_no_engine(path: str) -> None:
    case = LanguageCase()
    for body in (b"{", b'{"model": "big", "messages": 1}', b'{"model": "big", "input": ""}'):
        answer = await case.post(path, body)
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "invalid_request"
    assert [engine.asked for engine in case.engines.values()] == [[], [], []]
    assert case.is_idle()
