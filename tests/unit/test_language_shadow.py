"""A shadow of a language model: it hears what the name is asked, and only the prompt log gets what
it answers."""

import re
from typing import Any

import orjson
import pytest
from language_case import LanguageCase, weights, with_settings
from memory_bank import MemoryBank
from pydantic import ValidationError
from test_language_adapters import ENGINES, Site
from test_language_tokens import of_tokens

from rayapp.errors import ConfigError
from rayapp.schemas.language import Task
from rayapp.serve.endpoints.split import position
from rayapp.serve.language.fitting import require_fitting

PRICES = {"usd_per_million_input_tokens": 1, "usd_per_million_output_tokens": 2}


def shadowed(shadow: dict[str, Any] | None = None, **given: Any) -> LanguageCase:
    big = {"shadow": {"model": "small", **(shadow or {})}, **PRICES}
    return LanguageCase(with_settings({"big": big, "small": PRICES}), **given)


@pytest.mark.parametrize("is_stream", [True, False])
async def test_it_is_recorded_apart_and_paid_by_nobody(is_stream: bool) -> None:
    bank = MemoryBank()
    case = shadowed(token_budgets=(budgets := of_tokens(12, bank)))  # of one answer, no more
    answer = await case.chat(stream=is_stream, max_tokens=6)
    await case.app._drained()
    assert (answer.status_code, answer.headers["x-release"]) == (200, "digest-of-engine")
    live, heard = sorted(case.sink.records, key=lambda record: str(record["endpoint"]))
    assert (heard["endpoint"], heard["release_id"]) == ("big.shadow", "digest-of-other")
    assert (live["endpoint"], live["request_id"]) == ("big", heard["request_id"])
    told = ("output", "num_prompt_tokens", "num_output_tokens", "finish_reason", "tenant")
    assert [heard[name] for name in told] == [live[name] for name in told]
    asked = [orjson.loads(record["prompt"]) for record in (heard, live)]
    assert asked == [{k: v for k, v in asked[1].items() if k != "stream"}, asked[1]]
    assert (live["cost_nano_usd"], heard["cost_nano_usd"]) == (6 * 1000 + 6 * 2000, 0)
    assert [asked.get("stream") for _, asked in case.engines["other"].asked] == [None]
    counted = {(name, release): counts for name, release, _, counts in case.meter.token_counts}
    assert counted["big.shadow", "digest-of-other"] == counted["big", "digest-of-engine"]
    await budgets.drain()
    assert bank.spent == 12
    assert case.is_idle()


async def test_the_same_units_are_always_heard() -> None:
    case, units = shadowed({"share": 0.5}), [f"unit-{number}" for number in range(20)]
    for unit in units:
        await case.chat(headers={"x-unit-id": unit})
        await case.app._models.drain()
    heard = [record for record in case.sink.records if record["endpoint"] == "big.shadow"]
    wanted = [unit for unit in units if position("shadow/big", unit) < 0.5]
    assert len(heard) == len(wanted)
    assert 0 < len(heard) < len(units)


@pytest.mark.parametrize("trouble", [{"is_away": True}, {"status": 500}, {"ends_at": 0}])
async def test_its_failure_concerns_nobody(trouble: dict[str, Any]) -> None:
    case = shadowed()
    for name, value in trouble.items():
        setattr(case.engines["other"].trouble, name, value)
    assert (await case.chat()).status_code == 200
    await case.app._drained()
    assert [record["endpoint"] for record in case.sink.records] == ["big"]
    assert case.is_idle()


async def test_one_that_hangs_is_not_waited_for_and_hears_no_more_than_it_may() -> None:
    case = shadowed({"max_ongoing": 2})
    case.engines["other"].trouble.hangs_before = True
    for _ in range(4):
        assert (await case.chat()).status_code == 200
    assert case.engines["other"].num_ongoing == 2
    case.engines["other"].trouble.goes_on.set()
    await case.app._drained()
    assert len(case.sink.records) == 4 + 2


async def test_an_adapter_that_is_not_released_yet_is_a_problem_and_heard_once_it_is() -> None:
    tuned = {"engine": "engine", "endpoint": "tuned"}
    engines = {name: one for name, one in ENGINES.items() if name != "other"}
    models = {"big": {"shadow": {"model": "small"}}, "small": tuned}
    site = Site(with_settings(models, engines=engines))
    assert (await site.ask("big")).status_code == 200
    await site.case.app._drained()
    assert "no adapter of endpoint 'tuned'" in (await site.state())["problems"]["big/shadow"]
    site.promote("r1")
    await site.ask("big")
    await site.case.app._drained()
    assert [record["release_id"] for record in site.case.sink.records][-1] == "r1"
    assert (await site.state())["problems"] == {}


@pytest.mark.parametrize(
    ("shadow", "says"),
    [
        ({"model": "none"}, "shadow.model`: 'none' is none of"),
        ({"model": "big"}, "shadow.model`: 'big' is none of"),
        ({"model": "small", "share": 0}, "greater than 0"),
        ({"model": "small", "max_ongoing": 0}, "greater than or equal to 1"),
    ],
)
def test_settings(shadow: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(says)):
        with_settings({"big": {"shadow": shadow}})


def test_one_that_does_something_else_cannot_hear() -> None:
    tasks: dict[str, Task] = {"engine": "generate", "other": "generate", "vectors": "embed"}
    known = {name: weights(name, task) for name, task in tasks.items()}
    with pytest.raises(ConfigError, match="vectors cannot answer for big"):
        require_fitting(with_settings({"big": {"shadow": {"model": "vectors"}}}), known)
