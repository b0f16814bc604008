"""What a tenant may use in a period, money or tokens, over all gateway replicas together, and never
more.

    gateway ── "lend me 0.02 $ for acme" ──▶ accounts (the ledger's database) ── limit, spent, lent
            ◀─ a loan ─────────────────────

A gateway pays each answer from a loan, in memory: reserve before the model is asked, settle once
the answer is recorded, refund where there is none. A loan is for a second or two; then the gateway
returns what is left of it. One whose gateway died is settled by the logs, in which each row has its
cost and its loan. Amounts are whole numbers, of the unit that a budget is in. While the accounts
cannot be reached nothing is spent: 503.
"""

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Protocol

from rayapp.config.tenants import PeriodConfig
from rayapp.errors import RequestError, Unavailable
from rayapp.schemas.period import bounds, period_of
from rayapp.schemas.traffic import NANO, Loan, NoLoan, Unit
from rayapp.serve.callers.identity import ANONYMOUS, called

log = logging.getLogger("rayapp.serve.callers.budgets")

LOAN_S = 2.0
"""A loan is spent from for so long. The next one is for twice what was spent of it, or for what
requests wait for, where that is more."""
MARGIN_S = 5.0
"""After the last deadline of a request that a loan pays for, until the loan may be settled."""
REFUSE_S = 1.0
"""What the accounts did not cover, or costs more, a gateway refuses by itself for so long, before
it asks whether something came back."""
CLOSE_AGAIN_S = 1.0


class Bank(Protocol):
    """Implemented by govern.accounts.Accounts. Its methods block."""

    def lend(
        self,
        tenant: str,
        period: str,
        limit: int,
        wanted: int,
        least: int,
        until: datetime,
        unit: Unit,
    ) -> Loan | NoLoan: ...
    def close(self, loan_id: str, spent: int) -> bool: ...


class Purse:
    """One loan. Charges are settled in the thread that records an answer, so it has a lock."""

    def __init__(self, loan: Loan, spend_until_s: float, void_at_s: float) -> None:
        self.loan = loan
        self.spend_until_s = spend_until_s
        self.void_at_s = void_at_s
        self.left = loan.amount
        self._num_open = 0
        self._lock = threading.Lock()
        self.is_retired = False
        self.on_done: Callable[[], object] = lambda: None
        self.was_returned = asyncio.Event()
        """Or it was tried, at least."""

    @property
    def spent(self) -> int:
        return self.loan.amount - self.left

    def take(self, amount: int, now_s: float) -> bool:
        with self._lock:
            if self.is_retired or amount > self.left or now_s >= self.spend_until_s:
                return False
            self.left -= amount
            self._num_open += 1
            return True

    def retire(self) -> bool:
        """Nothing more is taken from it; on_done is called once every charge is over. Whether they
        all are by now."""
        with self._lock:
            is_idle = self._num_open == 0
            is_first = not self.is_retired
            self.is_retired = True
        if is_idle and is_first:
            self.on_done()
        return is_idle

    def put_back(self, amount: int) -> None:
        """Part of what was taken; the charge goes on."""
        with self._lock:
            self.left += amount

    def end(self, refund: int) -> None:
        with self._lock:
            self.left += refund
            self._num_open -= 1
            is_done = self.is_retired and self._num_open == 0
        if is_done:
            self.on_done()


class Charge:
    """What one request costs. purse: what pays for it; None where no budget is set, and the cost is
    only told. Exactly one of settle and refund ends it."""

    __slots__ = ("_clock_s", "_purse", "amount")

    def __init__(
        self,
        amount: int,
        purse: Purse | None = None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.amount = amount
        self._purse = purse
        self._clock_s = clock_s

    @property
    def loan_id(self) -> str | None:
        return None if self._purse is None else self._purse.loan.loan_id

    @property
    def is_void(self) -> bool:
        """Its loan may have been settled by others by now: this process stood still for long."""
        return self._purse is not None and self._clock_s() >= self._purse.void_at_s

    def lower(self, amount: int) -> None:
        """The answer costs less than what was reserved for it."""
        if self._purse is not None:
            self._purse.put_back(self.amount - amount)
        self.amount = amount

    def settle(self) -> None:
        if self._purse is not None:
            self._purse.end(0)

    def refund(self) -> None:
        if self._purse is not None:
            self._purse.end(self.amount)


@dataclass(frozen=True, slots=True)
class _Refusal:
    """The accounts did not lend this much. Before until_s they are not asked for as much again."""

    amount: int
    coverable: int
    until_s: float


@dataclass(slots=True)
class _Wallet:
    """One tenant's."""

    purse: Purse | None = None
    lending: "asyncio.Task[None] | None" = None
    wanted: int = 0
    refusal: _Refusal | None = None


@dataclass
class Budgets:
    """One gateway's side. deadline_s: the most that a request may take.

    The bank is asked in a thread of its own: who waits for a loan must not wait behind the long
    bodies that share asyncio's.
    """

    config: PeriodConfig
    bank: Bank
    deadline_s: float
    clock_s: Callable[[], float] = time.monotonic
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    _wallets: dict[str, _Wallet] = field(default_factory=dict)
    _closing: set["asyncio.Task[None]"] = field(default_factory=set)
    _asking: Executor = field(default_factory=lambda: ThreadPoolExecutor(1, "bank"))

    async def reserve(self, tenant: str | None, amount: int) -> Charge:
        """Raises RequestError 429 where the tenant's budget does not cover it, and Unavailable
        while nobody knows."""
        name = tenant or ANONYMOUS
        limit = self.config.limit_of(name)
        if limit is None or amount == 0:
            return Charge(amount)
        wallet = self._wallets.get(name)
        if wallet is None:
            wallet = self._wallets[name] = _Wallet()
        while True:
            purse = wallet.purse
            if purse is not None and purse.take(amount, self.clock_s()):
                return Charge(amount, purse, self.clock_s)
            refusal = wallet.refusal
            if refusal and amount >= refusal.amount and self.clock_s() < refusal.until_s:
                raise self._used_up(name, limit, amount, refusal.coverable)
            wallet.wanted += amount
            try:
                await asyncio.shield(self._lending(name, limit, amount, wallet))
            finally:
                wallet.wanted -= amount

    async def drain(self) -> None:
        """Return every loan, once all requests are over."""
        for wallet in self._wallets.values():
            if wallet.purse is not None and wallet.purse.retire():
                await wallet.purse.was_returned.wait()
        while self._closing:
            await asyncio.wait(self._closing)

    def _lending(self, name: str, limit: int, amount: int, wallet: _Wallet) -> "asyncio.Task[None]":
        if wallet.lending is None:
            wallet.lending = asyncio.create_task(self._lend(name, limit, amount, wallet))
        return wallet.lending

    async def _lend(self, name: str, limit: int, least: int, wallet: _Wallet) -> None:
        """Another purse in the place of the last one, what is left of which is returned first where
        it can be: it may be just what is missing."""
        old = wallet.purse
        try:
            wanted = max(wallet.wanted, least)
            if old is not None:
                wanted = max(wanted, 2 * old.spent)
                wallet.purse = None
                if old.retire():
                    await old.was_returned.wait()
            begun_s, now = self.clock_s(), self.now()
            lives_s = LOAN_S + self.deadline_s + MARGIN_S
            until = now + timedelta(seconds=lives_s)
            period = period_of(self.config.period, now)
            try:
                loan = await asyncio.get_running_loop().run_in_executor(
                    self._asking,
                    self.bank.lend,
                    name,
                    period,
                    limit,
                    wanted,
                    least,
                    until,
                    self.config.unit,
                )
            except Exception as error:  # a database driver's own errors too
                log.exception("no_loan", extra={"tenant": name, "unit": self.config.unit})
                raise Unavailable(
                    "the accounts of budgets cannot be reached",
                    "try again after the seconds in retry-after",
                ) from error
            if isinstance(loan, NoLoan):
                until_s = self.clock_s() + REFUSE_S
                wallet.refusal = _Refusal(least, loan.coverable, until_s)
                return
            wallet.purse = self._purse(loan, begun_s, lives_s)
        finally:
            wallet.lending = None

    def _purse(self, loan: Loan, begun_s: float, lives_s: float) -> Purse:
        purse = Purse(loan, begun_s + LOAN_S, begun_s + lives_s - MARGIN_S / 2)
        loop = asyncio.get_running_loop()
        purse.on_done = lambda: loop.call_soon_threadsafe(self._begin_close, purse)
        loop.call_later(LOAN_S, purse.retire)
        return purse

    def _begin_close(self, purse: Purse) -> None:
        task = asyncio.create_task(self._close(purse))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _close(self, purse: Purse) -> None:
        loan_id, spent = purse.loan.loan_id, purse.spent
        while self.clock_s() < purse.void_at_s:
            try:
                is_ours = await asyncio.get_running_loop().run_in_executor(
                    self._asking, self.bank.close, loan_id, spent
                )
            except Exception:  # by its end it will be settled by the prediction log
                log.exception("loan_not_returned", extra={"loan": loan_id})
                purse.was_returned.set()
                await asyncio.sleep(CLOSE_AGAIN_S)
                continue
            if not is_ours:
                log.error(
                    "loan_settled_by_others",
                    extra={"loan": loan_id, "spent": spent, "unit": self.config.unit},
                )
            break
        purse.was_returned.set()

    def _used_up(self, name: str, limit: int, amount: int, coverable: int) -> RequestError:
        """coverable: the most that may be left in this period."""
        period, unit = self.config.period, self.config.unit
        is_held = amount <= coverable
        left = "" if limit == 0 else f", of which {_left(max(0, coverable), unit, is_held)}"
        verb = "use" if unit == "tokens" else "spend"
        return RequestError(
            f"{called(name)} may {verb} {_told(limit, unit)} a {period}{left}; this request has to "
            f"reserve {_told(amount, unit)}",
            _next_step(limit, amount, coverable, self.config),
            429,
            "budget_exceeded",
            retry_after_s=1 if is_held else _until_next(period, self.now()),
        )


def _next_step(limit: int, amount: int, coverable: int, config: PeriodConfig) -> str:
    """What would do: less, where some is left; time, where that brings enough."""
    steps = []
    if amount <= coverable:
        steps.append("try again in a second, when replicas return what they hold")
    elif coverable > 0:
        less = "lower `max_tokens` or shorten the prompt"
        if config.unit == "nano_usd":
            less = f"ask for less: send fewer rows, or to a language model {less}"
        steps.append(less)
    if amount <= limit:
        steps.append(f"wait for the next {config.period} (UTC)")
    return ", or ".join([*steps, "have the budget raised"])


def _left(amount: int, unit: Unit, is_held: bool) -> str:
    """is_held: other requests have some of it, and may give it back."""
    if is_held:
        return f"{_told(amount, unit)} are left or held by requests that go on"
    return f"at most {_told(amount, unit)} are left"


def _told(amount: int, unit: Unit) -> str:
    if unit == "tokens":
        return f"{amount:,} tokens"
    usd = f"{amount / NANO:.9f}".rstrip("0").rstrip(".")
    return f"{usd} USD"


def _until_next(period: str, now: datetime) -> int:
    """Whole seconds until the next day or month begins, rounded up."""
    _, following = bounds(period_of(period, now))
    return math.ceil((following - now).total_seconds())
