"""OpenAI's interface as a gateway of ours has it, described for tools: OpenAPI 3.1, with the models
that there are now and the fields that have an effect. wire/page.py shows the same to people.

https://spec.openapis.org/oas/v3.1.0
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from rayapp.serve.wire.described import HEADERS, Json, document_of, errors_of, get, headers, post
from rayapp.serve.wire.openai import KINDS, MODELS, Kind, Most
from rayapp.serve.wire.openai_schemas import ANSWERS, ASKED, ERROR, request_schema

_ERRORS = errors_of(
    {
        "400": "It cannot be read, or asks for what the model cannot do; param names the field",
        "404": "No such model",
        "413": "The body is too large",
    }
)
_SUMMARIES: dict[Kind, str] = {
    "chat": "Continue a conversation",
    "completion": "Continue a text",
    "embedding": "Make vectors of texts",
}
_get, _post = partial(get, errors=_ERRORS), partial(post, errors=_ERRORS)


@dataclass(frozen=True)
class Described:
    """A model as callers name it. kinds: what it can be asked for. release_id: who answers; None
    where it is one of several."""

    name: str
    kinds: Sequence[Kind]
    release_id: str | None
    max_context_tokens: int
    max_output_tokens: int


def describe_models(
    models: Sequence[Described], version: str, requires_key: bool, most: Most
) -> Json:
    """The document."""
    paths: Json = {
        MODELS: {"get": _get("The models that can be asked now")},
        f"{MODELS}/{{model}}": {
            "get": _get("One of them; with a key, what it is told before by itself")
            | {"parameters": [_model_of([one.name for one in models])]}
        },
        "/v1/ping": {"get": _get("The gateway answers; with a key, what is wrong")},
    }
    for path, kind in KINDS.items():
        able = [one.name for one in models if kind in one.kinds]
        if able:
            paths[path] = {"post": _asked(kind, able, most)}
    tags = [
        {
            "name": one.name,
            "description": _words(one),
            "x-kinds": list(one.kinds),
            "x-release": one.release_id,
            "x-max-context-tokens": one.max_context_tokens,
            "x-max-output-tokens": one.max_output_tokens,
        }
        for one in models
    ]
    components = {"Error": ERROR}
    return document_of("rayapp language models", version, requires_key, tags, paths, components)


def _words(one: Described) -> str:
    who = "One of several answers" if one.release_id is None else f"Release {one.release_id}"
    whole = "each text has" if "embedding" in one.kinds else "prompt and answer together have"
    return f"{who}; {whole} at most {one.max_context_tokens:,} tokens"


def _model_of(names: Sequence[str]) -> Json:
    schema = {"enum": list(names)}
    return {"name": "model", "in": "path", "required": True, "schema": schema}


def _asked(kind: Kind, names: Sequence[str], most: Most) -> Json:
    sent = {"model": names[0], **ASKED[kind]}
    body = request_schema(kind, names, most)
    made = _post(_SUMMARIES[kind], body, sent, "200", ANSWERS[kind])
    made["parameters"] = headers(*HEADERS)
    if kind != "embedding":
        events = {"schema": {"description": "Server-sent events, where `stream` is true"}}
        made["responses"]["200"]["content"]["text/event-stream"] = events
    return made
