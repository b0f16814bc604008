"""Rules and flags as they are written: what has an effect loads, and nothing else does."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from rayapp.config.load import load
from rayapp.config.routing import IDENTITY_HEADERS, ConditionConfig, FlagsConfig
from rayapp.config.serving import EndpointConfig, ServingConfig
from rayapp.errors import ConfigError

BOTH = {"on": True, "off": False}


def rule(name: str = "staff", endpoint: str = "other", **when: Any) -> dict[str, Any]:
    return {"name": name, "endpoint": endpoint, "when": when}


def rules(*given: dict[str, Any], **more: Any) -> EndpointConfig:
    return EndpointConfig.model_validate({"rules": given, **more})


def flag(*targeting: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"variants": BOTH, "default": "off", "targeting": targeting} | more


def test_a_header_may_have_one_value_or_one_of_several() -> None:
    made = rules(rule(headers={"X-Channel": "staff", "x-b": ["1", "2"]}, tenants=["acme"]))
    assert made.rules[0].when.headers == {"x-channel": ("staff",), "x-b": ("1", "2")}


@pytest.mark.parametrize(
    ("when", "says"),
    [
        ({}, "empty condition"),
        ({"tenants": None}, "empty condition"),
        ({"tenants": []}, "at least 1 item"),
        ({"tenants": ["acme", "acme"]}, "'acme' is listed twice"),
        ({"tenants": ["Not A Name"]}, "no tenant can have this name"),
        ({"headers": {}}, "at least 1 item"),
        ({"headers": {"x-a": []}}, "at least 1 item"),
        ({"headers": {"x-a": ["1", "1"]}}, "'1' is listed twice"),
        ({"headers": {"x-a": "1", "X-A": "2"}}, "'x-a' is listed twice"),
        ({"headers": {"x a": "1"}}, "no name that a header can have"),
        ({"headers": {"x-a": " 1"}}, "no value that a header can have"),
        ({"headers": {"x-a": True}}, "valid tuple"),
        ({"headers": {"x-a": "1"}, "flag": "f"}, "`flag` and `is` go together"),
        ({"is": "on"}, "`flag` and `is` go together"),
        ({"user": "x"}, "Extra inputs"),
    ],
)
def test_a_condition_that_means_nothing_is_refused(when: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        rules(rule(**when))


@pytest.mark.parametrize("name", sorted(IDENTITY_HEADERS))
def test_no_condition_is_on_who_asks(name: str) -> None:
    for written in (name, name.title()):
        with pytest.raises(ValidationError, match="says who asks"):
            rules(rule(headers={written: "x"}))
        with pytest.raises(ValidationError, match="says who asks"):
            ConditionConfig(headers={written: ("x",)})


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"tenants": ["a", "b"]}, {"tenants": ["b"]}),
        ({"tenants": ["a"]}, {"tenants": ["a"], "headers": {"x-a": "1"}}),
        ({"headers": {"x-a": ["1", "2"]}}, {"headers": {"X-A": "2", "x-b": "3"}}),
        ({"flag": "f", "is": "on"}, {"flag": "f", "is": "on"}),
        ({"headers": {"x-a": "1"}}, {"headers": {"x-a": "1"}, "flag": "f", "is": "on"}),
    ],
)
def test_a_rule_that_comes_too_late_is_refused(
    first: dict[str, Any], second: dict[str, Any]
) -> None:
    with pytest.raises(ValidationError, match="late has no effect: early, which comes first"):
        rules(rule("early", **first), rule("late", **second))
    if first != second:
        assert len(rules(rule("late", **second), rule("early", **first)).rules) == 2


@pytest.mark.parametrize(
    "second",
    [
        {"tenants": ["a", "b"]},
        {"headers": {"x-a": "1"}},
        {"tenants": ["b"], "headers": {"x-a": "1"}},
        {"flag": "f", "is": "off"},
    ],
)
def test_a_rule_that_takes_more_may_come_later(second: dict[str, Any]) -> None:
    first: dict[str, Any] = {"tenants": ["a"], "headers": {"x-a": "1"}, "flag": "f", "is": "on"}
    assert len(rules(rule("early", **first), rule("late", **second)).rules) == 2


@pytest.mark.parametrize(
    ("endpoint", "says"),
    [
        ({"rules": [rule("champion", tenants=["a"])]}, "'champion' is the name of another arm"),
        (
            {"rules": [rule("x", tenants=["a"]), rule("x", tenants=["b"])]},
            "'x' is the name of another arm",
        ),
        (
            {
                "rules": [rule("x", tenants=["a"])],
                "split": {"salt": "s", "arms": {"x": {"endpoint": "b", "share": 0.1}}},
            },
            "'x' is the name of another arm",
        ),
        ({"rules": [rule(endpoint="e", tenants=["a"])]}, "names itself beside its own champion"),
        ({"rules": [rule(tenants=["a"]) | {"release": "0" * 64}]}, "name either an `endpoint`"),
        ({"rules": [rule(tenants=["a"]) | {"share": 0.5}]}, "Extra inputs"),
    ],
)
def test_a_rule_has_a_name_and_a_target_of_its_own(endpoint: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        ServingConfig.model_validate({"endpoints": {"e": endpoint}})


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (flag(default="maybe"), "'maybe' is none of the `variants` ['off', 'on']"),
        (flag({"when": {"tenants": ["a"]}, "variant": "no"}), "'no' is none of the `variants`"),
        (flag({"shares": {"no": 0.5}}), "'no' is none of the `variants`"),
        (flag(variants={"off": False, "on": 1}), "must be of one kind"),
        (flag(variants={"off": "x", "on": 1.5}), "must be of one kind"),
        (flag(variants={"off": [1]}), "a variant's value is text, a number"),
        (flag(variants={"off": float("nan")}), "equals itself"),
        (flag(variants={"off": float("inf")}), "a variant's value is text, a number"),
        (flag({"variant": "on"}), "is what `default` says"),
        (flag({"when": {"tenants": ["a"]}}), "either a `variant` or `shares`"),
        (flag({"shares": {"on": 0.5}, "variant": "on"}), "either a `variant` or `shares`"),
        (flag({"shares": {}}), "at least 1 item"),
        (flag({"shares": {"on": 0}}), "greater than 0"),
        (flag({"shares": {"on": 0.5, "off": 0.5}}), "the default variant gets the rest"),
        (
            flag({"shares": {"on": 0.6, "x": 0.5}}, variants={"off": 1, "on": 2, "x": 3}),
            "1.1 together",
        ),
        (flag({"shares": {"on": 0.5}}, {"shares": {"on": 0.6}}), "entry 2 has no effect"),
        (
            flag(
                {"when": {"tenants": ["a"]}, "variant": "on"},
                {"when": {"tenants": ["a"], "headers": {"x-a": "1"}}, "variant": "on"},
            ),
            "entry 2 has no effect",
        ),
        (flag({"when": {"headers": {"cookie": "1"}}, "variant": "on"}), "says who asks"),
        (flag({"when": {"flag": "g", "is": "on"}, "variant": "on"}), "unknown key"),
        (flag(salt="s"), "`salt` has no effect without `shares`"),
    ],
)
def test_a_flag_with_something_without_effect_is_refused(
    given: dict[str, Any], says: str, tmp_path: Path
) -> None:
    path = tmp_path / "flags.yaml"
    path.write_text(yaml.safe_dump({"name": "set", "flags": {"f": given}}))
    with pytest.raises(ConfigError, match=re.escape(says)) as caught:
        load(FlagsConfig, path)
    assert "line " in caught.value.what


def test_the_line_of_a_mistake_is_told(tmp_path: Path) -> None:
    path = tmp_path / "flags.yaml"
    path.write_text(
        "name: set\n"
        "flags:\n"
        "  f:\n"
        "    variants: {on: true, off: false}\n"
        "    default: off\n"
        "    targetting: []\n"
    )
    with pytest.raises(ConfigError) as caught:
        load(FlagsConfig, path)
    assert "line 6: flags.f.targetting: unknown key; did you mean 'targeting'?" in str(caught.value)
