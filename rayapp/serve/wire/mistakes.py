"""What callers are told of fields that are not as OpenAI's interface has them."""

from collections.abc import Mapping
from typing import Any

from rayapp.errors import RequestError
from rayapp.families.inputs import shown

_TYPES = {
    dict: "an object",
    list: "a list",
    str: "a text",
    bool: "a boolean",
    type(None): "null",
}


def wrong(what: str, next_step: str, param: str | None = None) -> RequestError:
    """param: the path of the field, for example `messages[0].role`."""
    return RequestError(what, next_step, 400, "invalid_request", param)


def told(value: Any) -> str:
    """A value as an error may repeat it."""
    if value is None:
        return "missing"
    if isinstance(value, list | dict):
        kind = type_of(value)
        return f"{kind} of {len(value)}" if value else f"an empty {kind.split()[1]}"
    return shown(value)


def type_of(value: Any) -> str:
    return _TYPES.get(type(value), "a number")


def whole(fields: Mapping[str, Any], name: str, least: int, most: int) -> int | None:
    """As JSON Schema has it: 2.0 is one, too, as far as a float tells one from the next."""
    value = fields.get(name)
    if value is None:
        return None
    is_float = type(value) is float and value.is_integer() and abs(value) <= 2**53
    if not (type(value) is int or is_float) or not least <= value <= most:
        limit = f"must be a whole number from {least} to {most}"
        raise wrong(f"`{name}` is {told(value)}, {limit}", "correct it", name)
    return int(value)


def flag(fields: Mapping[str, Any], name: str) -> bool:
    value = fields.get(name)
    if value is not None and not isinstance(value, bool):
        raise wrong(f"`{name}` is {told(value)}, must be true or false", "correct it", name)
    return bool(value)
