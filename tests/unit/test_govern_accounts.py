"""Loans from tenants' budgets: what is lent and spent together is never more than the limit, and
what a loan did not spend comes back, however it ends."""

import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayapp.govern.accounts import LOST_AFTER, Account, Accounts
from rayapp.schemas.period import bounds
from rayapp.schemas.traffic import Loan, NoLoan, Unit

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
LATER = NOON + timedelta(minutes=1)
MONTH = "2026-01"
USD: Unit = "nano_usd"


@pytest.fixture
def accounts(tmp_path: Path) -> Accounts:
    return Accounts(f"sqlite:///{tmp_path}/ledger.db", "node")


def lend(accounts: Accounts, wanted: int, least: int = 1, limit: int = 100) -> Loan:
    loan = accounts.lend("acme", MONTH, limit, wanted, least, NOON, USD)
    assert isinstance(loan, Loan)
    return loan


def state(accounts: Accounts) -> tuple[int, int]:
    (account,) = accounts.all()
    return account.spent, account.lent


def test_what_a_loan_did_not_spend_comes_back(accounts: Accounts) -> None:
    loan = lend(accounts, wanted=20)
    assert (loan.amount, state(accounts)) == (20, (0, 20))
    assert accounts.close(loan.loan_id, 15)
    assert accounts.all() == [Account("acme", MONTH, USD, 15, 0, 100)]
    assert not accounts.close(loan.loan_id, 15)
    assert not accounts.settle(loan.loan_id, 15)
    assert state(accounts) == (15, 0)


def test_a_loan_is_small_where_little_is_left(accounts: Accounts) -> None:
    assert lend(accounts, wanted=90).amount == 25
    assert lend(accounts, wanted=90).amount == 18
    assert lend(accounts, wanted=90, least=50).amount == 50
    assert accounts.lend("acme", MONTH, 100, 8, 8, NOON, USD) == NoLoan(coverable=100)
    assert lend(accounts, wanted=8, least=7).amount == 7
    assert accounts.lend("acme", MONTH, 100, 1, 1, NOON, USD) == NoLoan(coverable=100)
    assert lend(accounts, wanted=1, limit=101).amount == 1  # the budget was raised
    assert [account.limit for account in accounts.all()] == [101]
    assert isinstance(accounts.lend("other", MONTH, 0, 1, 1, NOON, USD), NoLoan)


def test_a_database_from_before_budgets_were_kept_goes_on(
    accounts: Accounts, tmp_path: Path
) -> None:
    lend(accounts, wanted=20)
    with sqlite3.connect(tmp_path / "ledger.db") as found:
        found.execute("drop table account_limits")
    again = Accounts(f"sqlite:///{tmp_path}/ledger.db", "node")
    assert [(account.lent, account.limit) for account in again.all()] == [(20, None)]
    lend(again, wanted=1)
    assert [(account.lent, account.limit) for account in again.all()] == [(21, 100)]


def test_periods_and_tenants_have_accounts_of_their_own(accounts: Accounts) -> None:
    for tenant, period in (("acme", MONTH), ("acme", "2026-02"), ("other", MONTH)):
        loan = accounts.lend(tenant, period, 10, 10, 10, NOON, USD)
        assert isinstance(loan, Loan)
        accounts.close(loan.loan_id, 10)
    assert [(a.tenant, a.period, a.spent) for a in accounts.all()] == [
        ("acme", MONTH, 10),
        ("other", MONTH, 10),
        ("acme", "2026-02", 10),
    ]


def test_money_and_tokens_of_a_tenant_are_apart(accounts: Accounts, tmp_path: Path) -> None:
    """Also in a database from before there were accounts in tokens, whose tables are the same."""
    money = lend(accounts, wanted=20)
    tokens = accounts.lend("acme", MONTH, 100, 100, 100, NOON, "tokens")
    nobodys = accounts.lend("", MONTH, 100, 1, 1, NOON, "tokens")
    assert isinstance(tokens, Loan)
    assert isinstance(nobodys, Loan)
    assert accounts.close(money.loan_id, 5)
    assert accounts.close(tokens.loan_id, 90)
    accounts.give_back(tokens.loan_id, 1)
    assert accounts.settle(nobodys.loan_id, 1)
    assert Accounts(f"sqlite:///{tmp_path}/ledger.db", "node").all() == [
        Account("", MONTH, "tokens", 1, 0, 100),
        Account("acme", MONTH, USD, 5, 0, 100),
        Account("acme", MONTH, "tokens", 89, 0, 100),
    ]
    with sqlite3.connect(tmp_path / "ledger.db") as found:
        rows = found.execute("select tenant, spent from accounts order by tenant").fetchall()
    assert rows == [("acme", 5), ("tokens:", 1), ("tokens:acme", 89)]


def test_a_loan_that_nobody_ended_is_settled_once(accounts: Accounts, tmp_path: Path) -> None:
    loan = lend(accounts, wanted=20)
    assert accounts.abandoned(NOON) == []
    assert accounts.abandoned(LATER) == [loan.loan_id]
    elsewhere = Accounts(f"sqlite:///{tmp_path}/ledger.db", "another node")
    assert elsewhere.abandoned(LATER) == []  # its spool is not there
    assert accounts.settle(loan.loan_id, 3)
    assert not accounts.close(loan.loan_id, 12)  # it was only slow
    assert state(accounts) == (3, 0)
    assert accounts.abandoned(LATER) == []


def test_a_loan_is_its_own_nodes_until_that_is_surely_gone(
    accounts: Accounts, tmp_path: Path
) -> None:
    loan = lend(accounts, wanted=20)
    elsewhere = Accounts(f"sqlite:///{tmp_path}/ledger.db", "another node")
    assert elsewhere.lost(NOON + LOST_AFTER) == []
    gone = NOON + LOST_AFTER + timedelta(seconds=1)
    assert accounts.lost(gone) == []  # who can ask is not gone
    assert elsewhere.lost(gone) == [loan.loan_id]
    assert elsewhere.write_off(loan.loan_id, 3)
    assert not elsewhere.write_off(loan.loan_id, 3)
    assert state(accounts) == (3, 0)
    assert elsewhere.lost(gone) == elsewhere.abandoned(gone) == []
    assert accounts.abandoned(gone) == [loan.loan_id]  # it is back, and may have more to commit


@pytest.mark.parametrize(
    ("ends", "spent"),
    [
        (["settle"], 10),
        (["close"], 10),  # its gateway only stood still
        (["settle", "close"], 10),
        (["give_back", "close"], 8),
        (["give_back", "settle"], 10),
    ],
)
def test_a_node_that_comes_back_owes_what_it_had_not_committed(
    accounts: Accounts, ends: list[str], spent: int
) -> None:
    loan = lend(accounts, wanted=20)
    accounts.write_off(loan.loan_id, 3)
    for end in ends:
        if end == "give_back":
            accounts.give_back(loan.loan_id, 2)
        else:
            getattr(accounts, end)(loan.loan_id, 10)
    assert state(accounts) == (spent, 0)
    assert accounts.abandoned(NOON + LOST_AFTER) == []


def test_a_lost_nodes_loan_is_remembered_for_longer_than_any_period(accounts: Accounts) -> None:
    loan = lend(accounts, wanted=20)
    accounts.write_off(loan.loan_id, 3)
    accounts.forget(NOON + timedelta(days=31))
    assert accounts.abandoned(NOON) == [loan.loan_id]
    accounts.forget(NOON + timedelta(days=33))
    assert not accounts.settle(loan.loan_id, 10)
    assert state(accounts) == (3, 0)


@pytest.mark.parametrize(
    ("ends", "spent"),
    [
        (["give_back", "close"], 8),
        (["close", "give_back"], 8),
        (["give_back", "settle"], 10),  # the log has the row once, and not under this loan
        (["settle", "give_back"], 10),
    ],
)
def test_what_was_paid_twice_is_given_back_once(
    accounts: Accounts, ends: list[str], spent: int
) -> None:
    loan = lend(accounts, wanted=20)
    for end in ends:
        if end == "give_back":
            accounts.give_back(loan.loan_id, 2)
        else:
            assert getattr(accounts, end)(loan.loan_id, 10)
    assert state(accounts) == (spent, 0)


def test_old_loans_are_forgotten_and_open_ones_are_not(accounts: Accounts) -> None:
    ended, open_one = lend(accounts, wanted=5), lend(accounts, wanted=5)
    accounts.close(ended.loan_id, 5)
    accounts.forget(NOON + timedelta(days=2))
    accounts.give_back(ended.loan_id, 5)
    assert accounts.abandoned(NOON + timedelta(days=2)) == [open_one.loan_id]
    assert state(accounts) == (5, 5)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["lend", "close", "settle", "write_off"]), st.integers(1, 60)),
        max_size=25,
    )
)
def test_nothing_is_overspent_and_nothing_leaks(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    url = f"sqlite:///{tmp_path_factory.mktemp('accounts')}/ledger.db"
    accounts = Accounts(url, "node")
    limit, spent, loans = 100, 0, []
    for step, number in steps:
        if step == "lend":
            loan = accounts.lend("acme", MONTH, limit, number, min(number, 5), NOON, USD)
            loans += [loan] if isinstance(loan, Loan) else []
        elif loans:
            loan = loans.pop(number % len(loans))
            used = min(loan.amount, number)
            assert getattr(accounts, step)(loan.loan_id, used)
            spent += used
        lent = sum(loan.amount for loan in loans)
        assert accounts.all() in ([], [Account("acme", MONTH, USD, spent, lent, limit)])
        assert spent + lent <= limit
    for loan in loans:
        accounts.close(loan.loan_id, 0)
    if spent < limit:
        assert isinstance(accounts.lend("acme", MONTH, limit, 1, limit - spent, NOON, USD), Loan)


@pytest.mark.parametrize(
    ("period", "first", "following"),
    [
        ("2026-12", "2026-12-01", "2027-01-01"),
        ("2026-02", "2026-02-01", "2026-03-01"),
        ("2026-12-31", "2026-12-31", "2027-01-01"),
    ],
)
def test_a_period_ends_where_the_next_begins(period: str, first: str, following: str) -> None:
    assert [b.date().isoformat() for b in bounds(period)] == [first, following]
