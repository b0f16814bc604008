"""Who answers under a language model's name: another one by a rule or a share, at the prices of the
name, and the prompt log says who and how likely that was."""

import re
from typing import Any

import orjson
import pytest
from language_case import CONFIG, LanguageCase, known_key, weights, with_settings
from memory_bank import MemoryBank
from pydantic import ValidationError
from test_language_adapters import ENGINES, Site, language
from test_language_tokens import of_tokens

from rayapp.config.routing import FlagConfig
from rayapp.errors import ConfigError
from rayapp.schemas.language import Task
from rayapp.serve.endpoints.split import position
from rayapp.serve.flags import Flags
from rayapp.serve.language.ask import TextAsk
from rayapp.serve.language.fitting import require_fitting
from rayapp.serve.language.log import kept_unit
from rayapp.serve.wire.openai import Asked

SALT = "autumn"
HALF: dict[str, Any] = {"salt": SALT, "arms": {"next": {"model": "small", "share": 0.5}}}
STAFF: dict[str, Any] = {
    "name": "staff",
    "when": {"headers": {"x-channel": "staff"}},
    "model": "small",
}
PRICES = {"usd_per_million_input_tokens": 1, "usd_per_million_output_tokens": 2}


def is_next(unit: str, share: float = 0.5) -> bool:
    return position(f"{SALT}/next", unit) < share


def split_case(**big: Any) -> LanguageCase:
    return LanguageCase(with_settings({"big": {"split": HALF, **big}}))


UNITS = [f"unit-{number}" for number in range(40)]


@pytest.mark.parametrize("is_stream", [True, False])
async def test_units_are_divided_and_each_stays_with_its_arm(is_stream: bool) -> None:
    case = split_case(**PRICES)
    for unit in (*UNITS[:10], *UNITS[:10]):
        answer = await case.chat(headers={"x-unit-id": unit}, stream=is_stream)
        arm, digest = ("next", "other") if is_next(unit) else ("champion", "engine")
        assert answer.headers["x-release"] == f"digest-of-{digest}"
        record = case.sink.records[-1]
        assert (record["arm"], record["unit"], record["propensity"]) == (arm, unit, 0.5)
        assert (record["endpoint"], record["release_id"]) == ("big", f"digest-of-{digest}")
    costs = {record["cost_nano_usd"] for record in case.sink.records}
    assert costs == {6 * 1000 + 6 * 2000}  # whoever answers does so at the name's prices
    assert {len(case.engines[name].asked) > 0 for name in ("engine", "other")} == {True}
    assert case.is_idle()


@pytest.mark.parametrize(
    ("fields", "headers", "unit"),
    [
        ({"user": "ada"}, {"x-unit-id": "told"}, "told"),
        ({"user": "ada"}, {}, "ada"),
        ({}, {"x-request-id": "req-7"}, "req-7"),
        ({"user": ""}, {"x-request-id": "req-7"}, "req-7"),
    ],
)
async def test_what_a_unit_is(fields: Any, headers: Any, unit: str) -> None:
    case = split_case()
    await case.chat(headers=headers, **fields)
    assert case.sink.records[-1]["unit"] == unit


def test_a_tenant_is_a_unit_where_nothing_else_says_what_is() -> None:
    asked = TextAsk("q", "/v1/chat/completions", Asked("chat", "big", {}), 0, tenant="acme")
    assert asked.unit == "acme"


@pytest.mark.parametrize(
    ("unit", "level", "kept"),
    [
        ("user-17", "contacts", "user-17"),
        ("ada@example.com", "nothing", "ada@example.com"),
        ("ada@example.com", "contacts", "sha256:"),
        ("user-17", "text", "sha256:"),
    ],
)
def test_a_unit_is_not_told_where_texts_are_not(unit: str, level: Any, kept: str) -> None:
    found = kept_unit(unit, level)
    assert found.startswith(kept)
    assert (found == unit) == (kept != "sha256:")


async def test_a_rule_comes_before_the_split_and_takes_nothing_from_it() -> None:
    case = split_case(rules=[STAFF])
    ours = next(unit for unit in UNITS if not is_next(unit))
    told = {"x-unit-id": ours, "x-channel": "staff"}
    assert (await case.chat(headers=told)).headers["x-release"] == "digest-of-other"
    record = case.sink.records[-1]
    assert (record["arm"], record["propensity"], record["unit"]) == ("staff", 1.0, ours)
    await case.chat(headers={"x-unit-id": ours})
    assert (case.sink.records[-1]["arm"], case.sink.records[-1]["propensity"]) == ("champion", 0.5)


async def test_a_rule_by_tenant_goes_by_the_key_and_takes_nobody_without_one() -> None:
    rule = {"name": "acme", "when": {"tenants": ["acme"]}, "model": "small"}
    case = LanguageCase(with_settings({"big": {"rules": [rule], "split": HALF}}))
    await case.chat(headers=known_key(case))
    made = {name: case.sink.records[-1][name] for name in ("arm", "propensity", "unit")}
    assert made == {"arm": "acme", "propensity": 1.0, "unit": "acme"}
    assert case.sink.records[-1]["release_id"] == "digest-of-other"
    await case.chat()
    assert case.sink.records[-1]["arm"] != "acme"


async def test_a_rule_on_a_flag_takes_effect_when_that_is_published() -> None:
    published: dict[str, FlagConfig] = {}
    flags = Flags(lambda: dict(published))
    rule = {"name": "trial", "when": {"flag": "model", "is": "new"}, "model": "small"}
    case = LanguageCase(with_settings({"big": {"rules": [rule], "split": HALF}}), flags=flags)

    async def answered_by(unit: str) -> tuple[str, float]:
        await case.chat(headers={"x-unit-id": unit})
        record = case.sink.records[-1]
        return record["arm"], record["propensity"]

    async def problems() -> Any:
        async with case.client() as client:
            return (await client.get("/v1/ping")).json()["problems"]

    flags.refresh()
    assert (await answered_by("u"))[0] != "trial"
    assert await problems() == {"big/trial": "flag 'model' is not published"}
    shares = [{"shares": {"new": 0.25}}]
    variants = {"old": "small", "new": "large"}
    given = {"variants": variants, "default": "old", "targeting": shares}
    published["model"] = FlagConfig.model_validate(given)
    flags.refresh()
    found = {unit: await answered_by(unit) for unit in UNITS}
    assert await problems() == {}
    assert set(found.values()) == {("trial", 0.25), ("next", 0.375), ("champion", 0.375)}
    rest = {unit for unit, (arm, _) in found.items() if arm != "trial"}
    assert {u for u in rest if found[u][0] == "next"} == {u for u in rest if is_next(u)}


WHOLE: dict[str, Any] = {"salt": SALT, "arms": {"next": {"model": "small", "share": 1}}}


async def test_an_arm_that_fails_has_the_names_fallback() -> None:
    third = {"engine": "engine"}
    big = {"split": WHOLE, "fallback": [{"model": "third"}], "timeout_ms": 60_000}
    case = LanguageCase(with_settings({"big": big, "third": third}))
    case.engines["other"].trouble.is_away = True
    answer = await case.chat()
    assert (answer.status_code, answer.headers["x-degraded"]) == (200, "unavailable")
    assert answer.headers["x-release"] == "digest-of-engine"
    assert case.sink.records[-1]["arm"] == "next"
    assert case.is_idle()


async def test_an_arm_is_reserved_and_refused_like_the_name_itself() -> None:
    bank = MemoryBank()
    budgets = of_tokens(11, bank)
    case = LanguageCase(with_settings({"big": {"split": WHOLE}}), token_budgets=budgets)
    assert (await case.chat(max_tokens=6)).status_code == 429
    assert (case.engines["other"].asked, case.sink.records) == ([], [])
    assert (await case.chat(max_tokens=5)).status_code == 200
    await budgets.drain()
    assert bank.spent == 11


async def test_a_released_adapter_is_an_arm_told_its_own_system_prompt() -> None:
    arms = {"tuned": {"model": "small", "share": 1}}
    tuned = {"engine": "engine", "endpoint": "tuned"}
    engines = {name: one for name, one in ENGINES.items() if name != "other"}
    models = {"big": {"split": {"salt": SALT, "arms": arms}}, "small": tuned}
    site = Site(with_settings(models, engines=engines))
    nobody = await site.ask("big")
    assert nobody.status_code == 503
    what = "no adapter of endpoint 'tuned' is champion"
    assert what in nobody.json()["error"]["message"]
    assert what in (await site.state())["problems"]["big/tuned"]
    site.promote("r1", told=language(system="Answer in JSON."))
    answer = await site.ask("big", text="one two")
    assert (answer.headers["x-release"], answer.json()["usage"]["prompt_tokens"]) == ("r1", 5)
    asked = site.case.engine.asked[-1][1]
    assert (asked["model"], asked["messages"][0]["role"]) == ("r1", "system")
    logged = orjson.loads(site.case.sink.records[-1]["prompt"])
    assert logged["messages"] == asked["messages"]
    assert (await site.state())["problems"] == {}


async def test_of_a_refused_request_nobody_can_say_who_would_have_answered() -> None:
    case = split_case()
    assert "x-release" not in (await case.chat(temperature=1.5)).headers
    assert (await case.chat(model="small", temperature=1.5)).headers["x-release"]


# what is refused before anything is deployed


@pytest.mark.parametrize(
    ("big", "says"),
    [
        (
            {"split": {"salt": "s", "arms": {"a": {"model": "none", "share": 0.1}}}},
            "split.arms.a.model`: 'none' is",
        ),
        (
            {"split": {"salt": "s", "arms": {"a": {"model": "big", "share": 0.1}}}},
            "split.arms.a.model`: 'big' is none",
        ),
        (
            {"split": {"salt": "s", "arms": {"champion": {"model": "small", "share": 0.1}}}},
            "cannot be named champion",
        ),
        (
            {"split": {"salt": "s", "arms": {n: {"model": "small", "share": 0.6} for n in "ab"}}},
            "are 1.2 together",
        ),
        ({"split": {"salt": "s", "arms": {}}}, "at least 1 item"),
        ({"split": {"salt": "", "arms": HALF["arms"]}}, "at least 1 character"),
        ({"rules": [STAFF | {"when": {}}]}, "an empty condition is met by every request"),
        ({"rules": [STAFF | {"when": {"flag": "f"}}]}, "`flag` and `is` go together"),
        ({"rules": [STAFF, STAFF | {"name": "again"}]}, "again has no effect: staff"),
        ({"rules": [STAFF | {"name": "next"}], "split": HALF}, "the name of another arm already"),
        ({"rules": [STAFF | {"model": "big"}]}, "rules.0.model`: 'big' is none of the others"),
        (
            {"split": {"salt": "s", "arms": {"a": {"model": "nope", "share": 0.1}}}},
            "`models.big.split.arms.a.model`: 'nope' is none of the others, ['small', 'vectors']",
        ),
    ],
)
def test_settings(big: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(says)):
        with_settings({"big": big})


TASKS: dict[str, Task] = {"engine": "generate", "other": "generate", "vectors": "embed"}
KNOWN = {name: weights(name, task) for name, task in TASKS.items()}


def test_one_that_does_something_else_cannot_answer_instead() -> None:
    for given in ({"fallback": [{"model": "vectors"}]}, {"rules": [STAFF | {"model": "vectors"}]}):
        with pytest.raises(ConfigError, match="vectors cannot answer for big"):
            require_fitting(with_settings({"big": given}), KNOWN)


def test_one_that_takes_less_is_no_arm_of_a_split_but_may_have_a_rule() -> None:
    engines = CONFIG["engines"] | {"other": {"weights": "small", "max_context_tokens": 32}}
    split = with_settings({"big": {"split": HALF}}, engines=engines)
    with pytest.raises(ConfigError, match="small takes 32 tokens, big 64"):
        require_fitting(split, KNOWN)
    require_fitting(with_settings({"big": {"rules": [STAFF]}}, engines=engines), KNOWN)
    require_fitting(with_settings({"big": {"split": HALF}}), KNOWN)
