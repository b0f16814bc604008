"""What is wrong with a config, in the words of docs/reference/settings.md, and where."""

import difflib
import re
import typing
from collections.abc import Iterator, Mapping
from datetime import date
from typing import Any

from pydantic import BaseModel

Location = tuple[str | int, ...]


def describe(problem: Any, cls: type[BaseModel], places: Mapping[Location, str]) -> str:
    """One of pydantic's error details. places: where each key stands."""
    location: Location = tuple(problem["loc"])
    is_of_key = location[-1:] == ("[key]",)
    location = location[:-1] if is_of_key else location
    where = _first_place(places, [location[:n] for n in range(len(location), 0, -1)])
    name = ".".join(str(part) for part in location)
    if problem["type"] == "extra_forbidden":
        return f"{where}{name}: unknown key{_hint(location, cls, places)}"
    if problem["type"] == "missing":
        return f"{where}{name}: missing"
    said, found = _in_words(problem, location, cls), problem["input"]
    if is_of_key:
        return f"{where}{'.'.join(map(str, location[:-1]))}: the name {found!r}: {said}"
    if problem["type"].startswith("union_tag"):
        return f"{where}{name}: {said}"
    if not isinstance(found, dict):
        return f"{where}{name}: {said}, got {_shown(found)}{_written(problem)}"
    # keys that do not go together: the line is that of the first one it names
    written = {".".join(map(str, at)): at for at in places}
    keys = [".".join(map(str, (*location, key))) for key in re.findall("`([a-z0-9_.-]+)`", said)]
    where = _first_place(places, [written[key] for key in keys if key in written]) or where
    return f"{where}{name}: {said}{_written(problem)}" if name else f"{where}{said}"


def _first_place(places: Mapping[Location, str], at: list[Location]) -> str:
    return next((f"{places[one]}: " for one in at if one in places), "")


def _hint(location: Location, cls: type[BaseModel], places: Mapping[Location, str]) -> str:
    """What an unknown key may be meant to be: one that is written almost so, the same key
    elsewhere, or one like it."""
    key, known = str(location[-1]), _keys_at(cls, location[:-1])
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.85)
    near = near or [".".join(at) for at in _places_of(key, cls)][:1]
    near = near or difflib.get_close_matches(key, known, n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    if places.get(location, "").startswith("override"):
        listed = (at for at in places if at[-1] == key and any(type(part) is int for part in at))
        found = next((".".join(map(str, at)) for at in listed), None)
        if found is not None:
            return f"; no override reaches `{found}`, which is inside a list: edit the file"
    return ""


_PATTERNS = {
    r"^[a-z][a-z0-9-]*$": "lower-case letters, digits and hyphens, a letter first",
    r"^[a-z][a-z0-9_]*$": "lower-case letters, digits and underscores, a letter first",
    r"^[a-z][a-z0-9._-]{0,99}$": "at most 100 lower-case letters, digits, dots, hyphens and "
    "underscores, a letter first",
    r"^[A-Za-z][A-Za-z0-9_.-]{0,62}$": "at most 63 letters, digits, dots, hyphens and underscores, "
    "a letter first",
    r"^[A-Za-z_][A-Za-z0-9_]*$": "letters, digits and underscores, no digit first, as an "
    "environment variable is named",
    r"^[0-9a-f]{64}$": "64 digits of 0-9 and a-f, a SHA-256",
    r"^https?://[^\s/?#@]+(/[^\s?#]*)?$": "a URL that begins with http:// or https://, without a "
    "user or a query, for example http://localhost:4318",
    r"^https?://[^@\s]+[^@\s/]$": "a URL that begins with http:// or https://, without a user or a "
    "/ at its end, for example http://localhost:8000/v1",
}
_WANTED = {
    **dict.fromkeys(("tuple_type", "list_type", "set_type"), "a list"),
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "a whole number"),
    "int_parsing_size": "a whole number of fewer digits",
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    "string_type": "text",
}
"""By pydantic's kind of error."""


def _in_words(problem: Any, location: Location, cls: type[BaseModel]) -> str:
    """What pydantic says of a value, for people who write YAML."""
    told = problem.get("ctx", {})
    match problem["type"]:
        case "union_tag_invalid":
            known = re.findall("'([^']*)'", told["expected_tags"])
            near = difflib.get_close_matches(told["tag"], known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            key = told["discriminator"].strip("'")
            return f"`{key}` is {told['tag']!r}, must be one of {', '.join(known)}{hint}"
        case "union_tag_not_found":
            return f"{told['discriminator'].replace(chr(39), '`')} is missing"
        case "string_pattern_mismatch" if told["pattern"] in _PATTERNS:
            return f"must be {_PATTERNS[told['pattern']]}"
        case "model_type" | "model_attributes_type":
            return f"must hold keys ({', '.join(_keys_at(cls, location))})"
        case "dict_type":
            return "must hold keys and values"
        case kind if kind in _WANTED:
            return f"must be {_WANTED[kind]}"
    said: str = problem["msg"].removeprefix("Value error, ").partition(", unable to")[0]
    said = said.replace(" after validation", "")
    return re.sub("^(Input|String|Value|List|Tuple|Dictionary) should ", "must ", said)


def _shown(value: Any) -> str:
    """As YAML has it."""
    if value is None:
        return "null"
    if isinstance(value, bool | date):
        return str(value).lower()
    return repr(value)


def _written(problem: Any) -> str:
    """How the same would be right, where what is wrong is its form alone."""
    value = problem["input"]
    match problem["type"]:
        case "tuple_type" | "list_type" if isinstance(value, dict):
            return ", has keys: put `- ` before the first of each item"
        case "tuple_type" | "list_type" if isinstance(value, str | int | float):
            return f": write [{_bare(value)}]"
        case "string_type" if isinstance(value, bool | int | float | date):
            return f': write "{_bare(value)}"'
    return ""


def _bare(value: Any) -> str:
    return value if isinstance(value, str) else _shown(value)


def _keys_at(cls: type[BaseModel], location: Location) -> list[str]:
    """Names of the fields that are allowed at a place in the config."""
    models: list[type[BaseModel]] = [cls]
    for part in location:
        step: list[type[BaseModel]] = []
        for model in models:
            field = model.model_fields.get(str(part))
            step += models_in(field.annotation) if field is not None else []
        models = step or models
    fields = [item for model in models for item in model.model_fields.items()]
    return sorted({field.alias or name for name, field in fields})


def _places_of(key: str, cls: type[BaseModel]) -> Iterator[tuple[str, ...]]:
    """Where a key belongs, below a config that does not have it itself."""
    for name, field in cls.model_fields.items():
        if name == key:
            yield (key,)
        for model in models_in(field.annotation):
            yield from ((name, *at) for at in _places_of(key, model))


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The models that a field of this type can hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for arg in typing.get_args(annotation) for model in models_in(arg)]
