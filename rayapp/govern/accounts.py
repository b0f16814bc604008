"""What each tenant has spent in each period, and what is lent to gateways to be spent.

    account: spent + lent ≤ limit          loan: amount, of which its gateway knows what it spent
       lend ──▶ open ── close(spent), by the gateway itself ─────────────▶ closed
                  └──── settle(spent), by the prediction log, if it died ▶ settled

Money is whole billionths of a dollar, so that sums are exact. Everything is one transaction in the
ledger's database. A loan whose gateway is gone is settled by what the prediction log has of it:
each row carries its loan and its cost. A request that a dying gateway recorded and another one
answered again has one row in the log, and cost both: `give_back` returns the second, unless its
loan is settled by the log, which has it only once.
"""

import socket
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from rayapp.database import Database
from rayapp.schemas.traffic import Loan, NoLoan
from rayapp.storage import Workspace

_LOCK_ID = 7_429_562  # any constant: names our advisory lock within the PostgreSQL database
_KEPT = timedelta(days=1)
"""So long an ended loan is remembered; whoever gives something back does so within minutes."""
_NUM_PARTS = 4
"""A loan is at most one part of so many of what is left: near its end a budget is lent in small
parts, so that one gateway does not hold what another one needs."""
_metadata = sa.MetaData()
_accounts = sa.Table(
    "accounts",
    _metadata,
    sa.Column("tenant", sa.String(200), primary_key=True),
    sa.Column("period", sa.String(10), primary_key=True),
    sa.Column("spent", sa.BigInteger, nullable=False),
    sa.Column("lent", sa.BigInteger, nullable=False),
)
_loans = sa.Table(
    "loans",
    _metadata,
    sa.Column("loan_id", sa.String(40), primary_key=True),
    sa.Column("tenant", sa.String(200), nullable=False),
    sa.Column("period", sa.String(10), nullable=False),
    sa.Column("node", sa.String(200), nullable=False),
    sa.Column("amount", sa.BigInteger, nullable=False),
    sa.Column("given_back", sa.BigInteger, nullable=False),
    sa.Column("state", sa.String(10), nullable=False),
    sa.Column("until", sa.String(40), nullable=False, index=True),
)


@dataclass(frozen=True)
class Account:
    """One tenant's period. lent_nano_usd: to gateways, to be spent by them."""

    tenant: str
    period: str
    spent_nano_usd: int
    lent_nano_usd: int


class Accounts:
    """node: where the spools are from which this process's loans would be settled."""

    def __init__(self, url: str, node: str) -> None:
        self._database = Database(url, _metadata, _LOCK_ID)
        self._node = node

    @classmethod
    def of(cls, workspace: Workspace) -> "Accounts":
        """Those of a workspace, for a process of this node."""
        return cls(workspace.ledger_url, socket.gethostname())

    def lend(
        self,
        tenant: str,
        period: str,
        limit_nano_usd: int,
        wanted_nano_usd: int,
        least_nano_usd: int,
        until: datetime,
    ) -> Loan | NoLoan:
        """A loan of at least `least` and at most `wanted`, where so much is left of the limit. Its
        gateway ends it before `until`; after that it may be settled."""
        with self._database.writing() as connection:
            found = connection.execute(
                sa.select(_accounts).where(_of(_accounts, tenant, period))
            ).first()
            spent, lent = (found.spent, found.lent) if found is not None else (0, 0)
            left_nano_usd = limit_nano_usd - spent - lent
            amount_nano_usd = max(least_nano_usd, min(wanted_nano_usd, left_nano_usd // _NUM_PARTS))
            if amount_nano_usd > left_nano_usd:
                return NoLoan(limit_nano_usd - spent)
            if found is None:
                values = {"tenant": tenant, "period": period, "spent": 0, "lent": amount_nano_usd}
                connection.execute(_accounts.insert().values(**values))
            else:
                _change(connection, tenant, period, lent=amount_nano_usd)
            loan_id = uuid.uuid4().hex
            connection.execute(
                _loans.insert().values(
                    loan_id=loan_id,
                    tenant=tenant,
                    period=period,
                    node=self._node,
                    amount=amount_nano_usd,
                    given_back=0,
                    state="open",
                    until=_text(until),
                )
            )
        return Loan(loan_id, amount_nano_usd)

    def close(self, loan_id: str, spent_nano_usd: int) -> bool:
        """The loan's gateway has spent so much of it, and nothing will follow. False where it was
        settled before, by somebody who took the gateway for dead."""
        return self._end(loan_id, spent_nano_usd, "closed")

    def settle(self, loan_id: str, spent_nano_usd: int) -> bool:
        """As the prediction log has it. False where it was not open any more."""
        return self._end(loan_id, spent_nano_usd, "settled")

    def give_back(self, loan_id: str, amount_nano_usd: int) -> None:
        """A request that this loan paid for had been paid for already."""
        with self._database.writing() as connection:
            loan = _loan(connection, loan_id)
            if loan is None or loan.state == "settled":
                return
            if loan.state == "closed":
                _change(connection, loan.tenant, loan.period, spent=-amount_nano_usd)
            else:
                given_back = loan.given_back + amount_nano_usd
                _update(connection, loan_id, given_back=given_back)

    def abandoned(self, now: datetime) -> list[str]:
        """Loans of this node that nobody has ended in time."""
        wanted = (_loans.c.state == "open") & (_loans.c.node == self._node)
        with self._database.reading() as connection:
            rows = connection.execute(
                sa.select(_loans.c.loan_id).where(wanted & (_loans.c.until < _text(now)))
            )
            return [row.loan_id for row in rows]

    def forget(self, now: datetime) -> None:
        """Ended loans that nobody will ask for any more."""
        is_old = (_loans.c.state != "open") & (_loans.c.until < _text(now - _KEPT))
        with self._database.writing() as connection:
            connection.execute(_loans.delete().where(is_old))

    def all(self) -> list[Account]:
        """By period and tenant."""
        asked = sa.select(_accounts).order_by(_accounts.c.period, _accounts.c.tenant)
        with self._database.reading() as connection:
            return [
                Account(row.tenant, row.period, row.spent, row.lent)
                for row in connection.execute(asked)
            ]

    def _end(self, loan_id: str, spent_nano_usd: int, state: str) -> bool:
        with self._database.writing() as connection:
            loan = _loan(connection, loan_id)
            if loan is None or loan.state != "open":
                return False
            used = spent_nano_usd - (loan.given_back if state == "closed" else 0)
            _change(connection, loan.tenant, loan.period, spent=used, lent=-loan.amount)
            _update(connection, loan_id, state=state)
        return True


def _of(table: sa.Table, tenant: str, period: str) -> sa.ColumnElement[bool]:
    return (table.c.tenant == tenant) & (table.c.period == period)


def _loan(connection: sa.Connection, loan_id: str) -> sa.Row[tuple[object, ...]] | None:
    return connection.execute(sa.select(_loans).where(_loans.c.loan_id == loan_id)).first()


def _update(connection: sa.Connection, loan_id: str, **values: object) -> None:
    connection.execute(_loans.update().where(_loans.c.loan_id == loan_id).values(**values))


def _change(
    connection: sa.Connection, tenant: str, period: str, spent: int = 0, lent: int = 0
) -> None:
    connection.execute(
        _accounts.update()
        .where(_of(_accounts, tenant, period))
        .values(spent=_accounts.c.spent + spent, lent=_accounts.c.lent + lent)
    )


def _text(moment: datetime) -> str:
    """In UTC, so that texts compare as moments do."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")
