"""Graders: what each calls right, what it must not, and metrics that gates know by name."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from rayapp.config.grading import Grader
from rayapp.config.release import EvaluationConfig, PolicyConfig
from rayapp.errors import ConfigError, DataError
from rayapp.evaluate.declared import declared_metrics
from rayapp.evaluate.gates import check_policy
from rayapp.evaluate.graders import Answered, grade_of, normalised, number_in

GRADER: TypeAdapter[Grader] = TypeAdapter(Grader)
SCHEMA = {"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}}
SORRY = {"kind": "refusal", "phrases": ["I cannot", "I can't help"]}


def graded(settings: dict[str, Any], expected: str, answer: str, num_tokens: int = 3) -> float:
    grade = grade_of("g", GRADER.validate_python(settings))
    return grade(expected, Answered(answer, num_tokens))


@pytest.mark.parametrize(
    ("settings", "expected", "right", "wrong"),
    [
        ({"kind": "exact"}, "Paris", " Paris\n", "paris"),
        ({"kind": "normalised"}, "The answer", "the  ANSWER!", "an answer"),
        ({"kind": "normalised"}, "I’m", "I'm", "I am"),
        ({"kind": "normalised"}, "ﬁne ½", "FINE 1⁄2", "fin"),
        ({"kind": "regex", "pattern": r"\A\d+\Z"}, "", "42", "42 or so"),
        ({"kind": "regex", "pattern": r"(?i)\byes\b"}, "", "Well, YES.", "yesterday"),
        ({"kind": "json_schema", "json_schema": SCHEMA}, "", '{"a": 1}', '{"a": "1"}'),
        ({"kind": "json_schema", "json_schema": SCHEMA}, "", '{"a": 1, "b": 2}', '{"a": 1} yes'),
        ({"kind": "json_schema", "json_schema": SCHEMA}, "", '{"a": 1}', '{"a": 1, "b": NaN}'),
        ({"kind": "numeric"}, "1200", "1,200.0", "1,200 apples"),
        ({"kind": "numeric", "absolute": 0.5}, "10", "10.5", "10.6"),
        ({"kind": "numeric", "relative": 0.1}, "−200", "-220", "-221"),
        ({"kind": "numeric", "take": "last"}, "it is 7", "3 + 4 = 7.", "7 is not 3"),
        ({"kind": "numeric"}, "0", "0", "1e999"),
        (SORRY, "", "Sorry, i CANNOT do that", "I can"),
        (SORRY, "", "I can’t help with it.", "I can't wait"),
        ({**SORRY, "wanted": False}, "", "Sure", "I cannot"),
        ({"kind": "length", "min": 2, "max": 4}, "", "four", "a"),
        ({"kind": "length", "max": 4}, "", "four", "fives"),
        ({"kind": "exact", "field": "a"}, '{"a":"x","b":1}', '{"a": "x"}', '{"b":1}'),
        ({"kind": "exact", "field": "a"}, '{"a":null}', '{"a": null}', "null"),
        ({"kind": "numeric", "field": "a"}, '{"a":"3"}', '{"a": 3.0}', '{"a":[3]}'),
    ],
)
def test_right_is_one_and_wrong_is_nothing(
    settings: dict[str, Any], expected: str, right: str, wrong: str
) -> None:
    assert graded(settings, expected, right) == 1.0
    assert graded(settings, expected, wrong) == 0.0


def test_a_length_in_tokens_is_the_models() -> None:
    settings = {"kind": "length", "unit": "tokens", "max": 3}
    assert graded(settings, "", "a very long answer", num_tokens=3) == 1.0
    assert graded(settings, "", "short", num_tokens=4) == 0.0


@given(st.text(), st.text())
def test_what_is_the_same_is_so_in_its_normal_form_too(one: str, other: str) -> None:
    assert normalised(normalised(one)) == normalised(one)
    assert graded({"kind": "normalised"}, one, f" {one.upper()}\t") in (0.0, 1.0)
    if graded({"kind": "exact"}, one, other):
        assert graded({"kind": "normalised"}, one, other)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_is_read_as_it_is_written(number: float) -> None:
    assert number_in(repr(number), "whole") == number
    assert number_in(f"so it is {number!r}", "last") == number


@given(st.text())
def test_any_text_can_be_graded(text: str) -> None:
    for settings in (
        {"kind": "json_schema", "json_schema": SCHEMA},
        {"kind": "numeric", "take": "last"},
        {"kind": "exact", "field": "a"},
        SORRY,
    ):
        assert graded(settings, '{"a": 1}', text) in (0.0, 1.0)


def test_a_schema_that_refers_to_an_address_fetches_nothing() -> None:
    for place in ("http://127.0.0.1:9/schema", "#/$defs/none"):
        settings = {"kind": "json_schema", "json_schema": {"items": {"$ref": place}}}
        with pytest.raises(ConfigError, match="refers to"):
            graded(settings, "", "[1]")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"kind": "regex", "pattern": "("}, "no regular expression"),
        ({"kind": "length"}, "has no effect"),
        ({"kind": "length", "min": 3, "max": 2}, "above"),
        ({"kind": "length", "unit": "tokens", "max": 3, "field": "a"}, "whole answers"),
        ({"kind": "exact", "absolute": 1}, "Extra inputs"),
        ({"kind": "judge"}, "judge"),
    ],
)
def test_settings_without_an_effect_are_errors(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        GRADER.validate_python(settings)


@pytest.mark.parametrize(
    ("graders", "says"),
    [
        ({"exact_match": {"kind": "exact"}}, "a metric already"),
        ({"g": {"kind": "json_schema", "json_schema": {"type": "thing"}}}, "no JSON Schema"),
        ({"g": {"kind": "refusal", "phrases": ["?!"]}}, "punctuation alone"),
    ],
)
def test_graders_that_grade_nothing_are_refused(graders: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        declared_metrics(EvaluationConfig.model_validate({"graders": graders}), "text")


def test_graders_have_no_effect_on_scores() -> None:
    config = EvaluationConfig.model_validate({"graders": {"g": {"kind": "exact"}}})
    with pytest.raises(ConfigError, match="no effect with task binary"):
        declared_metrics(config, "binary")
    assert declared_metrics(EvaluationConfig(), "binary") == {}


def test_an_expected_answer_that_cannot_be_right_is_an_error() -> None:
    with pytest.raises(DataError, match="no number"):
        graded({"kind": "numeric"}, "seven", "7")
    with pytest.raises(DataError, match="no field 'a'"):
        graded({"kind": "exact", "field": "a"}, json.dumps({"b": 1}), "{}")


def test_gates_know_graders_and_which_way_is_better() -> None:
    config = EvaluationConfig.model_validate(
        {"graders": {"is_brief": {"kind": "length", "max": 9}}}
    )
    declared = declared_metrics(config, "text")

    def check(kind: str, metric: str) -> None:
        gate = {"kind": kind, "metric": metric, "limit": 0.5}
        check_policy(PolicyConfig.model_validate({"gates": {"g": gate}}), "text", (), declared)

    check("floor", "is_brief")
    with pytest.raises(ConfigError, match="better when higher"):
        check("ceiling", "is_brief")
    with pytest.raises(ConfigError, match="no metric 'is_short'"):
        check("floor", "is_short")
