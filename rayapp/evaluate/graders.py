"""Graders of answers in words: what was expected and what was answered → a grade of 0–1.

Pure and deterministic: the same answer has the same grade on any machine. Nothing asks a model.
"""

import json
import math
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jsonschema
from referencing import Registry
from referencing.exceptions import Unresolvable

from rayapp.config.grading import (
    ExactGrader,
    Grader,
    JsonSchemaGrader,
    LengthGrader,
    NormalisedGrader,
    NumericGrader,
    RefusalGrader,
    RegexGrader,
)
from rayapp.errors import ConfigError, DataError
from rayapp.families.llm.fields import json_object, json_value

_NUMBER = re.compile(
    r"[-+]?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?|[-+]?\.\d+(?:[eE][-+]?\d+)?"
)
"""With commas between thousands, a point before decimals, or an exponent."""


@dataclass(frozen=True)
class Answered:
    """num_tokens: as the model spelled it, with the token that ends it."""

    text: str
    num_tokens: int


Grade = Callable[[str, Answered], float]
"""(expected, answered) → 0–1."""


def grade_of(name: str, grader: Grader) -> Grade:
    """Raises ConfigError for a grader that can grade nothing; the grade itself raises DataError for
    an expected answer that cannot be right."""
    grade = _grade_of(name, grader)
    field = getattr(grader, "field", None)
    return grade if field is None else _of_field(name, field, grade)


def _grade_of(name: str, grader: Grader) -> Grade:
    match grader:
        case ExactGrader():
            return lambda expected, found: float(expected.strip() == found.text.strip())
        case NormalisedGrader():
            return lambda expected, found: float(normalised(expected) == normalised(found.text))
        case RegexGrader():
            pattern = re.compile(grader.pattern)
            return lambda _, found: float(pattern.search(found.text) is not None)
        case JsonSchemaGrader():
            return _json_schema(name, grader)
        case NumericGrader():
            return _numeric(name, grader)
        case RefusalGrader():
            return _refusal(name, grader)
        case LengthGrader():
            return _length(grader)


def normalised(text: str) -> str:
    """Folded to NFKC and lower case, without punctuation, each white space one blank.

    >>> normalised("  The\\u00a0Ａnswer, is: “Nice”!")
    'the answer is nice'
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    kept = (c for c in folded if not unicodedata.category(c).startswith("P"))
    return " ".join("".join(kept).split())


def number_in(text: str, take: str) -> float | None:
    """The number that a text is, or the last one in it.

    >>> number_in("so 1,200 + 34.5 = 1,234.5.", "last")
    1234.5
    """
    plain = text.replace("−", "-").strip()
    if take == "whole":
        whole = _NUMBER.fullmatch(plain)
        found = [] if whole is None else [whole[0]]
    else:
        found = _NUMBER.findall(plain)
    return float(found[-1].replace(",", "")) if found else None


def _json_schema(name: str, grader: JsonSchemaGrader) -> Grade:
    schema = grader.json_schema
    validator_class = jsonschema.validators.validator_for(schema)
    try:
        validator_class.check_schema(schema)
    except jsonschema.exceptions.SchemaError as error:
        raise ConfigError(
            f"grader {name!r}: no JSON Schema: {error.message}", "mend its json_schema"
        ) from None
    for place in _references(schema):
        if not place.startswith("#"):
            raise ConfigError(
                f"grader {name!r}: json_schema refers to {place!r}, which is not in it",
                "put it under $defs and refer to #/$defs/…",
            )
    # an empty registry: nothing is fetched
    validator = validator_class(schema, registry=Registry())

    def grade(_: str, found: Answered) -> float:
        try:
            value = json_value(found.text)
        except ValueError:
            return 0.0
        try:
            return float(validator.is_valid(value))
        except Unresolvable as error:
            raise ConfigError(
                f"grader {name!r}: json_schema refers to {error.ref!r}, which is not in it",
                "put it under $defs and refer to #/$defs/…",
            ) from None

    return grade


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if isinstance(schema.get("$ref"), str):
            yield schema["$ref"]
        for value in schema.values():
            yield from _references(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _references(value)


def _numeric(name: str, grader: NumericGrader) -> Grade:
    def grade(expected: str, found: Answered) -> float:
        right = number_in(expected, grader.take)
        if right is None or not math.isfinite(right):
            raise DataError(
                f"grader {name!r}: the expected answer {expected[:60]!r} has no number",
                "grade a field that has one, or take: last",
            )
        number = number_in(found.text, grader.take)
        if number is None or not math.isfinite(number):
            return 0.0
        return float(abs(number - right) <= max(grader.absolute, grader.relative * abs(right)))

    return grade


def _refusal(name: str, grader: RefusalGrader) -> Grade:
    phrases = [normalised(phrase) for phrase in grader.phrases]
    if not all(phrases):
        raise ConfigError(
            f"grader {name!r}: a phrase of punctuation alone is in every answer", "write words"
        )

    def grade(_: str, found: Answered) -> float:
        text = f" {normalised(found.text)} "
        return float(any(f" {phrase} " in text for phrase in phrases) == grader.wanted)

    return grade


def _length(grader: LengthGrader) -> Grade:
    low, high = grader.min or 0, math.inf if grader.max is None else grader.max

    def grade(_: str, found: Answered) -> float:
        length = len(found.text) if grader.unit == "characters" else found.num_tokens
        return float(low <= length <= high)

    return grade


def _of_field(name: str, field: str, grade: Grade) -> Grade:
    def grade_field(expected: str, found: Answered) -> float:
        wanted, answered = json_object(expected) or {}, json_object(found.text) or {}
        if field not in wanted:
            raise DataError(
                f"grader {name!r}: the expected answer {expected[:60]!r} has no field {field!r}",
                "grade a field of the label, or the whole answer",
            )
        if field not in answered:
            return 0.0
        return grade(_text(wanted[field]), Answered(_text(answered[field]), found.num_tokens))

    return grade_field


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def score_answer(expected: str, answer: str, fields: Sequence[str]) -> tuple[float, float]:
    """exact_match and field_f1 of one row. Where the answer is an object, it is compared as a
    caller would read it: the whole text must be one JSON object, spaces and order do not matter.

    >>> score_answer('{"a":1,"b":null}', '{"b": null, "a": 2}', ["a", "b"])
    (0.0, 0.5)
    """
    if not fields:
        is_same = float(expected.strip() == answer.strip())
        return is_same, is_same
    wanted, found = json_object(expected), json_object(answer) or {}
    if not wanted:
        raise DataError(
            f"the expected answer {expected[:60]!r} is no JSON object with fields",
            "mend the label: NaN, for one, is no JSON",
        )
    num_right = sum(name in found and _same(found[name], value) for name, value in wanted.items())
    is_exact = num_right == len(wanted) == len(found)
    return float(is_exact), 2 * num_right / (len(wanted) + len(found))


def _same(a: Any, b: Any) -> bool:
    return type(a) is type(b) and bool(a == b)  # True is no 1
