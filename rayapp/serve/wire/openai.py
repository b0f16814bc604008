"""OpenAI's HTTP interface: what callers may send, what an engine is sent, and errors' shape.

https://platform.openai.com/docs/api-reference (chat, completions, embeddings, models), with the
sampling parameters that vLLM adds. A field that would have no effect is refused.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from rayapp.families.inputs import shown
from rayapp.schemas.language import prompts_of
from rayapp.serve.wire.chat import check_chat, check_form
from rayapp.serve.wire.http import Response, json_response
from rayapp.serve.wire.mistakes import flag, told, type_of, whole, wrong
from rayapp.serve.wire.plain_fields import as_whole, check_plain, is_token

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
EMBEDDINGS, MODELS = "/v1/embeddings", "/v1/models"
Kind = Literal["chat", "completion", "embedding"]
KINDS: dict[str, Kind] = {CHAT: "chat", COMPLETIONS: "completion", EMBEDDINGS: "embedding"}

_SAMPLING = {
    *("model", "user", "n", "max_tokens", "min_tokens", "stop", "stop_token_ids", "seed"),
    *("temperature", "top_p", "top_k", "min_p", "logit_bias", "ignore_eos"),
    *("presence_penalty", "frequency_penalty", "repetition_penalty"),
    *("stream", "stream_options", "response_format", "structured_outputs"),
    *("skip_special_tokens", "include_stop_str_in_output"),
}
FIELDS: dict[Kind, set[str]] = {
    "chat": {
        *_SAMPLING,
        *("messages", "max_completion_tokens", "logprobs", "top_logprobs"),
        *("tools", "tool_choice", "parallel_tool_calls", "reasoning_effort"),
        *("chat_template_kwargs", "add_generation_prompt", "continue_final_message"),
    },
    "completion": {*_SAMPLING, *("prompt", "echo", "logprobs", "suffix")},
    "embedding": {*("model", "input", "encoding_format", "dimensions", "user")},
}
_NO_EFFECT_HERE = {*("store", "metadata", "service_tier", "prompt_cache_key")}
"""OpenAI's own affairs. They are let pass where they ask for nothing."""
MAX_NAME_CHARS = 64
"""Longer ones are like none of ours, and are compared with none."""
MAX_DEPTH = 64
"""Of objects and lists within each other."""
_OF_TEMPLATES = {
    *("conversation", "tools", "documents", "chat_template", "add_generation_prompt"),
    *("continue_final_message", "tokenize", "padding", "truncation", "max_length"),
    *("return_tensors", "return_dict", "return_assistant_tokens_mask", "tokenizer_kwargs"),
}
"""What templates are applied with. It is ours to say: `chat_template` for one is a program."""
CONTENT: dict[Kind, str] = {"chat": "messages", "completion": "prompt", "embedding": "input"}
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
_QUOTA = ("budget_exceeded", "insufficient_quota")
"""Our kind of the error, and OpenAI's type of it, by which clients know not to try again."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks for. fields: its body as a mapping. num_choices: answers that it wants to
    each of num_prompts prompts. max_tokens: of each answer, None where it does not say. is_stream:
    as server-sent events. wants_usage: a stream's last event but one is to have the token
    counts."""

    kind: Kind
    model: str
    fields: Mapping[str, Any]
    num_choices: int = 1
    max_tokens: int | None = None
    is_stream: bool = False
    wants_usage: bool = False
    num_prompts: int = 1

    @property
    def num_answers(self) -> int:
        return self.num_choices * self.num_prompts


@dataclass(frozen=True, slots=True)
class Most:
    """What one request may ask for: answers to each prompt, prompts to complete, inputs to
    embed."""

    choices: int
    prompts: int
    inputs: int


def parse(path: str, body: bytes, most: Most) -> Asked:
    """Raises RequestError 400 for a body that asks for nothing this server could do, or for more
    than one request may. How messages, tools and schemas go together with a model is the engine's
    to judge."""
    kind = KINDS[path]
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise wrong(f"the body is no JSON in UTF-8 ({error})", "send one JSON object") from None
    if not isinstance(fields, dict):
        raise wrong(f"the body is {type_of(fields)}", "send one JSON object")
    if _is_deep(fields):
        what = f"objects and lists are more than {MAX_DEPTH} deep within each other"
        raise wrong(what, "send something flatter")
    _check_names(kind, fields)
    model = fields.get("model")
    if not isinstance(model, str):
        raise wrong(f"`model` is {told(model)}", "name one of GET /v1/models", "model")
    content = CONTENT[kind]
    if not fields.get(content):
        raise wrong(f"`{content}` is {told(fields.get(content))}", f"send `{content}`", content)
    if kind == "chat":
        check_chat(fields)
        _check_template(fields)
    check_plain(kind, fields)
    if kind == "embedding":
        _num_prompts(fields, content, most.inputs)
        return Asked(kind, model, as_whole(fields))
    check_form(fields)
    num_choices = whole(fields, "n", 1, most.choices) or 1
    fields = as_whole(fields)
    return Asked(
        kind,
        model,
        fields,
        num_choices,
        _max_tokens(fields),
        flag(fields, "stream"),
        _wants_usage(fields),
        1 if kind == "chat" else _num_prompts(fields, content, most.prompts),
    )


def _num_prompts(fields: Mapping[str, Any], content: str, most: int) -> int:
    """Each a text, or a list of token ids. Counted before any is given to a tokenizer: four
    megabytes hold a million of them."""
    given = fields[content]
    prompts = prompts_of(given)
    if len(prompts) > most:
        what = f"`{content}` is a list of {len(prompts):,}, at most {most:,} fit into one request"
        raise wrong(what, "send several requests", content)
    for number, prompt in enumerate(prompts):
        is_tokens = isinstance(prompt, list) and all(map(is_token, prompt))
        if not prompt or not (isinstance(prompt, str) or is_tokens):
            at = content if prompt is given else f"{content}[{number}]"
            what = f"`{at}` is {told(prompt)}, must be a text, or a list of token ids"
            raise wrong(what, "send one that is not empty", at)
    return len(prompts)


def for_engine(asked: Asked, engine_model: str, max_tokens: int, salt: str | None) -> bytes:
    """The body that the engine is sent. A stream always tells its token counts, by which it is
    paid for. salt: separates what the engine has in its prefix cache for one tenant from others',
    who could else find out by time what was asked."""
    made = {k: v for k, v in asked.fields.items() if v is not None and k not in _NO_EFFECT_HERE}
    made["model"] = engine_model
    made.pop("user", None)
    if asked.kind == "embedding":
        return orjson.dumps(made)
    made.pop("max_completion_tokens", None)
    made["max_tokens"] = max_tokens
    if asked.is_stream:
        made["stream_options"] = {"include_usage": True, "continuous_usage_stats": True}
    if salt is not None:
        made["cache_salt"] = salt
    return orjson.dumps(made)


def error_response(response: Response) -> Response:
    """An error of ours in OpenAI's shape: {error: {message, type, param, code}}. `next`, which has
    no place of its own there, ends the message."""
    error = orjson.loads(response.body)["error"]
    return json_response(
        response.status,
        {"error": error_fields(response.status, error["type"], error)},
        response.headers,
    )


def error_fields(status: int, kind: str, error: Mapping[str, Any]) -> dict[str, Any]:
    ours, theirs = _QUOTA
    named = theirs if kind == ours else _TYPES.get(status)
    if named is None:
        named = "invalid_request_error" if status < 500 else "server_error"
    return {
        "message": f"{error['message']}; next: {error['next']}",
        "type": named,
        "param": error.get("param"),
        "code": kind,
    }


def _check_names(kind: Kind, fields: Mapping[str, Any]) -> None:
    for name in sorted(fields.keys() - FIELDS[kind]):
        is_known = name in _NO_EFFECT_HERE
        if fields[name] is None or (is_known and not fields[name]):
            continue
        what = f"there is no field {shown(name)} in a request for {_the(kind)}"
        near = None if is_known else _near(name, kind)
        if near is None:
            raise wrong(what, "leave it out: it would have no effect", name)
        raise wrong(f"{what}; did you mean `{near}`?", f"send `{near}`, or leave it out", name)


def _near(name: str, kind: Kind) -> str | None:
    if len(name) > MAX_NAME_CHARS:
        return None
    near = difflib.get_close_matches(name, sorted(FIELDS[kind]), n=1)
    return near[0] if near else None


def _the(kind: Kind) -> str:
    return {"chat": "a chat completion", "completion": "a completion"}.get(kind, "embeddings")


def _check_template(fields: Mapping[str, Any]) -> None:
    given = fields.get("chat_template_kwargs")
    if given is None:
        return
    if not isinstance(given, dict) or given.keys() & _OF_TEMPLATES:
        ours = sorted(given.keys() & _OF_TEMPLATES) if isinstance(given, dict) else ()
        what = f"`chat_template_kwargs` is {told(given)}{' with ' if ours else ''}{', '.join(ours)}"
        raise wrong(what, "send an object of the template's own variables", "chat_template_kwargs")


def _wants_usage(fields: Mapping[str, Any]) -> bool:
    """Of a stream: whether its last event but one is to have the token counts."""
    options = fields.get("stream_options")
    if options is None:
        return False
    if not isinstance(options, dict) or (options and not fields.get("stream")):
        stream = told(fields.get("stream"))
        what = f"`stream_options` is {told(options)} and `stream` is {stream}"
        raise wrong(what, "send an object, with `stream`: true", "stream_options")
    for name in sorted(options.keys() - {"include_usage"}):
        if options[name]:
            what = f"there is no field {shown(name)} in `stream_options`"
            raise wrong(what, "leave it out: it would have no effect", "stream_options")
    return flag(options, "include_usage")


def _is_deep(value: Any) -> bool:
    """Looked at level by level: a walk down would end with Python's own stack."""
    level = [value]
    for _ in range(MAX_DEPTH):
        inside = [one.values() if isinstance(one, dict) else one for one in level]
        level = [one for some in inside for one in some if isinstance(one, dict | list)]
        if not level:
            return False
    return True


def _max_tokens(fields: Mapping[str, Any]) -> int | None:
    """Of each answer; None where it is not said. fields: as they were checked."""
    newer, older = fields.get("max_completion_tokens"), fields.get("max_tokens")
    if newer is not None and older is not None:
        what = "`max_tokens` and `max_completion_tokens` both say how long an answer may be"
        raise wrong(what, "keep `max_completion_tokens`", "max_tokens")
    return older if newer is None else newer


def model_list(names: Sequence[str], created_s: int) -> dict[str, Any]:
    return {"object": "list", "data": [model_entry(name, created_s) for name in names]}


def model_entry(name: str, created_s: int) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created_s, "owned_by": "rayapp"}
