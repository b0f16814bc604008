"""A contract file as text → a document of the Open Data Contract Standard, or every mistake in it.

A file passes three readings: YAML with line numbers, the standard's own JSON schema, and its Python
model. The schema is needed because the model alone lets nested typos (`requiredd: true`) vanish.
"""

import difflib
import json
import re
import typing
from collections.abc import Iterator, Mapping
from functools import cache, lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import open_data_contract_standard as standard
from jsonschema.exceptions import ValidationError, best_match
from open_data_contract_standard.model import OpenDataContractStandard
from pydantic import BaseModel
from pydantic import ValidationError as ModelError

from rayapp.config.load import listed, read_yaml
from rayapp.config.problems import Location
from rayapp.errors import ConfigError, ContractError
from rayapp.schemas.record import mismatch

_UNEXPECTED = re.compile(r"'([^']+)'(?=[^()]* (?:was|were) unexpected)")
_QUOTED_MAX_CHARS = 200


def read_document(path: str | Path) -> tuple[OpenDataContractStandard, dict[str, Any]]:
    """The document and the plain data it was read from. Raises ContractError."""
    try:
        data, lines = read_yaml(path)
    except ConfigError as error:
        raise ContractError(error.what, error.next_step) from None
    text = json.dumps(data, default=str)
    problems = [_describe(error, lines) for error in _mistakes(text)]
    if problems:
        raise ContractError(
            f"{path}: {listed(problems)}",
            "correct the contract; its words are those of Open Data Contract Standard 3.1",
        )
    plain = json.loads(text)
    try:
        return OpenDataContractStandard.model_validate(plain), plain
    except ModelError as error:
        raise ContractError(f"{path}: {mismatch(error)}", "correct the contract") from None


@cache
def _validator() -> Any:
    schema = json.loads((resources.files(standard) / "schema.json").read_text(encoding="utf-8"))
    return jsonschema.validators.validator_for(schema)(schema)


@lru_cache(maxsize=64)  # 0.1 s a contract, and a driver reads it for its checks and its snapshot
def _mistakes(text: str) -> list[ValidationError]:
    """One error per place. A wrong value makes its whole object look unknown to the schema, so
    "unexpected key" counts only where nothing more exact is said at or below that place.
    text: the document as JSON."""
    problems = _validator().iter_errors(json.loads(text))
    found = [leaf for error in problems for leaf in _leaves(error)]
    exact = [error for error in found if error.validator != "unevaluatedProperties"]
    vague = [
        error
        for error in found
        if error.validator == "unevaluatedProperties"
        and not any(_is_at_or_below(e.absolute_path, error.absolute_path) for e in exact)
    ]
    unique = {(tuple(e.absolute_path), e.message): e for e in (*exact, *vague)}
    return sorted(unique.values(), key=lambda e: [str(p) for p in e.absolute_path])


def _leaves(error: ValidationError) -> Iterator[ValidationError]:
    if not error.context:
        yield error
        return
    deepest = best_match(error.context)
    yield from _leaves(deepest if deepest is not None else error)


def _is_at_or_below(path: Any, place: Any) -> bool:
    return tuple(path)[: len(place)] == tuple(place)


def _describe(error: ValidationError, lines: Mapping[Location, int]) -> str:
    location: Location = tuple(error.absolute_path)
    name = ".".join(str(part) for part in location) or "top level"
    unknown = _UNEXPECTED.findall(error.message)
    if not unknown:
        return f"{_line(location, lines)}{name}: {error.message[:_QUOTED_MAX_CHARS]}{_hint(error)}"
    allowed = _keys_at(location)
    said = []
    for key in unknown:
        near = difflib.get_close_matches(key, allowed, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        said.append(f"{_line((*location, key), lines)}{name}: unknown key {key!r}{hint}")
    return "\n  ".join(said)


def _hint(error: ValidationError) -> str:
    """The nearest of the words that the schema allows in this place."""
    if error.validator != "enum":
        return ""
    words = [str(word) for word in typing.cast(list[Any], error.validator_value)]
    near = difflib.get_close_matches(str(error.instance), words, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _line(location: Location, lines: Mapping[Location, int]) -> str:
    at = (lines[location[:n]] for n in range(len(location), 0, -1) if location[:n] in lines)
    line = next(at, None)
    return f"line {line}: " if line else ""


def _keys_at(location: Location) -> list[str]:
    """Keys that the standard's model has at a place in the document."""
    models: list[type[BaseModel]] = [OpenDataContractStandard]
    for part in location:
        if isinstance(part, str):
            models = [inner for model in models for inner in _field_models(model, part)]
    return sorted(
        {field.alias or name for model in models for name, field in model.model_fields.items()}
    )


def _field_models(model: type[BaseModel], key: str) -> list[type[BaseModel]]:
    for name, field in model.model_fields.items():
        if key in (name, field.alias):
            return _models_in(field.annotation)
    return []


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for arg in typing.get_args(annotation) for model in _models_in(arg)]
