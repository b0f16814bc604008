"""Objective and cascade through the whole gateway, with real bundles: what callers see, what is
logged, and what it costs."""

import asyncio
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError
from serving_case import (
    ENDPOINT,
    NOON,
    ROW,
    Case,
    estimate,
    evaluation_of,
    make_bundle,
    signed_manifest,
)

from rayapp.config.serving import ServingConfig
from rayapp.config.tenants import BudgetsConfig
from rayapp.errors import TamperedError, WorkspaceError
from rayapp.schemas.release import Evaluation
from rayapp.schemas.traffic import NANO, Loan
from rayapp.serve.aside import INLINE_BYTES
from rayapp.serve.callers.budgets import Budgets
from rayapp.serve.follow import Loaded, release_key
from rayapp.serve.loading import Evaluated, Store, sealed_evaluation
from rayapp.storage import commit_bytes
from serve_apps.predict import named_releases

SCORE = f"/endpoints/{ENDPOINT}/invocations"
SMALL = "b" * 64
ROWS = [{**ROW, "distance": float(50 * n), "flight": 1 + 311 * n} for n in range(16)]
PRICE, SMALL_PRICE = 2_000_000, 500_000
"""Of a row, in billionths of a dollar."""
OBJECTIVE: dict[str, Any] = {
    "max_p95_ms": 5000,
    "metric": "auc",
    "min_quality": 0.7,
    "candidates": {"small": {"release": SMALL, "usd_per_1000_rows": 0.5}},
    "min_answers": 20,
}
CASCADE: dict[str, Any] = {
    "first": {"release": SMALL, "usd_per_1000_rows": 0.5},
    "max_error": 0.44,
}
GOOD = (estimate("auc", 0.8, 0.9), estimate("calibration_error", 0.0, 0.03))
BAD = (estimate("auc", 0.6, 0.9), estimate("calibration_error", 0.0, 0.3))


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    made = {"r1": folder / "1", SMALL: folder / "2"}
    make_bundle(made["r1"], seed=1)
    make_bundle(made[SMALL], seed=2, without=("temp",))
    return made


def started(
    bundles: dict[str, Path],
    small: Any = GOOD,
    budgets: Budgets | None = None,
    **endpoint: Any,
) -> Case:
    endpoint = {"usd_per_1000_rows": 2} | endpoint
    config = ServingConfig.model_validate({"endpoints": {ENDPOINT: endpoint}})
    estimates = {"r1": GOOD, SMALL: small}
    case = Case(config, releases=bundles, estimates=estimates, budgets=budgets)
    fixed = named_releases(config)
    case.pointers.update(fixed)
    case.promote("r1")
    case.follower.refresh()
    assert case.follower.problems == {}
    return case


async def score(case: Case, rows: Any = (ROW,), unit: str | None = None) -> httpx.Response:
    headers = {} if unit is None else {"x-unit-id": unit}
    async with case.client() as client:
        return await client.post(SCORE, json={"dataframe_records": list(rows)}, headers=headers)


async def problems(case: Case) -> dict[str, str]:
    async with case.client() as client:
        found: dict[str, str] = (await client.get("/")).json()["problems"]
    return found


# objective


async def test_once_it_is_measured_the_cheapest_answers_at_its_own_price(
    bundles: dict[str, Path],
) -> None:
    case = started(bundles, objective=OBJECTIVE | {"explore": 0.5})
    for n in range(120):
        assert (await score(case, unit=f"unit-{n}")).status_code == 200
        case.app._directory._builder.choosing[ENDPOINT]._until_s = 0.0  # type: ignore[attr-defined]
    kept = case.predictions.records
    prices = {"r1": (PRICE, "champion"), SMALL: (SMALL_PRICE, "small")}
    assert {(r["release_id"], r["cost_nano_usd"], r["arm"], r["degraded"]) for r in kept} == {
        (release_id, *price, None) for release_id, price in prices.items()
    }
    assert {(r["arm"], r["propensity"]) for r in kept[:10]} <= {("champion", 0.75), ("small", 0.25)}
    assert {(r["arm"], r["propensity"]) for r in kept[-9:]} == {("champion", 0.25), ("small", 0.75)}
    assert dict.fromkeys(case.meter.choices).keys() == {
        ("champion", "cheapest"),
        ("small", "explored"),
        ("small", "cheapest"),
        ("champion", "explored"),
    }


async def test_who_is_not_good_enough_never_answers_and_the_problem_says_why(
    bundles: dict[str, Path],
) -> None:
    case = started(bundles, small=BAD, objective=OBJECTIVE | {"explore": 1})
    answers = [await score(case, unit=f"unit-{n}") for n in range(30)]
    assert {a.headers["x-release"] for a in answers} == {"r1"}
    assert {r["cost_nano_usd"] for r in case.predictions.records} == {PRICE}
    assert {r["propensity"] for r in case.predictions.records} == {1.0}
    assert await problems(case) == {
        f"{ENDPOINT}/small": f"release {SMALL[:12]}: auc is 0.6000 at the worse end of its "
        "interval, at least 0.7 is required"
    }


async def test_where_nobody_is_good_enough_the_answer_says_so(bundles: dict[str, Path]) -> None:
    case = started(bundles, objective=OBJECTIVE | {"min_quality": 0.99})
    answer = await score(case)
    assert answer.headers["x-degraded"] == "objective:quality"
    assert case.meter.degradations == [(ENDPOINT, "objective:quality")]
    assert case.predictions.records[0]["degraded"] == "objective:quality"


async def test_a_candidate_that_is_named_costs_its_own_price(bundles: dict[str, Path]) -> None:
    case = started(bundles, objective=OBJECTIVE)
    name, endpoint = case.app._directory.endpoint(ENDPOINT, SMALL)
    assert name == ENDPOINT
    assert getattr(endpoint, "_row_nano_usd", None) == SMALL_PRICE
    _, champion = case.app._directory.endpoint(ENDPOINT, "r1")
    assert getattr(champion, "_row_nano_usd", None) == PRICE


# cascade


async def test_a_cascade_logs_and_charges_each_row_by_who_answered_it(
    bundles: dict[str, Path],
) -> None:
    case = started(bundles, cascade=CASCADE)
    merged = await score(case, ROWS)
    assert merged.status_code == 200, merged.text
    assert merged.headers["x-release"] == "r1"
    kept = case.predictions.records
    costs = {"r1": SMALL_PRICE + PRICE, SMALL: SMALL_PRICE}
    arms = {"r1": "champion", SMALL: "first"}
    assert {r["release_id"] for r in kept} == {"r1", SMALL}
    assert [(r["cost_nano_usd"], r["arm"], r["propensity"]) for r in kept] == [
        (costs[r["release_id"]], arms[r["release_id"]], 1.0) for r in kept
    ]
    assert [r["row"] for r in kept] == list(range(16))
    assert {list(r)[-1] for r in kept} == {"inputs"}  # which commits need not parse
    assert dict(case.meter.costs_of) == {
        release: sum(r["cost_nano_usd"] for r in kept if r["release_id"] == release)
        for release in costs
    }
    by_champion = started(bundles)
    expected = (await score(by_champion, ROWS)).json()["predictions"]
    found = merged.json()["predictions"]
    for row, record in enumerate(kept):
        assert found[row] == pytest.approx(record["scores"][1])
        assert (found[row] == expected[row]) >= (record["release_id"] == "r1")


async def test_a_cascade_that_keeps_all_rows_names_the_first_model(
    bundles: dict[str, Path],
) -> None:
    case = started(bundles, cascade=CASCADE | {"max_error": 0.499})
    case.break_model(ENDPOINT)
    answers = [await score(case, [row]) for row in ROWS]
    first = [a for a in answers if "x-degraded" not in a.headers]
    assert first
    assert {a.headers["x-release"] for a in first} == {SMALL}


async def test_where_the_champion_fails_the_first_models_answer_is_given(
    bundles: dict[str, Path],
) -> None:
    case = started(bundles, cascade=CASCADE)
    case.break_model(ENDPOINT)
    answer = await score(case, ROWS)
    assert (answer.status_code, answer.headers["x-degraded"]) == (200, "cascade")
    assert {r["degraded"] for r in case.predictions.records} == {"cascade", None}
    assert {r["cost_nano_usd"] for r in case.predictions.records} == {SMALL_PRICE}


async def test_rules_come_before_and_cost_the_endpoints_price(bundles: dict[str, Path]) -> None:
    rule = {"name": "beta", "when": {"headers": {"x-plan": "beta"}}, "release": SMALL}
    case = started(bundles, cascade=CASCADE, rules=[rule])
    row = {name: value for name, value in ROW.items() if name != "temp"}
    body = {"dataframe_records": [row]}
    async with case.client() as client:
        taken = await client.post(SCORE, json=body, headers={"x-plan": "beta"})
        left = await client.post(SCORE, json={"dataframe_records": ROWS})
    assert (taken.status_code, left.status_code) == (200, 200)
    first, *others = case.predictions.records
    assert (first["arm"], first["cost_nano_usd"]) == ("beta", PRICE)
    assert {r["arm"] for r in others} == {"first", "champion"}
    assert {r["propensity"] for r in others} == {1.0}


async def test_a_first_model_that_is_not_calibrated_is_not_asked(bundles: dict[str, Path]) -> None:
    case = started(bundles, small=BAD, cascade=CASCADE)
    case.break_model(release_key(ENDPOINT, SMALL))
    answer = await score(case, ROWS)
    assert (answer.headers["x-release"], answer.headers.get("x-degraded")) == ("r1", None)
    assert {r["cost_nano_usd"] for r in case.predictions.records} == {PRICE}
    found = await problems(case)
    assert "is not known to be calibrated" in found[f"{ENDPOINT}/first"]


async def test_nobody_is_blamed_where_it_is_chosen(bundles: dict[str, Path]) -> None:
    case = started(bundles, cascade=CASCADE)
    refused = await score(case, [{**ROW, "carrier": "ZZ"}])
    assert refused.status_code == 422
    assert "x-release" not in refused.headers


class Stuck:
    async def predict(self, x_NF: Any, deadline_s: float = 0) -> Any:
        await asyncio.Event().wait()


@pytest.mark.parametrize("limits", [{}, {"timeout_ms": 20}])
async def test_a_first_model_that_stands_still_takes_no_answer_with_it(
    bundles: dict[str, Path], limits: dict[str, Any]
) -> None:
    case = started(bundles, cascade=CASCADE, breaker={"min_requests": 1}, **limits)
    key = release_key(ENDPOINT, SMALL)
    loaded: Any = case.follower.current
    loaded[key] = replace(loaded[key], scorer=Stuck())
    body, headers = {"dataframe_records": [ROW]}, {"x-deadline-ms": "2000"}
    async with case.client() as client:
        answers = [await client.post(SCORE, json=body, headers=headers) for _ in range(2)]
    assert {(a.status_code, a.headers["x-release"]) for a in answers} == {(200, "r1")}
    assert case.meter.breakers == [(key, "open")]  # the second time it was not tried


def test_an_evaluation_that_is_not_what_was_sealed_takes_no_release_down() -> None:
    def tampered(manifest: Any) -> Any:
        raise TamperedError("other bytes", "restore it")

    nothing: Any = None
    loaded = Loaded(ENDPOINT, "r1", nothing, nothing, nothing, None)
    opener = Evaluated(Store(nothing, nothing, tampered), lambda *asked: loaded)
    assert opener(ENDPOINT, "r1", None) is loaded


async def test_of_a_cascade_only_the_first_model_is_evaluated() -> None:
    other = {"first": {"endpoint": "small", "usd_per_1000_rows": 0.5}, "max_error": 0.4}
    endpoints = {ENDPOINT: {"usd_per_1000_rows": 2, "cascade": other}, "small": {}}
    assert ServingConfig.model_validate({"endpoints": endpoints}).evaluated() == {"small"}


async def test_a_long_request_at_a_price_is_answered(bundles: dict[str, Path]) -> None:
    """It is recorded in a thread, where nothing may be counted."""
    case = started(bundles)
    rows = ROWS * 20
    assert len(json.dumps(rows)) > INLINE_BYTES
    assert (await score(case, rows)).status_code == 200
    assert case.meter.costs == [(None, len(rows) * PRICE)]


class OneLoan:
    """A bank that lends once, and hears what was spent."""

    def __init__(self, amount: int) -> None:
        self.amount = amount
        self.spent: list[int] = []

    def lend(self, *asked: Any) -> Loan:
        return Loan("loan", self.amount)

    def close(self, loan_id: str, spent: int) -> bool:
        self.spent.append(spent)
        return True


async def test_what_an_answer_costs_less_than_it_might_goes_back(bundles: dict[str, Path]) -> None:
    bank = OneLoan(NANO)
    budgets = Budgets(BudgetsConfig(default_usd=1), bank, deadline_s=1, now=lambda: NOON)
    case = started(bundles, budgets=budgets, cascade=CASCADE)
    await score(case, ROWS)
    purse = budgets._wallets[""].purse
    assert purse is not None
    logged = sum(r["cost_nano_usd"] for r in case.predictions.records)
    assert purse.spent == logged < 16 * (PRICE + SMALL_PRICE)
    await budgets.drain()
    assert bank.spent == [logged]


# evaluations


def evaluated(folder: Path, evaluation: Evaluation, digest: str | None = None) -> Any:
    uri = str(folder / "evaluation.json")
    commit_bytes(uri, evaluation.canonical())
    schema = make_bundle(folder / "bundle")
    sealed = digest or evaluation.content_digest()
    update = {"evaluation_uri": uri, "evaluation_digest": sealed}
    return signed_manifest("r", schema, ENDPOINT).manifest.model_copy(update=update)


def test_an_evaluation_is_the_one_that_was_sealed(tmp_path: Path) -> None:
    manifest = evaluated(tmp_path, evaluation_of(GOOD))
    assert sealed_evaluation(manifest).overall.estimates == GOOD
    other = manifest.model_copy(update={"evaluation_digest": "0" * 64})
    with pytest.raises(TamperedError, match="sealed was 000000000000"):
        sealed_evaluation(other)
    gone = manifest.model_copy(update={"evaluation_uri": str(tmp_path / "gone.json")})
    with pytest.raises(WorkspaceError):
        sealed_evaluation(gone)


# configs

SETTINGS: list[tuple[dict[str, Any], str]] = [
    ({"objective": OBJECTIVE | {"candidates": {}}}, "at least 1"),
    ({"objective": OBJECTIVE | {"explore": 0}}, "greater than 0"),
    ({"objective": OBJECTIVE | {"metric": "acu"}}, "'acu' is none that can be better"),
    ({"objective": OBJECTIVE | {"metric": "label_rate"}}, "none that can be better"),
    ({"objective": OBJECTIVE | {"max_p95_ms": 10_000}}, "has no effect with deadline_ms"),
    ({"objective": OBJECTIVE | {"min_answers": 19}}, "greater than or equal to 20"),
    (
        {"objective": OBJECTIVE | {"candidates": {"a": {"release": SMALL}}}},
        "usd_per_1000_rows\n  Field required",
    ),
    (
        {"objective": OBJECTIVE | {"candidates": {"champion": CASCADE["first"]}}},
        "can be named champion",
    ),
    (
        {"objective": OBJECTIVE | {"candidates": dict.fromkeys("ab", CASCADE["first"])}},
        "two of `candidates` are the same",
    ),
    (
        {
            "objective": OBJECTIVE
            | {"candidates": {"a": {"endpoint": ENDPOINT, "usd_per_1000_rows": 1}}}
        },
        "names itself",
    ),
    ({"objective": OBJECTIVE, "cascade": CASCADE}, "`objective` and `cascade` both say who"),
    (
        {
            "objective": OBJECTIVE,
            "split": {"salt": "s", "arms": {"a": {"release": SMALL, "share": 0.5}}},
        },
        "`split` and `objective` both say who",
    ),
    ({"objective": OBJECTIVE, "usd_per_1000_rows": None}, "without the champion's"),
    (
        {
            "objective": OBJECTIVE,
            "rules": [{"name": "small", "when": {"tenants": ["a"]}, "release": SMALL}],
        },
        "'small' is the name of another arm",
    ),
    ({"cascade": CASCADE, "usd_per_1000_rows": None}, "without the champion's"),
    ({"cascade": CASCADE, "usd_per_1000_rows": 0.5}, "must cost less than the champion"),
    ({"cascade": CASCADE | {"max_error": 0}}, "greater than 0"),
    ({"cascade": CASCADE | {"max_eror": 0.1}}, "Extra inputs"),
]


@pytest.mark.parametrize(("endpoint", "says"), SETTINGS)
def test_a_setting_without_effect_is_an_error(endpoint: dict[str, Any], says: str) -> None:
    endpoint = {"usd_per_1000_rows": 2} | endpoint
    with pytest.raises(ValidationError, match=re.escape(says)):
        ServingConfig.model_validate({"endpoints": {ENDPOINT: endpoint}})


def test_a_cascade_gives_a_time_limit_its_effect() -> None:
    endpoint = {"usd_per_1000_rows": 2, "cascade": CASCADE, "timeout_ms": 100}
    config = ServingConfig.model_validate({"endpoints": {ENDPOINT: endpoint, "other": {}}})
    assert config.evaluated() == {ENDPOINT}
