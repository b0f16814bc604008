"""The outer shape of what a chat is asked with: messages, tools, and the form of its answer.

What would be right by OpenAI's interface, or by vLLM's where that takes more, passes; how a model's
template uses it is the engine's to judge.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from rayapp.serve.wire.mistakes import told, wrong

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_INSTEAD_OF_CONTENT = {
    *("tool_calls", "function_call", "refusal", "audio", "reasoning", "reasoning_content"),
}
"""One of these an assistant's message must have that has no content."""
_TEXT_PARTS = {
    **{"text": "text", "input_text": "text", "output_text": "text"},
    **{"refusal": "refusal", "thinking": "thinking"},
}
"""Types of parts that are text, and where they have it."""
_MEDIA = ("image_url", "input_audio", "audio_url", "video_url")
_PARTS = {
    *(*_TEXT_PARTS, *_MEDIA, "input_image", "tool_reference"),
    *("image_embeds", "audio_embeds", "video_embeds", "prompt_embeds"),
}
_CHOICES = ("none", "auto", "required")
_FORMATS = ("text", "json_object", "json_schema", "structural_tag")
_BY_NAME = {*("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")}
"""Of a schema: what has schemas by names, which are no words of JSON Schema."""
_DATA = {*("const", "enum", "default", "examples")}
MAX_PATH_CHARS = 200


def check_chat(fields: Mapping[str, Any]) -> None:
    """Raises RequestError 400. fields: with `messages`."""
    _check_messages(fields["messages"])
    names = _check_tools(fields.get("tools"))
    _check_choice(fields.get("tool_choice"), names)


def _check_messages(messages: Any) -> None:
    if not isinstance(messages, list):
        raise wrong(f"`messages` is {told(messages)}", "send a list of messages", "messages")
    for number, message in enumerate(messages):
        at = f"messages[{number}]"
        if not isinstance(message, dict):
            like = 'each message is an object with `role` and `content`: {"role": "user", …}'
            raise wrong(f"{at} is {told(message)}", like, at)
        role = message.get("role")
        if role not in ROLES:
            what = f"`{at}.role` is {told(role)}, must be one of {', '.join(ROLES)}"
            raise wrong(what, "say whose words these are", f"{at}.role")
        _check_content(message, f"{at}.content")
        _check_calls(message.get("tool_calls"), f"{at}.tool_calls")


def _check_content(message: Mapping[str, Any], at: str) -> None:
    content = message.get("content")
    if isinstance(content, str):
        return
    if isinstance(content, list):
        for number, part in enumerate(content):
            _check_part(part, f"{at}[{number}]")
        return
    if content is not None:
        raise wrong(
            f"`{at}` is {told(content)}, must be a text or a list of parts",
            'send a text, or [{"type": "text", "text": "…"}]',
            at,
        )
    if message["role"] != "assistant" or not any(message.get(n) for n in _INSTEAD_OF_CONTENT):
        raise wrong(
            f"`{at}` is missing, which only an assistant's message with tool_calls can do without",
            'send a text; "" says nothing',
            at,
        )


def _check_part(part: Any, at: str) -> None:
    if isinstance(part, str):  # not OpenAI's, but vLLM takes it for a part that is text
        return
    if not isinstance(part, dict):
        like = '{"type": "text", "text": "…"}'
        raise wrong(f"`{at}` is {told(part)}, must be an object", f"send {like}", at)
    kind = part.get("type")
    if kind is None and any(part.get(name) is not None for name in _MEDIA):
        return
    if not isinstance(kind, str) or kind not in _PARTS:
        what = f"`{at}.type` is {told(kind)}, must be one of {', '.join(sorted(_PARTS))}"
        raise wrong(what, "say what kind of part it is", f"{at}.type")
    name = _TEXT_PARTS.get(kind)
    if name is not None and not isinstance(part.get(name), str):
        what = f"`{at}.{name}` is {told(part.get(name))}, must be a text"
        raise wrong(what, "send the part's text, or leave the part out", f"{at}.{name}")


def _check_calls(calls: Any, at: str) -> None:
    """Of tools, which a caller sends back with what came of them. An engine reads arguments."""
    if calls is None:
        return
    like = (
        'a call is {"id": "…", "type": "function", "function": {"name": "…", "arguments": "{…}"}}'
    )
    if not isinstance(calls, list):
        raise wrong(f"`{at}` is {told(calls)}, must be a list of calls", like, at)
    for where, function in _functions(calls, at, like):
        arguments = function.get("arguments")
        if not isinstance(arguments, str | dict | list | None):
            what = f"`{where}.arguments` is {told(arguments)}, must be a text that is JSON"
            raise wrong(what, like, f"{where}.arguments")


def _check_tools(tools: Any) -> tuple[str, ...]:
    """The functions' names."""
    if tools is None:
        return ()
    like = 'a tool is {"type": "function", "function": {"name": "…", "parameters": {…}}}'
    if not isinstance(tools, list) or not tools:
        what = f"`tools` is {told(tools)}, must be a list of tools"
        raise wrong(what, f"leave it out, or send some: {like}", "tools")
    names = []
    for where, function in _functions(tools, "tools", like):
        names.append(function["name"])
        _check_function(function, where)
    return tuple(names)


def _functions(given: list[Any], at: str, like: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Path and function of each tool, or call of one. like: how one is written."""
    for number, one in enumerate(given):
        where = f"{at}[{number}]"
        if not isinstance(one, dict):
            raise wrong(f"`{where}` is {told(one)}, must be an object", like, where)
        kind = one.get("type", "function")
        if kind != "function":
            what = f"`{where}.type` is {told(kind)}, must be 'function'"
            raise wrong(what, like, f"{where}.type")
        _function_name(one, where, like)
        yield f"{where}.function", one["function"]


def _function_name(owner: Mapping[str, Any], at: str, like: str) -> str:
    function = owner.get("function")
    if not isinstance(function, dict):
        what = f"`{at}.function` is {told(function)}, must be an object"
        raise wrong(what, like, f"{at}.function")
    name = function.get("name")
    if not isinstance(name, str) or not name:
        what = f"`{at}.function.name` is {told(name)}, must be a text"
        raise wrong(what, like, f"{at}.function.name")
    return name


def _check_function(function: Mapping[str, Any], at: str) -> None:
    description = function.get("description")
    if not isinstance(description, str | None):
        what = f"`{at}.description` is {told(description)}, must be a text"
        raise wrong(what, "say what the function does, or leave it out", f"{at}.description")
    parameters = function.get("parameters")
    if parameters is None:
        return
    if not isinstance(parameters, dict):
        what = f"`{at}.parameters` is {told(parameters)}, must be an object, a JSON schema"
        raise wrong(what, "send the schema, or leave it out", f"{at}.parameters")
    check_refs(parameters, f"{at}.parameters")


def _check_choice(choice: Any, names: tuple[str, ...]) -> None:
    if choice is None or choice == "none":
        return
    like = 'send "none", "auto", "required" or {"type": "function", "function": {"name": "…"}}'
    if not isinstance(choice, dict) and choice not in _CHOICES:
        what = f"`tool_choice` is {told(choice)}, must be one of {', '.join(_CHOICES)} or an object"
        raise wrong(what, like, "tool_choice")
    if not names:
        what = f"`tool_choice` is {told(choice)}, and there are no `tools`"
        raise wrong(what, "send `tools`, or leave `tool_choice` out", "tool_choice")
    if not isinstance(choice, dict):
        return
    kind = choice.get("type", "function")
    if kind != "function":
        what = f"`tool_choice.type` is {told(kind)}, must be 'function'"
        raise wrong(what, like, "tool_choice.type")
    name = _function_name(choice, "tool_choice", like)
    if name not in names:
        at = "tool_choice.function.name"
        raise wrong(f"`{at}` is {told(name)}, which none of `tools` is", "name one of them", at)


def check_form(fields: Mapping[str, Any]) -> None:
    """Of the form that an answer is to have, and what ends it: of chats and completions."""
    _check_stop(fields.get("stop"))
    _check_format(fields.get("response_format"))
    outputs = fields.get("structured_outputs")
    if isinstance(outputs, dict):
        check_refs(outputs.get("json"), "structured_outputs.json")


def _check_stop(stop: Any) -> None:
    """How many there may be is a setting of the engine's."""
    if stop is None or isinstance(stop, str):
        return
    next_step = "send what ends an answer as one text, or as a list of a few"
    if not isinstance(stop, list):
        what = f"`stop` is {told(stop)}, must be a text or a list of texts"
        raise wrong(what, next_step, "stop")
    for number, one in enumerate(stop):
        if not isinstance(one, str):
            at = f"stop[{number}]"
            raise wrong(f"`{at}` is {told(one)}, must be a text", next_step, at)


def _check_format(form: Any) -> None:
    if form is None:
        return
    at = "response_format"
    like = 'send {"type": "json_schema", "json_schema": {"name": "…", "schema": {…}}}'
    if not isinstance(form, dict):
        raise wrong(f"`{at}` is {told(form)}, must be an object", like, at)
    kind = form.get("type")
    if kind not in _FORMATS:
        what = f"`{at}.type` is {told(kind)}, must be one of {', '.join(_FORMATS)}"
        raise wrong(what, like, f"{at}.type")
    if kind != "json_schema":
        check_refs(form, at)  # structural tags have schemas, too
        return
    at = f"{at}.json_schema"
    wanted = form.get("json_schema")
    if not isinstance(wanted, dict):
        raise wrong(f"`{at}` is {told(wanted)}, must be an object", like, at)
    name, schema = wanted.get("name"), wanted.get("schema")
    if not isinstance(name, str):
        raise wrong(f"`{at}.name` is {told(name)}, must be a text", like, f"{at}.name")
    if not isinstance(schema, dict):
        raise wrong(f"`{at}.schema` is {told(schema)}, must be an object", like, f"{at}.schema")
    check_refs(schema, f"{at}.schema")


def check_refs(schema: Any, at: str) -> None:
    """An engine fetches no other document: it would let anything pass in its place."""
    for where, ref in _remote_refs(schema, at, has_names=False):
        where = where if len(where) <= MAX_PATH_CHARS else f"{where[:MAX_PATH_CHARS]}…"
        raise wrong(
            f"`{where}` is {told(ref)}, outside of the schema: only what begins with # is read",
            'put what it means under "$defs" and refer to it by "#/$defs/NAME"',
            where,
        )


def _remote_refs(schema: Any, at: str, has_names: bool) -> Iterator[tuple[str, str]]:
    """Path and value of each. has_names: schema has schemas by names."""
    if isinstance(schema, list):
        for number, one in enumerate(schema):
            yield from _remote_refs(one, f"{at}[{number}]", has_names=False)
    if not isinstance(schema, dict):
        return
    for name, inside in schema.items():
        where = f"{at}.{name}"
        if has_names:
            yield from _remote_refs(inside, where, has_names=False)
        elif name == "$ref" and isinstance(inside, str):
            if not inside.startswith("#"):
                yield where, inside
        elif name not in _DATA:
            yield from _remote_refs(inside, where, name in _BY_NAME)
