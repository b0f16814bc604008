"""What a tenant may spend: reserved before the model is asked, settled once the answer is recorded,
refunded where there is none; over all gateways together never more than the budget."""

import asyncio
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError
from serving_case import ENDPOINT, ROW, Case, make_bundle

from rayapp.config.serving import ServingConfig
from rayapp.config.tenants import BudgetsConfig, TokenBudgetsConfig
from rayapp.errors import RequestError, Unavailable
from rayapp.govern.accounts import Accounts
from rayapp.schemas.period import period_of
from rayapp.schemas.traffic import NANO, Loan, NoLoan
from rayapp.serve.callers import budgets as module
from rayapp.serve.callers.budgets import Budgets

CENT = NANO // 100
SCORE = f"/endpoints/{ENDPOINT}/invocations"
NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


@pytest.fixture
def accounts(tmp_path: Path) -> Accounts:
    return Accounts(f"sqlite:///{tmp_path}/ledger.db", "node")


def make_budgets(accounts: Any, usd: float = 1.0, **extra: Any) -> Budgets:
    config = BudgetsConfig(default_usd=usd, **extra)
    return Budgets(config, accounts, deadline_s=1, now=lambda: NOON)


async def test_a_budget_is_spent_to_the_last_request_and_not_beyond(accounts: Accounts) -> None:
    gateways = [make_budgets(accounts), make_budgets(accounts)]
    num_answers = 0
    refusals: list[RequestError] = []

    async def client(number: int) -> None:
        nonlocal num_answers
        while True:
            try:
                charge = await gateways[number % 2].reserve(None, CENT)
            except RequestError as error:
                refusals.append(error)
                return
            await asyncio.sleep(0)
            charge.settle()
            num_answers += 1

    await asyncio.gather(*(client(number) for number in range(16)))
    for gateway in gateways:
        await gateway.drain()
    for gateway in gateways:  # what one had, the other may have been refused for
        gateway._wallets[""].refusal = None
        await client(gateways.index(gateway))
        await gateway.drain()
    assert num_answers == 100
    (account,) = accounts.all()
    assert (account.spent, account.lent) == (100 * CENT, 0)
    assert {(error.status, error.kind) for error in refusals} == {(429, "budget_exceeded")}
    assert "may spend 1 USD a month" in refusals[0].what


async def test_what_is_refunded_can_be_spent_again(accounts: Accounts) -> None:
    budgets = make_budgets(accounts, usd=0.01)
    charge = await budgets.reserve("acme", CENT)
    charge.refund()
    again = await budgets.reserve("acme", CENT)
    again.settle()
    with pytest.raises(RequestError) as refused:
        await budgets.reserve("acme", CENT)
    await budgets.drain()
    assert accounts.all()[0].spent == CENT
    budgets._wallets["acme"].refusal = None
    with pytest.raises(RequestError) as refused:
        await budgets.reserve("acme", CENT)
    assert refused.value.retry_after_s == 29 * 86_400 + 43_200  # February begins then


THOUSAND_USD = 1_000 / NANO
"""A budget of a thousand billionths."""


async def refused_for(budgets: Budgets, cost: int) -> tuple[int | None, str]:
    """Seconds until another try may be accepted, and what else to do."""
    with pytest.raises(RequestError) as refused:
        await budgets.reserve(None, cost)
    assert refused.value.status == 429
    return refused.value.retry_after_s, refused.value.next_step


async def test_what_is_too_dear_keeps_nothing_cheaper_out(
    accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    lend = accounts.lend

    def noting(tenant: str, period: str, limit: int, wanted: int, least: int, *how: Any) -> Any:
        asked.append(least)
        return lend(tenant, period, limit, wanted, least, *how)

    monkeypatch.setattr(accounts, "lend", noting)
    now_s = [0.0]
    budgets = make_budgets(accounts, usd=THOUSAND_USD)
    budgets.clock_s = lambda: now_s[0]
    await refused_for(budgets, 5_000)
    (await budgets.reserve(None, 10)).settle()
    assert asked == [5_000, 10]
    for cost in (5_000, 6_000):  # what costs as much or more need not be asked for again yet
        await refused_for(budgets, cost)
    assert asked == [5_000, 10]
    await refused_for(budgets, 4_999)
    now_s[0] = module.REFUSE_S
    await refused_for(budgets, 5_000)
    assert asked == [5_000, 10, 4_999, 5_000]
    await budgets.drain()


@pytest.mark.parametrize(
    ("usd", "told"),
    [(0.00003, "0.00003"), (0, "0"), (1_234_567.5, "1234567.5"), (1e-9, "0.000000001")],
)
async def test_a_budget_is_told_in_plain_decimals(
    accounts: Accounts, usd: float, told: str
) -> None:
    with pytest.raises(RequestError, match=f"may spend {re.escape(told)} USD a month"):
        await make_budgets(accounts, usd=usd).reserve(None, 10**16)


async def test_who_is_refused_is_told_how_long_to_wait(accounts: Accounts) -> None:
    """Until replicas return something, where that may be enough; until the next period, where that
    would be; and what else would do, of what is left or where no period would do."""
    ours, others = (make_budgets(accounts, usd=THOUSAND_USD) for _ in range(2))
    (await ours.reserve(None, 300)).settle()
    await ours.drain()
    charge = await others.reserve(None, 600)
    february_s = 29 * 86_400 + 43_200
    retry_s, next_step = await refused_for(ours, 700)
    assert (retry_s, "in a second" in next_step) == (1, True)
    retry_s, next_step = await refused_for(ours, 701)
    assert retry_s == february_s
    assert next_step.startswith("ask for less")
    assert "wait for the next month" in next_step
    retry_s, next_step = await refused_for(ours, 1_001)
    assert (retry_s, "wait" in next_step) == (february_s, False)
    assert next_step.startswith("ask for less")
    (await ours.reserve(None, 100)).settle()
    charge.refund()
    await others.drain()
    ours._wallets[""].refusal = None
    (await ours.reserve(None, 600)).settle()
    await ours.drain()
    assert accounts.all()[0].spent == 1_000


async def what_is_told(budgets: Budgets, amount: int, tenant: str | None = None) -> str:
    with pytest.raises(RequestError) as refused:
        await budgets.reserve(tenant, amount)
    return f"{refused.value.what}; {refused.value.next_step}"


async def test_a_refusal_tells_what_is_left_and_what_was_wanted(accounts: Accounts) -> None:
    ours, others = (make_budgets(accounts, usd=THOUSAND_USD) for _ in range(2))
    (await ours.reserve(None, 300)).settle()
    await ours.drain()
    told = await what_is_told(ours, 701)
    assert "may spend 0.000001 USD a month, of which at most 0.0000007 USD are left" in told
    assert "this request has to reserve 0.000000701 USD" in told
    charge = await others.reserve(None, 600)
    held = await what_is_told(ours, 650)
    assert "0.0000007 USD are left or held by requests that go on" in held
    charge.settle()
    await others.drain()
    (await ours.reserve(None, 100)).settle()
    await ours.drain()
    ours._wallets[""].refusal = None
    spent = await what_is_told(ours, 1)
    assert "of which at most 0 USD are left; this request has to reserve 0.000000001 USD" in spent
    assert "ask for less" not in spent


async def test_who_has_no_budget_at_all_is_told_what_alone_would_help(accounts: Accounts) -> None:
    told = await what_is_told(make_budgets(accounts, tenants_usd={"poor": 0}), 10, "poor")
    assert told == (
        "tenant 'poor' may spend 0 USD a month; this request has to reserve 0.00000001 USD; "
        "have the budget raised"
    )


async def test_of_the_tokens_that_are_left_a_shorter_answer_may_be_had(accounts: Accounts) -> None:
    config = TokenBudgetsConfig(default_tokens=90, period="day")
    budgets = Budgets(config, accounts, deadline_s=1, now=lambda: NOON)
    (await budgets.reserve("acme", 45)).settle()
    await budgets.drain()
    assert await what_is_told(budgets, 60, "acme") == (
        "tenant 'acme' may use 90 tokens a day, of which at most 45 tokens are left; this request "
        "has to reserve 60 tokens; lower `max_tokens` or shorten the prompt, or wait for the next "
        "day (UTC), or have the budget raised"
    )
    (await budgets.reserve("acme", 45)).settle()
    await budgets.drain()


async def test_a_loan_is_returned_soon_though_nobody_asks(
    accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOAN_S", 0.2)
    closed = threading.Event()
    close = accounts.close

    def closing(loan_id: str, spent: int) -> bool:
        is_ours = close(loan_id, spent)
        closed.set()
        return is_ours

    monkeypatch.setattr(accounts, "close", closing)
    budgets = make_budgets(accounts)
    budgets.clock_s = lambda: 0.0
    charge = await budgets.reserve(None, CENT)
    purse = budgets._wallets[""].purse
    assert purse is not None
    while not purse.is_retired:
        await asyncio.sleep(0.01)
    assert not closed.is_set()  # one request is still being answered
    charge.settle()
    assert await asyncio.to_thread(closed.wait, 10)
    (account,) = accounts.all()
    assert (account.spent, account.lent) == (CENT, 0)


async def test_a_loan_waits_for_nobodys_rows(accounts: Accounts) -> None:
    """Long bodies are parsed in asyncio's own threads, and there may be more of them."""
    parsed = threading.Event()
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    parsing = asyncio.create_task(asyncio.to_thread(parsed.wait))
    budgets = make_budgets(accounts)
    try:
        (await asyncio.wait_for(budgets.reserve(None, CENT), 10)).settle()
        await asyncio.wait_for(budgets.drain(), 10)
    finally:
        parsed.set()
        await parsing
    assert (accounts.all()[0].spent, accounts.all()[0].lent) == (CENT, 0)


async def test_a_busy_tenant_borrows_more_at_a_time(accounts: Accounts) -> None:
    budgets = make_budgets(accounts)
    amounts = set()
    for _ in range(12):
        charge = await budgets.reserve(None, CENT)
        purse = budgets._wallets[""].purse
        assert purse is not None
        amounts.add(purse.loan.amount // CENT)
        charge.settle()
    await budgets.drain()
    assert amounts == {1, 2, 4, 8}


async def test_while_the_accounts_are_away_nothing_is_spent() -> None:
    class Away:
        def lend(self, *arguments: Any) -> Loan | NoLoan:
            raise OSError("no database")

        def close(self, loan_id: str, spent: int) -> bool:
            return True

    budgets = make_budgets(Away())
    for _ in range(2):
        with pytest.raises(Unavailable):
            await budgets.reserve(None, CENT)


async def test_who_has_no_budget_is_not_asked_for_money(accounts: Accounts) -> None:
    config = BudgetsConfig(tenants_usd={"acme": 0})
    budgets = Budgets(config, accounts, deadline_s=1)
    (await budgets.reserve("other", CENT)).settle()
    assert accounts.all() == []
    with pytest.raises(RequestError):
        await budgets.reserve("acme", CENT)
    (await budgets.reserve("acme", 0)).settle()


def test_a_period_is_of_the_calendar_in_utc() -> None:
    late = datetime.fromisoformat("2026-01-31T23:30:00-02:00")
    assert period_of("day", late) == "2026-02-01"
    assert period_of("month", late) == "2026-02"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"budgets": {"default_usd": 1}}, "`budgets` has no effect without `usd_per_1000_rows`"),
        ({"usd_per_1000_rows": 0}, "greater than or equal to"),
        ({"usd_per_1000_rows": 1, "budgets": {"tenants_usd": {"a": -1}}}, "greater than or equal"),
        ({"usd_per_1000_rows": 1, "budgets": {"period": "week"}}, "'day' or 'month'"),
        (
            {"usd_per_1000_rows": 1, "budgets": {"period": "day"}},
            "no budget is set: give `default_usd` or `tenants_usd`, or leave `budgets` out",
        ),
        (
            {"usd_per_1000_rows": 1, "budgets": {"tenants_usd": {"Acme!": 1}}},
            "no tenant can have this name",
        ),
    ],
)
def test_a_setting_without_sense_is_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        ServingConfig.model_validate(settings)


# the gateway


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    make_bundle(folder / "1")
    return folder / "1"


def started(bundle: Path, accounts: Accounts | None, **settings: Any) -> Case:
    config = ServingConfig.model_validate({"usd_per_1000_rows": 10, **settings})
    budgets = None
    if accounts is not None:
        budgets = make_budgets(accounts, usd=0.03)
    case = Case(config, releases={"r1": bundle}, budgets=budgets)
    case.promote("r1")
    case.follower.refresh()
    return case


async def score(case: Case, num_rows: int = 1, path: str = SCORE) -> httpx.Response:
    async with case.client() as client:
        return await client.post(path, json={"dataframe_records": [ROW] * num_rows})


async def test_each_row_is_logged_with_its_cost_and_loan(bundle: Path, accounts: Accounts) -> None:
    case = started(bundle, accounts)
    assert (await score(case, 2)).status_code == 200
    costs = [(r["cost_nano_usd"], len(r["loan_id"])) for r in case.predictions.records]
    assert costs == [(CENT, 32), (CENT, 32)]
    assert case.meter.costs == [(None, 2 * CENT)]
    refused = await score(case, 2)
    assert (refused.status_code, refused.json()["error"]["type"]) == (429, "budget_exceeded")
    assert refused.headers["retry-after"] == "2548800"  # one cent is left, until February
    assert len(case.predictions.records) == 2


async def test_a_release_that_is_asked_by_name_costs_the_same(
    bundle: Path, accounts: Accounts
) -> None:
    case = started(bundle, accounts)
    path = f"/v2/models/{ENDPOINT}/versions/r1/infer"
    async with case.client() as client:
        inputs = [
            {"name": name, "shape": [1], "datatype": kind, "data": [ROW[name]]}
            for name, kind in {
                "distance": "FP64",
                "flight": "INT64",
                "carrier": "BYTES",
                "temp": "FP64",
                "is_holiday": "BOOL",
                "departure": "BYTES",
            }.items()
        ]
        answer = await client.post(path, json={"inputs": inputs})
    assert answer.status_code == 200
    assert case.meter.costs == [(None, CENT)]


async def test_what_is_not_answered_or_not_recorded_costs_nothing(
    bundle: Path, accounts: Accounts
) -> None:
    case = started(bundle, accounts)
    async with case.client() as client:
        wrong = await client.post(SCORE, json={"dataframe_records": [ROW | {"flight": 0}]})
    assert wrong.status_code == 422
    case.predictions.error = OSError(28, "No space left on device")
    assert (await score(case, 3)).status_code == 503
    case.predictions.error = None
    assert (await score(case, 3)).status_code == 200  # all that there is
    await case.budgets.drain()  # type: ignore[union-attr]
    assert accounts.all()[0].spent == 3 * CENT
    assert case.meter.costs == [(None, 3 * CENT)]


async def test_after_its_loan_may_have_been_settled_nothing_is_answered(
    bundle: Path, accounts: Accounts
) -> None:
    case = started(bundle, accounts)
    assert case.budgets is not None
    now_s = [0.0]
    case.budgets.clock_s = lambda: now_s[0]
    batcher: Any = case.follower.current[ENDPOINT].scorer
    score_rows = batcher._score

    def stand_still(x_NF: Any) -> Any:
        now_s[0] = 1e9
        return score_rows(x_NF)

    batcher._score = stand_still
    answer = await score(case)
    assert (answer.status_code, case.predictions.records) == (503, [])
    assert "stood still" in answer.json()["error"]["message"]


async def test_without_budgets_a_price_is_only_told(bundle: Path) -> None:
    case = started(bundle, None)
    assert (await score(case)).status_code == 200
    (record,) = case.predictions.records
    assert (record["cost_nano_usd"], record["loan_id"]) == (CENT, None)
