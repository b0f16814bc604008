"""JSON schemas of what OpenAI's interface takes here and answers, with an example of each. What an
engine alone judges is described as vLLM's documentation has it.

https://platform.openai.com/docs/api-reference ; https://docs.vllm.ai (sampling parameters)
"""

from collections.abc import Sequence

from rayapp.serve.wire.chat import ROLES
from rayapp.serve.wire.described import Json
from rayapp.serve.wire.openai import CONTENT, FIELDS, Kind, Most
from rayapp.serve.wire.plain_fields import (
    COUNTS,
    ENCODINGS,
    FLAGS,
    LARGEST_TOKEN,
    MOST_BIAS,
    MOST_LOGPROBS,
    NUMBERS,
    TEXTS,
)

_TEXT: Json = {"type": "string"}
_NAME: Json = {"type": "string", "minLength": 1}
_OBJECT: Json = {"type": "object"}
_FLAG: Json = {"type": "boolean"}
_WHOLE: Json = {"type": "integer"}
_NUMBER: Json = {"type": "number"}
_JSON_SCHEMA: Json = _OBJECT | {"description": "A JSON schema; what it refers to is inside of it"}


def _between(low: float, high: float) -> Json:
    return {"minimum": low, "maximum": high}


def _or_null(schema: Json) -> Json:
    if isinstance(schema.get("type"), str):
        return schema | {"type": [schema["type"], "null"]}
    made: Json = {"anyOf": [schema, {"type": "null"}]}
    if "description" in schema:
        made["description"] = schema["description"]
    return made


def _list(items: Json, least: int = 0) -> Json:
    return {"type": "array", "items": items, "minItems": least}


def _record(needed: Json, more: Json | None = None) -> Json:
    """An object with these properties, all of `needed` there."""
    return {"type": "object", "properties": needed | (more or {}), "required": list(needed)}


_TOKEN = _WHOLE | _between(0, LARGEST_TOKEN)
_PART = {"anyOf": [_record({"type": {"const": "text"}, "text": _TEXT}), _TEXT]}
_CONTENT = {"anyOf": [_TEXT, _list(_PART)]}
_CALL = _record(
    {
        "function": _record(
            {"name": _NAME}, {"arguments": {"type": ["string", "object", "array", "null"]}}
        )
    },
    {"id": {}, "type": {"const": "function"}},
)
_MESSAGE = {
    "anyOf": [
        _record(
            {"role": {"enum": list(ROLES)}, "content": _CONTENT},
            {"tool_calls": _or_null(_list(_CALL))},
        ),
        _record(
            {"role": {"const": "assistant"}, "tool_calls": _list(_CALL, 1)},
            {"content": {"type": "null"}},
        ),
    ],
    "description": "An assistant's message may have tool_calls in place of content",
}
_FUNCTION = _record(
    {"name": _NAME}, {"description": _or_null(_TEXT), "parameters": _or_null(_JSON_SCHEMA)}
)
_TOOL = _record({"function": _FUNCTION}, {"type": {"const": "function"}})
_TOOL_CHOICE = {
    "anyOf": [
        {"enum": ["none", "auto", "required"]},
        _record({"function": _record({"name": _NAME})}, {"type": {"const": "function"}}),
    ],
    "description": "With `tools`; a function by name is one of them",
}
_FORMAT = {
    "anyOf": [
        _record({"type": {"enum": ["text", "json_object"]}}),
        _record(
            {
                "type": {"const": "json_schema"},
                "json_schema": _record({"name": _TEXT, "schema": _JSON_SCHEMA}),
            }
        ),
    ],
    "description": "The form that an answer has to have",
}
_OF_FIELDS: Json = {
    **{name: _NUMBER | _between(*limits) for name, limits in NUMBERS.items()},
    **{name: _WHOLE | _between(*limits) for name, limits in COUNTS.items()},
    **dict.fromkeys(FLAGS, _FLAG),
    **dict.fromkeys(TEXTS, _TEXT),
    "messages": _list(_MESSAGE, 1),
    "stop": {"anyOf": [_TEXT, _list(_TEXT)], "description": "What ends an answer"},
    "stop_token_ids": _list(_TOKEN),
    "repetition_penalty": _NUMBER | {"exclusiveMinimum": 0},
    "logit_bias": _OBJECT | {"additionalProperties": _NUMBER | _between(-MOST_BIAS, MOST_BIAS)},
    "stream": _FLAG | {"description": "The answer as server-sent events"},
    "stream_options": {
        "type": "object",
        "properties": {"include_usage": _FLAG},
        "additionalProperties": False,
        "description": "Of a stream",
    },
    "response_format": _FORMAT,
    "structured_outputs": _OBJECT | {"description": "vLLM's: json, regex, choice or grammar"},
    "user": _TEXT | {"description": "Whom it is about: a split keeps it with one arm"},
    "logprobs": _FLAG,
    "tools": _list(_TOOL, 1),
    "tool_choice": _TOOL_CHOICE,
    "chat_template_kwargs": _OBJECT | {"description": "Variables of the model's own template"},
    "encoding_format": {"enum": list(ENCODINGS)},
}


def request_schema(kind: Kind, names: Sequence[str], most: Most) -> Json:
    """Of a body. names: of the models that it may ask. What may be left out may be null."""
    of_all = _OF_FIELDS | {
        "n": _WHOLE | _between(1, most.choices),
        "prompt": _texts(most.prompts),
        "input": _texts(most.inputs),
    }
    if kind == "completion":  # a number there, a flag in a chat
        of_all["logprobs"] = _WHOLE | _between(0, MOST_LOGPROBS)
    needed = ["model", CONTENT[kind]]
    properties = {
        name: of_all[name] if name in needed else _or_null(of_all[name])
        for name in sorted(FIELDS[kind] - {"model"})
    }
    made = {
        "type": "object",
        "properties": {"model": {"enum": list(names)}, **properties},
        "required": needed,
        "additionalProperties": False,
    }
    return made if kind == "embedding" else made | {"allOf": _TOGETHER[kind]}


def _both(one: str, other: str) -> Json:
    """Said, and not null."""
    given = {"not": {"type": "null"}}
    return {"required": [one, other], "properties": {one: given, other: given}}


def _only_with(name: str, condition: Json) -> Json:
    """name may be said, and not be null, where the condition holds."""
    said = {"required": [name], "properties": {name: {"not": {"type": "null"}}}}
    return {"if": said, "then": condition}


_STREAMED = _only_with(
    "stream_options", {"required": ["stream"], "properties": {"stream": {"const": True}}}
)
_TOGETHER: dict[Kind, list[Json]] = {
    "chat": [
        _STREAMED,
        _only_with("tool_choice", {"required": ["tools"], "properties": {"tools": _list({}, 1)}}),
        {"not": _both("max_tokens", "max_completion_tokens")},
    ],
    "completion": [_STREAMED],
}
"""What fields say of each other."""


def _texts(most: int) -> Json:
    tokens = _list(_TOKEN, 1)
    several = _list({"anyOf": [_NAME, tokens]}, 1) | {"maxItems": most}
    return {"anyOf": [_NAME, tokens, several], "description": "A text, or the ids of its tokens"}


_USAGE = _record({"prompt_tokens": _WHOLE, "total_tokens": _WHOLE}, {"completion_tokens": _WHOLE})
_SAID = _record({"role": {"const": "assistant"}}, {"content": {"type": ["string", "null"]}})
_ENDED: Json = {"finish_reason": {"type": ["string", "null"]}}
_OF_ANSWER: Json = {"id": _TEXT, "object": _TEXT, "created": _WHOLE, "model": _TEXT}
ANSWERS: dict[Kind, Json] = {
    "chat": _record(
        _OF_ANSWER
        | {"choices": _list(_record({"index": _WHOLE, "message": _SAID}, _ENDED)), "usage": _USAGE}
    ),
    "completion": _record(
        _OF_ANSWER
        | {"choices": _list(_record({"index": _WHOLE, "text": _TEXT}, _ENDED)), "usage": _USAGE}
    ),
    "embedding": _record(
        {
            "object": _TEXT,
            "model": _TEXT,
            "data": _list(
                _record({"index": _WHOLE, "embedding": {"anyOf": [_list(_NUMBER), _TEXT]}})
            ),
            "usage": _USAGE,
        }
    ),
}
"""Of answers that are whole."""
ASKED: dict[Kind, Json] = {
    "chat": {"messages": [{"role": "user", "content": "Why is the sky blue?"}], "max_tokens": 40},
    "completion": {"prompt": "The sky is blue because", "max_tokens": 30},
    "embedding": {"input": ["The sky is blue.", "Grass is green."]},
}
"""A request of each kind, but for its model."""
ERROR = _record(
    {
        "error": _record(
            {
                "message": _TEXT,
                "type": _TEXT,
                "param": {"type": ["string", "null"]},
                "code": _TEXT,
            }
        )
    }
)
