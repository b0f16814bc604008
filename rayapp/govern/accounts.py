"""What each tenant has spent in each period, and what is lent to gateways to be spent.

    account: spent + lent ≤ limit          loan: amount, of which its gateway knows what it spent
       lend ──▶ open ── close(spent), by the gateway itself ─────────────▶ closed
                  ├──── settle(spent), by the prediction log, if it died ▶ settled
                  └──── write_off(spent), by the same, if its node is gone ▶ lost
                        lost ── close or settle, if the node comes back ──▶ closed, settled

Amounts are whole numbers, of billionths of a dollar or of tokens, so that sums are exact: a tenant
has an account in each of the two that it has a budget in. Everything is one transaction in the
ledger's database. A loan whose gateway is gone is settled by what the logs of predictions and
prompts have of it: each row carries its loans and what they paid. A request that a dying gateway
recorded and another one answered again has one row in the log, and cost both: `give_back` returns
the second, unless its loan is settled by the log, which has it only once.

Only the node itself can commit what it has spooled. A node that is gone is known by its silence:
one that has a gateway ends its loans within seconds, dead gateways' too, so what is open
`LOST_AFTER` its end is nobody's, and another node ends it by what is committed. Should the node
come back with answers that were not, the loan is settled anew and these are charged: they alone,
some seconds' at most, can bring a tenant over its limit.
"""

import socket
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from rayapp.database import Database
from rayapp.schemas.traffic import Loan, NoLoan, Unit
from rayapp.storage import Workspace

_LOCK_ID = 7_429_562  # any constant: names our advisory lock within the PostgreSQL database
LOST_AFTER = timedelta(hours=1)
"""Longer than a node takes to start again, and than clocks of nodes differ."""
_KEPT = timedelta(days=1)
"""So long an ended loan is remembered; whoever gives something back does so within minutes."""
_LOST_KEPT = timedelta(days=32)
"""So long one of a lost node is: no period is longer, and what the node brings in a later one has
no budget to be charged to."""
_NUM_PARTS = 4
"""A loan is at most one part of so many of what is left: near its end a budget is lent in small
parts, so that one gateway does not hold what another one needs."""
_OF_TOKENS = "tokens:"
"""Begins what the column `tenant` has for an account in tokens; no tenant's name has a colon. Money
came first, and databases from then go on as they are."""
_metadata = sa.MetaData()
_accounts = sa.Table(
    "accounts",
    _metadata,
    sa.Column("tenant", sa.String(200), primary_key=True),
    sa.Column("period", sa.String(10), primary_key=True),
    sa.Column("spent", sa.BigInteger, nullable=False),
    sa.Column("lent", sa.BigInteger, nullable=False),
)
# beside the accounts, which databases had first
_limits = sa.Table(
    "account_limits",
    _metadata,
    sa.Column("tenant", sa.String(200), primary_key=True),
    sa.Column("period", sa.String(10), primary_key=True),
    sa.Column("most", sa.BigInteger, nullable=False),
)
# likewise beside the loans
_charges = sa.Table(
    "lost_loans",
    _metadata,
    sa.Column("loan_id", sa.String(40), primary_key=True),
    sa.Column("charged", sa.BigInteger, nullable=False),
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
    """One tenant's period. lent: to gateways, to be spent by them. limit: the budget that a gateway
    last wanted a loan within; None where none has said so."""

    tenant: str
    period: str
    unit: Unit
    spent: int
    lent: int
    limit: int | None = None


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
        limit: int,
        wanted: int,
        least: int,
        until: datetime,
        unit: Unit,
    ) -> Loan | NoLoan:
        """A loan of at least `least` and at most `wanted`, where so much is left of the limit. Its
        gateway ends it before `until`; after that it may be settled."""
        holder = _holder(tenant, unit)
        with self._database.writing() as connection:
            found = connection.execute(
                sa.select(_accounts).where(_of(_accounts, holder, period))
            ).first()
            _note_limit(connection, holder, period, limit)
            spent, lent = (found.spent, found.lent) if found is not None else (0, 0)
            left = limit - spent - lent
            amount = max(least, min(wanted, left // _NUM_PARTS))
            if amount > left:
                return NoLoan(limit - spent)
            if found is None:
                values = {"tenant": holder, "period": period, "spent": 0, "lent": amount}
                connection.execute(_accounts.insert().values(**values))
            else:
                _change(connection, holder, period, lent=amount)
            loan_id = uuid.uuid4().hex
            connection.execute(
                _loans.insert().values(
                    loan_id=loan_id,
                    tenant=holder,
                    period=period,
                    node=self._node,
                    amount=amount,
                    given_back=0,
                    state="open",
                    until=_text(until),
                )
            )
        return Loan(loan_id, amount)

    def close(self, loan_id: str, spent: int) -> bool:
        """The loan's gateway has spent so much of it, and nothing will follow. False where it was
        settled before, by somebody who took the gateway for dead."""
        return self._end(loan_id, spent, "closed")

    def settle(self, loan_id: str, spent: int) -> bool:
        """As the logs have it, all that its node has spooled included. False where it was neither
        open nor lost any more."""
        return self._end(loan_id, spent, "settled")

    def write_off(self, loan_id: str, spent: int) -> bool:
        """As the logs have it, without what its node, which is gone, has spooled. False where it
        was not open any more."""
        return self._end(loan_id, spent, "lost")

    def give_back(self, loan_id: str, amount: int) -> None:
        """A request that this loan paid for had been paid for already."""
        with self._database.writing() as connection:
            loan = _loan(connection, loan_id)
            if loan is None or loan.state == "settled":
                return
            if loan.state == "closed":
                _change(connection, loan.tenant, loan.period, spent=-amount)
            else:
                given_back = loan.given_back + amount
                _update(connection, loan_id, given_back=given_back)

    def abandoned(self, now: datetime) -> list[str]:
        """Loans of this node that nobody has ended in time, or only for want of the node."""
        is_late = (_loans.c.state == "open") & (_loans.c.until < _text(now))
        is_lost = _loans.c.state == "lost"
        return self._found((_loans.c.node == self._node) & (is_late | is_lost))

    def lost(self, now: datetime) -> list[str]:
        """Loans of other nodes, which are gone: these would have ended them long ago."""
        is_late = (_loans.c.state == "open") & (_loans.c.until < _text(now - LOST_AFTER))
        return self._found((_loans.c.node != self._node) & is_late)

    def forget(self, now: datetime) -> None:
        """Ended loans that nobody will ask for any more."""
        is_ended = _loans.c.state.in_(("closed", "settled"))
        is_over = is_ended & (_loans.c.until < _text(now - _KEPT))
        is_lost = (_loans.c.state == "lost") & (_loans.c.until < _text(now - _LOST_KEPT))
        gone = sa.select(_loans.c.loan_id).where(is_lost)
        with self._database.writing() as connection:
            connection.execute(_charges.delete().where(_charges.c.loan_id.in_(gone)))
            connection.execute(_loans.delete().where(is_over | is_lost))

    def all(self) -> list[Account]:
        """By period, tenant and unit."""
        of_it = sa.and_(*(_limits.c[name] == _accounts.c[name] for name in ("tenant", "period")))
        wanted = sa.select(_accounts, _limits.c.most).join(_limits, of_it, isouter=True)
        with self._database.reading() as connection:
            found = [
                Account(*_held(row.tenant, row.period), row.spent, row.lent, row.most)
                for row in connection.execute(wanted)
            ]
        return sorted(found, key=lambda one: (one.period, one.tenant, one.unit))

    def _found(self, wanted: sa.ColumnElement[bool]) -> list[str]:
        with self._database.reading() as connection:
            rows = connection.execute(sa.select(_loans.c.loan_id).where(wanted))
            return [row.loan_id for row in rows]

    def _end(self, loan_id: str, spent: int, state: str) -> bool:
        with self._database.writing() as connection:
            loan = _loan(connection, loan_id)
            if loan is None or loan.state not in ("open", "lost") or loan.state == state:
                return False
            used = spent - (loan.given_back if state == "closed" else 0)
            if loan.state == "open":
                _change(connection, loan.tenant, loan.period, spent=used, lent=-loan.amount)
            else:
                charged = _take_charge(connection, loan_id)
                _change(connection, loan.tenant, loan.period, spent=used - charged)
            if state == "lost":
                connection.execute(_charges.insert().values(loan_id=loan_id, charged=spent))
            _update(connection, loan_id, state=state)
        return True


def _holder(tenant: str, unit: Unit) -> str:
    """As the column `tenant` has it."""
    return _OF_TOKENS + tenant if unit == "tokens" else tenant


def _held(holder: str, period: str) -> tuple[str, str, Unit]:
    if holder.startswith(_OF_TOKENS):
        return holder.removeprefix(_OF_TOKENS), period, "tokens"
    return holder, period, "nano_usd"


def _of(table: sa.Table, holder: str, period: str) -> sa.ColumnElement[bool]:
    return (table.c.tenant == holder) & (table.c.period == period)


def _note_limit(connection: sa.Connection, holder: str, period: str, limit: int) -> None:
    where = _of(_limits, holder, period)
    found = connection.execute(sa.select(_limits.c.most).where(where)).first()
    if found is None:
        values = {"tenant": holder, "period": period, "most": limit}
        connection.execute(_limits.insert().values(**values))
    elif found.most != limit:
        connection.execute(_limits.update().where(where).values(most=limit))


def _loan(connection: sa.Connection, loan_id: str) -> sa.Row[tuple[object, ...]] | None:
    return connection.execute(sa.select(_loans).where(_loans.c.loan_id == loan_id)).first()


def _update(connection: sa.Connection, loan_id: str, **values: object) -> None:
    connection.execute(_loans.update().where(_loans.c.loan_id == loan_id).values(**values))


def _take_charge(connection: sa.Connection, loan_id: str) -> int:
    """What a lost loan was taken to have spent, which is not kept any longer."""
    of_it = _charges.c.loan_id == loan_id
    charged: int = connection.execute(sa.select(_charges.c.charged).where(of_it)).scalar_one()
    connection.execute(_charges.delete().where(of_it))
    return charged


def _change(
    connection: sa.Connection, holder: str, period: str, spent: int = 0, lent: int = 0
) -> None:
    connection.execute(
        _accounts.update()
        .where(_of(_accounts, holder, period))
        .values(spent=_accounts.c.spent + spent, lent=_accounts.c.lent + lent)
    )


def _text(moment: datetime) -> str:
    """In UTC, so that texts compare as moments do."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")
