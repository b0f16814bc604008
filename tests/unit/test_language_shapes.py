"""The outer shape of messages, tools and forms: what is refused, with the path of the field, and
what passes, since OpenAI's clients or vLLM's callers send it."""

from typing import Any

import orjson
import pytest
from language_case import CHAT, COMPLETIONS
from test_language_requests import HELLO, REMOTE, asked, form, refused, tool

from rayapp.llm.tokens import _as_text

CALL = {"id": "1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
IN_DEFS = {"$defs": {"city": {"type": "string"}}, "properties": {"a": {"$ref": "#/$defs/city"}}}


def message(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", **fields}]}


def calling(calls: Any) -> dict[str, Any]:
    return message(role="assistant", content="a", tool_calls=calls)


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        (message(), "messages[0].content", "is missing, which only an assistant's"),
        (message(content=1), "messages[0].content", "is 1, must be a text or a list of parts"),
        (message(content={}), "messages[0].content", "is an empty object"),
        (message(content=[1]), "messages[0].content[0]", "is 1, must be an object"),
        (message(content=[{}]), "messages[0].content[0].type", "is missing, must be one of"),
        (message(content=[{"type": "x"}]), "messages[0].content[0].type", "'x', must be one of"),
        (message(content=[{"type": []}]), "messages[0].content[0].type", "an empty list"),
        (
            message(content=[{"type": "text"}]),
            "messages[0].content[0].text",
            "is missing, must be a text",
        ),
        (message(role="robot", content="a"), "messages[0].role", "'robot', must be one of system,"),
        (message(role=1, content="a"), "messages[0].role", "is 1, must be one of"),
        (message(role=["user"], content="a"), "messages[0].role", "is a list of 1"),
        ({"messages": [*HELLO, {"content": "a"}]}, "messages[1].role", "is missing"),
        (message(role="assistant"), "messages[0].content", "is missing"),
        (message(role="assistant", tool_calls=[]), "messages[0].content", "is missing"),
        (calling("x"), "messages[0].tool_calls", "is 'x', must be a list of calls"),
        (calling([1]), "messages[0].tool_calls[0]", "is 1, must be an object"),
        (calling([{**CALL, "type": "x"}]), "messages[0].tool_calls[0].type", "'x', must be"),
        (calling([{"id": "1"}]), "messages[0].tool_calls[0].function", "is missing"),
        (
            calling([{"function": {"name": "look", "arguments": 1}}]),
            "messages[0].tool_calls[0].function.arguments",
            "is 1, must be a text that is JSON",
        ),
        ({"tools": "x"}, "tools", "`tools` is 'x', must be a list of tools"),
        ({"tools": []}, "tools", "is an empty list"),
        ({"tools": {}}, "tools", "is an empty object"),
        ({"tools": [tool(), "x"]}, "tools[1]", "is 'x', must be an object"),
        ({"tools": [{"type": "custom"}]}, "tools[0].type", "'custom', must be 'function'"),
        ({"tools": [{"type": "function"}]}, "tools[0].function", "is missing"),
        ({"tools": [tool(name=1)]}, "tools[0].function.name", "is 1, must be a text"),
        ({"tools": [tool(description=1)]}, "tools[0].function.description", "is 1, must be a text"),
        ({"tools": [tool(parameters=[])]}, "tools[0].function.parameters", "an empty list"),
        ({"tool_choice": "auto"}, "tool_choice", "there are no `tools`"),
        ({"tools": [tool()], "tool_choice": "any"}, "tool_choice", "'any', must be one of none"),
        ({"tools": [tool()], "tool_choice": {"type": "x"}}, "tool_choice.type", "'x'"),
        ({"tools": [tool()], "tool_choice": {}}, "tool_choice.function", "is missing"),
        (
            {"tools": [tool()], "tool_choice": tool(name="jump")},
            "tool_choice.function.name",
            "'jump', which none of `tools` is",
        ),
        ({"response_format": "json"}, "response_format", "is 'json', must be an object"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "is 'xml', must be one of"),
        (
            {"response_format": {"type": "json_schema"}},
            "response_format.json_schema",
            "is missing",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}},
            "response_format.json_schema.name",
            "is missing",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}},
            "response_format.json_schema.schema",
            "is missing",
        ),
        ({"stop": 1}, "stop", "is 1, must be a text or a list of texts"),
        ({"stop": ["a", None]}, "stop[1]", "is missing, must be a text"),
        ({"seed": "x"}, "seed", "is 'x', must be a whole number"),
        ({"seed": 2**63}, "seed", "must be a whole number"),
    ],
)
def test_a_shape_that_is_wrong_is_told_with_its_path(
    fields: dict[str, Any], param: str, says: str
) -> None:
    error = refused(orjson.dumps({"model": "big", "messages": HELLO, **fields}))
    assert says in error.what
    assert f"`{param}` is" in error.what
    assert error.param == param
    assert error.next_step


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": form(**REMOTE)}, "response_format.json_schema.schema.$ref"),
        (
            {"response_format": form(properties={"enum": {"anyOf": [{}, REMOTE]}})},
            "response_format.json_schema.schema.properties.enum.anyOf[1].$ref",
        ),
        (
            {"response_format": form(items={"$ref": "other.json#/a"})},
            "response_format.json_schema.schema.items.$ref",
        ),
        (
            {"response_format": {"type": "structural_tag", "structures": [{"schema": REMOTE}]}},
            "response_format.structures[0].schema.$ref",
        ),
        (
            {"tools": [tool(), tool(parameters={"properties": {"a": REMOTE}})]},
            "tools[1].function.parameters.properties.a.$ref",
        ),
        ({"structured_outputs": {"json": REMOTE}}, "structured_outputs.json.$ref"),
    ],
)
def test_a_schema_that_lies_elsewhere_is_refused_with_the_path_of_its_ref(
    fields: dict[str, Any], param: str
) -> None:
    error = refused(orjson.dumps({"model": "big", "messages": HELLO, **fields}))
    assert error.param == param
    assert "outside of the schema" in error.what
    assert "#/$defs" in error.next_step


def test_a_long_path_is_cut() -> None:
    fields = {"response_format": form(properties={"x" * 10**6: REMOTE})}
    error = refused(orjson.dumps({"model": "big", "messages": HELLO, **fields}))
    assert len(str(error)) < 1000
    assert error.param is not None
    assert len(error.param) < 300


def test_completions_are_looked_at_too() -> None:
    body = {"model": "big", "prompt": "a", "response_format": form(**REMOTE)}
    assert "$ref" in str(refused(orjson.dumps(body), COMPLETIONS).param)


@pytest.mark.parametrize(
    "fields",
    [
        message(content=""),
        message(content="a", name="Ann"),
        message(content=[{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]),
        message(content=["a", {"type": "input_text", "text": "b"}]),
        message(content=[{"type": "image_url", "image_url": {"url": "data:"}}]),
        message(content=[{"image_url": "data:"}]),
        message(role="developer", content="a"),
        message(role="system", content=[{"type": "text", "text": "a"}]),
        message(role="tool", tool_call_id="1", content="a"),
        message(role="function", name="look", content="a"),
        message(role="assistant", content=None, tool_calls=[CALL]),
        message(role="assistant", tool_calls=[CALL]),
        calling([{"function": {"name": "look", "arguments": {"at": "x"}}}]),  # vLLM takes that
        calling([]),  # as vLLM's own answers have it
        message(role="assistant", content=None, refusal="no"),
        message(role="assistant", content=None, reasoning="hm"),
        message(role="assistant", content=[{"type": "refusal", "refusal": "no"}]),
        message(role="assistant", content="a", refusal=None, audio=None, tool_calls=None),
        {"tools": [tool()]},
        {"tools": [tool(parameters=None, description="x", strict=True)], "tool_choice": "auto"},
        {"tools": [tool(parameters=IN_DEFS)], "tool_choice": tool()},
        {"tools": [{"function": {"name": "look"}}], "tool_choice": {"function": {"name": "look"}}},
        {"tools": None, "tool_choice": "none"},
        {"tool_choice": None, "parallel_tool_calls": False},
        {"response_format": {"type": "text"}},
        {"response_format": {"type": "json_object"}},
        {"response_format": form(**IN_DEFS)},
        {"response_format": form(**{"$ref": "#"})},
        {"response_format": form(properties={"$ref": {"type": "string"}})},
        {"response_format": form(const=REMOTE, enum=[REMOTE], default=REMOTE, examples=[REMOTE])},
        {"response_format": {"type": "structural_tag", "structures": [], "triggers": []}},
        {"structured_outputs": {"choice": ["a", "b"]}},
        {"stop": "a"},
        {"stop": list("abcdefgh")},  # how many there may be is a setting of the engine
        {"seed": -1},
    ],
)
def test_what_clients_send_passes(fields: dict[str, Any]) -> None:
    assert asked(CHAT, **fields).fields["model"] == "big"


def test_every_part_that_is_text_is_counted() -> None:
    assert _as_text(["a", {"type": "text", "text": "b"}, {"type": "image_url"}]) == "a\nb"
