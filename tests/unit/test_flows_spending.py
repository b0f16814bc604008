"""A gateway that dies owes what it recorded, no more and no less; a request that two recorded is
paid for once."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from log_case import die, record

from rayapp.cli.spending import show
from rayapp.flows.spending import Spending, settle_abandoned, spending
from rayapp.govern.accounts import LOST_AFTER, Accounts
from rayapp.observe.node_log import NodeLog
from rayapp.observe.spool import Spool
from rayapp.schemas.traffic import Loan
from rayapp.storage import Workspace

LIMIT, COST = 1000, 10


class Node:
    """Two gateways' spools on one machine, and the accounts that they borrow from. shared: a folder
    for what several nodes have together; None where this one is alone."""

    def __init__(self, folder: Path, shared: Path | None = None) -> None:
        self.workspace = Workspace(str(folder))
        if shared is not None:
            for made in (folder, shared / "tables"):
                made.mkdir(parents=True, exist_ok=True)
            (folder / "tables").symlink_to(shared / "tables")
        self.accounts = Accounts(f"sqlite:///{shared or folder}/ledger.db", folder.name)
        self.now = datetime.now(UTC)
        self.period = self.now.strftime("%Y-%m")
        self.log = NodeLog(self.workspace, on_repeated=self.give_back)
        self.folder = self.workspace.spool("toy") / "predictions"

    def give_back(self, costs: Any) -> None:
        for loan_id, cost in costs.items():
            self.accounts.give_back(loan_id, cost)

    def lend(self, amount: int) -> str:
        until = self.now + timedelta(seconds=1)
        loan = self.accounts.lend("acme", self.period, LIMIT, amount, amount, until, "nano_usd")
        assert isinstance(loan, Loan)
        return loan.loan_id

    def row(self, request_id: str, loan_id: str) -> dict[str, Any]:
        paid = {"tenant": "acme", "cost_nano_usd": COST, "loan_id": loan_id}
        return record("toy", request_id) | {"at": self.now} | paid

    def settle(self) -> int:
        later = self.now + timedelta(minutes=1)
        return settle_abandoned(self.accounts, self.log, self.workspace, later)

    def listed(self) -> list[Spending]:
        return spending(self.accounts, self.workspace)

    def figures(self) -> tuple[int, int, int]:
        (found,) = self.listed()
        return found.spent, found.lent, found.logged


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_a_dead_gateways_loan_is_settled_by_what_it_recorded(node: Node) -> None:
    spool, loan_id = Spool(node.folder), node.lend(100)
    spool.append([node.row("a", loan_id), node.row("b", loan_id)])
    die(spool)
    assert node.figures() == (0, 100, 0)
    assert (node.settle(), node.settle()) == (1, 0)
    assert node.figures() == (2 * COST, 0, 2 * COST)


def nodes_of(folder: Path) -> tuple[Node, Node]:
    return Node(folder / "first", folder), Node(folder / "second", folder)


def test_what_a_lost_node_borrowed_comes_back_by_what_it_committed(tmp_path: Path) -> None:
    lost, other = nodes_of(tmp_path)
    spool, loan_id = Spool(lost.folder), lost.lend(100)
    spool.append([lost.row("a", loan_id)])
    lost.log.commit()
    spool.append([lost.row("b", loan_id)])
    die(spool)  # and nobody is left there who could commit the second one
    assert other.settle() == 0  # it may only have been slow
    other.now += LOST_AFTER
    assert (other.settle(), other.settle()) == (1, 0)
    assert other.figures() == (COST, 0, COST)

    lost.now += LOST_AFTER
    assert (lost.settle(), lost.settle()) == (1, 0)
    assert other.figures() == (2 * COST, 0, 2 * COST)


def test_a_node_that_was_cut_off_is_not_charged_twice(tmp_path: Path) -> None:
    """Its gateway lives, and returns what it borrowed when it sees the accounts again."""
    cut_off, other = nodes_of(tmp_path)
    spool, loan_id = Spool(cut_off.folder), cut_off.lend(100)
    spool.append([cut_off.row("a", loan_id), cut_off.row("b", loan_id)])
    for node in (cut_off, other):
        node.now += LOST_AFTER
    assert other.settle() == 1
    assert other.figures() == (0, 0, 0)
    assert cut_off.accounts.close(loan_id, 2 * COST)
    assert cut_off.settle() == 0
    cut_off.log.commit()
    assert other.figures() == (2 * COST, 0, 2 * COST)


def test_what_ended_long_ago_is_forgotten_though_nobody_died(node: Node) -> None:
    loan_id = node.lend(100)
    node.accounts.close(loan_id, 2 * COST)
    node.now += timedelta(days=2)
    assert node.settle() == 0
    node.accounts.give_back(loan_id, COST)  # nobody knows it any more
    assert node.figures()[0] == 2 * COST


def test_one_that_recorded_nothing_owes_nothing(node: Node) -> None:
    node.lend(100)
    assert node.settle() == 1
    assert node.figures() == (0, 0, 0)


def test_a_dead_gateways_loan_of_tokens_is_settled_by_what_it_recorded(node: Node) -> None:
    """Beside its loan of money, for the same answer; the log of prompts has both."""
    until = node.now + timedelta(seconds=1)
    tokens = node.accounts.lend("acme", node.period, LIMIT, 100, 100, until, "tokens")
    assert isinstance(tokens, Loan)
    spool, money = Spool(node.workspace.spool("toy") / "prompts"), node.lend(100)
    paid = {"cost_nano_usd": COST, "loan_id": money, "token_loan_id": tokens.loan_id}
    row = record("toy", "a") | {"at": node.now, "tenant": "acme", "part": 0}
    counts = {"num_prompt_tokens": 30, "num_cached_tokens": 20, "num_output_tokens": 4}
    spool.append([row | paid | counts, row | paid | counts | {"part": 1, "num_prompt_tokens": 0}])
    die(spool)
    assert node.settle() == 2
    found = [(one.unit, one.spent, one.lent, one.logged) for one in node.listed()]
    assert found == [("nano_usd", 2 * COST, 0, 2 * COST), ("tokens", 38, 0, 38)]


def test_accounts_are_shown_with_their_units(
    node: Node, capsys: pytest.CaptureFixture[str]
) -> None:
    until = node.now + timedelta(seconds=1)
    node.accounts.lend("", node.period, LIMIT, 900, 900, until, "tokens")
    node.accounts.lend("", node.period, 10**10, 1_500_000, 1_500_000, until, "nano_usd")
    show(node.listed())
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    money, tokens = lines[1:3]
    assert money[-4:] == ["0.000000", "0.001500", "0.000000", "USD"]
    assert tokens[-4:] == ["0", "900", "0", "tokens"]


def test_where_nothing_was_spent_that_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    show([])
    told = capsys.readouterr()
    assert "nothing was spent" in told.out
    assert "next: " in told.err


def test_what_could_not_be_given_back_while_loans_were_settled_is_later(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = Spool(node.folder), Spool(node.folder)
    one, other = node.lend(100), node.lend(100)
    first.append([node.row("twice", one)])
    die(first)
    second.append([node.row("twice", other)])
    second.close()
    node.accounts.close(other, COST)

    def away(loan_id: str, amount: int) -> None:
        raise OSError("no database")

    monkeypatch.setattr(node.accounts, "give_back", away)
    with pytest.raises(OSError, match="no database"):
        node.settle()
    monkeypatch.undo()
    assert node.settle() == 1
    assert node.figures() == (COST, 0, COST)


@pytest.mark.parametrize("survivor_ends", ["before", "after", "by its death"])
def test_what_two_gateways_recorded_is_paid_once(node: Node, survivor_ends: str) -> None:
    """The first one dies with an answer recorded that never left; the second is asked again."""
    first, second = Spool(node.folder), Spool(node.folder)
    one, other = node.lend(100), node.lend(100)
    first.append([node.row("a", one), node.row("twice", one)])
    die(first)
    second.append([node.row("twice", other), node.row("b", other)])
    if survivor_ends == "before":
        node.accounts.close(other, 2 * COST)
    node.log.commit()
    if survivor_ends == "after":
        node.accounts.close(other, 2 * COST)
    if survivor_ends == "by its death":
        die(second)
    assert node.settle() == (2 if survivor_ends == "by its death" else 1)
    node.log.commit()
    assert node.figures() == (3 * COST, 0, 3 * COST)
