"""What the gateway says of itself: true for programs, and its page for people."""

import json
import re
from html import unescape
from typing import Any

import jsonschema
import pytest
from language_case import CHAT, COMPLETIONS, EMBEDDINGS, LanguageCase, known_key, with_settings
from pages import blocks, body_schema, described, in_shell

from rayapp.serve.wire.openai import FIELDS, KINDS, Most
from rayapp.serve.wire.openai_described import describe_models
from rayapp.serve.wire.page import render_models

DESCRIPTION = "/v1/openapi.json"
SAY = [{"role": "user", "content": "one two three"}]
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
CALLS = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
CAME_OF_IT = {"role": "tool", "tool_call_id": "1", "content": "four"}
BODIES: list[tuple[str, dict[str, Any]]] = [
    (CHAT, {"model": "big", "messages": SAY}),
    (CHAT, {"model": "big", "messages": SAY, "max_tokens": 5, "n": 2}),
    (CHAT, {"model": "big", "messages": SAY, "max_tokens": 5, "max_completion_tokens": 5}),
    (CHAT, {"model": "big", "messages": SAY, "max_tokens": None, "max_completion_tokens": 5}),
    (CHAT, {"model": "big", "messages": SAY, "stream_options": {"include_usage": True}}),
    (CHAT, {"model": "big", "messages": SAY, "stream_options": None}),
    (CHAT, {"model": "big", "messages": SAY, "tool_choice": "auto"}),
    (CHAT, {"model": "big", "messages": SAY, "tool_choice": "auto", "tools": TOOLS}),
    (CHAT, {"model": "big", "messages": SAY, "tools": []}),
    (CHAT, {"model": "big", "messages": SAY, "temperature": 3}),
    (CHAT, {"model": "big", "messages": SAY, "temprature": 1}),
    (CHAT, {"model": "big", "messages": SAY, "response_format": {"type": "json_object"}}),
    (CHAT, {"model": "big", "messages": SAY, "response_format": {"type": "xml"}}),
    (CHAT, {"model": "big", "messages": SAY, "stop": ["a", 1]}),
    (CHAT, {"model": "big", "messages": [{"role": "user"}]}),
    (CHAT, {"model": "big", "messages": [{"role": "nobody", "content": "a"}]}),
    (CHAT, {"model": "big", "messages": [{"role": "assistant", "tool_calls": CALLS}, CAME_OF_IT]}),
    (CHAT, {"model": "big", "messages": [{"role": "assistant", "content": "a", "tool_calls": []}]}),
    (CHAT, {"model": "big", "messages": [{"role": "assistant", "content": None}]}),
    (CHAT, {"model": "big", "messages": [{"role": "assistant", "tool_calls": []}]}),
    (CHAT, {"model": "big", "messages": [{"role": "user", "tool_calls": CALLS}]}),
    (CHAT, {"model": "big", "messages": []}),
    (CHAT, {"messages": SAY}),
    (CHAT, {"model": "vectors", "messages": SAY}),
    (COMPLETIONS, {"model": "small", "prompt": ["one two", "three"]}),
    (COMPLETIONS, {"model": "small", "prompt": ""}),
    (COMPLETIONS, {"model": "small", "prompt": "one", "messages": SAY}),
    (COMPLETIONS, {"model": "small", "prompt": "one", "seed": 2**63}),
    (EMBEDDINGS, {"model": "vectors", "input": "one two"}),
    (EMBEDDINGS, {"model": "vectors", "input": ["one"] * 3000}),
    (EMBEDDINGS, {"model": "big", "input": "one"}),
    (EMBEDDINGS, {"model": "vectors", "input": "one", "stream": True}),
]


@pytest.mark.parametrize(("path", "body"), BODIES)
async def test_what_one_takes_the_other_takes(path: str, body: dict[str, Any]) -> None:
    case = LanguageCase()
    schema = body_schema(await described(case.client(), DESCRIPTION), path)
    response = await case.post(path, body)
    assert response.status_code in (200, 400), response.text
    is_described = jsonschema.Draft202012Validator(schema).is_valid(body)
    assert is_described == (response.status_code == 200), response.text


async def test_every_field_that_has_an_effect_is_described() -> None:
    document = await described(LanguageCase().client(), DESCRIPTION)
    for path, kind in KINDS.items():
        assert body_schema(document, path)["properties"].keys() == FIELDS[kind]


async def test_answers_are_as_described() -> None:
    case = LanguageCase()
    document = await described(case.client(), DESCRIPTION)
    for path, operations in document["paths"].items():
        if "post" not in operations:
            continue
        sent = operations["post"]["requestBody"]["content"]["application/json"]["example"]
        response = await case.post(path, sent)
        assert response.status_code == 200, response.text
        schema = operations["post"]["responses"]["200"]["content"]["application/json"]["schema"]
        jsonschema.validate(response.json(), schema)
    refused = await case.post(CHAT, {"model": "big"})
    jsonschema.validate(refused.json(), document["components"]["schemas"]["Error"])


async def test_every_path_is_described() -> None:
    case = LanguageCase()
    paths = (await described(case.client(), DESCRIPTION))["paths"]
    async with case.client() as client:
        for path, operations in paths.items():
            for method in operations:
                response = await client.request(method, path.replace("{model}", "big"))
                assert response.status_code not in (404, 405), (method, path)
        refused = await client.get("/v1/nothing")
    told = refused.json()["error"]["message"].partition("paths are ")[2].split(", ")
    assert set(told) - {"/v1/openapi.json", "/v1/docs"} <= set(paths)


async def test_the_pages_examples_are_answered() -> None:
    case = LanguageCase()
    async with case.client() as client:
        response = await client.get("/v1/docs")
        assert response.headers["content-type"] == "text/html; charset=utf-8"
        found = blocks(response.text)
        assert found[0].strip() == "URL=http://gateway"
        # chat and completion of two models, embedding of one
        assert len(found) == 1 + 2 * 2 + 1
        for command in found[1:]:
            url, headers, body = in_shell(command, URL="http://gateway")
            answer = await client.post(url, headers=headers, json=body)
            assert answer.status_code == 200, answer.text


async def test_the_page_is_complete_in_itself() -> None:
    async with LanguageCase().client() as client:
        page = (await client.get("/v1/docs")).text
    assert re.findall(r"src\s*=|url\(|@import|<script|<link", page) == []
    for name in ("big", "small", "vectors"):
        assert f'<section id="{name}">' in page
    for field in ("messages", "temperature", "tool_choice", "encoding_format"):
        assert f"<code>{field}</code>" in page
    assert "0 to 2" in page
    assert "The form that an answer has to have" in page
    assert "digest-of-engine" in page


@pytest.mark.parametrize("requires_key", [False, True])
def test_where_no_model_can_be_asked_the_page_says_where_to_look(requires_key: bool) -> None:
    page = render_models(describe_models([], "1", requires_key, Most(1, 1, 1)), "h")
    (command,) = re.findall(r"<code>(curl -s .*?)</code> says what is wrong", page)
    header = ' -H "authorization: Bearer $KEY"' if requires_key else ""
    assert unescape(command) == f'curl -s{header} "$URL/v1/ping"'


async def test_a_key_is_asked_for_where_one_is_needed() -> None:
    case = LanguageCase(with_settings(requires_key=True))
    async with case.client() as client:
        assert (await client.get("/v1/docs")).status_code == 401
        assert (await client.get("/v1/openapi.json")).status_code == 401
        key = known_key(case)
        page = await client.get("/v1/docs", headers=key)
        document = await client.get("/v1/openapi.json", headers=key)
    assert "rayapp keys create" in page.text
    assert json.loads(document.text)["security"] == [{"key": []}]
