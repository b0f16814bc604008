"""The cheapest that is quick and good enough answers.

    minimise  what an answer costs
    subject to  p95 latency ≤ max_p95_ms    measured here (endpoints/latency.py)
                quality ≥ min_quality       the worse end of the interval in the evaluation that the
                                            release was sealed with

What quality is, and which asks are measured, depends on what is answered: the terms say it.

A small share of units explores: they get one of those that are good enough and not known to be
slow, each with the same chance (ε-greedy), so that everybody stays measured and what was logged
can be weighed by its propensity. Salted hashes of a unit say whether it explores and whom it gets,
the latter by rendezvous hashing (Thaler and Ravishankar 1998, IEEE/ACM Trans. Networking 6:1): it
stays with its arm while that may be had.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from rayapp.config.choosing import ObjectiveLimits
from rayapp.errors import DeadlineExceeded
from rayapp.serve.endpoints.base import (
    AnyAsk,
    AnyEndpoint,
    AnyReply,
    AskT,
    Assignment,
    ReplyT,
    is_callers_fault,
    propensity_of,
)
from rayapp.serve.endpoints.latency import FAILED_S, Latency, State
from rayapp.serve.endpoints.split import position
from rayapp.serve.follow import R, Release

_AskT_contra = TypeVar("_AskT_contra", bound=AnyAsk, contravariant=True)
_ReplyT = TypeVar("_ReplyT", bound=AnyReply)
_R_contra = TypeVar("_R_contra", bound=Release, contravariant=True)

ALLOCATION_S = 0.1
"""So long one holds, unless another release is loaded meanwhile."""


@dataclass(frozen=True)
class Candidate(Generic[AskT, ReplyT, R]):
    """One who may answer. nano_usd: what a row costs, or a usual answer in words. loaded: its
    release now."""

    name: str
    endpoint: AnyEndpoint[AskT, ReplyT]
    nano_usd: int
    loaded: Callable[[], R | None]


class Terms(Protocol[_AskT_contra, _ReplyT, _R_contra]):
    """What an objective must know of one kind of answers."""

    def quality(self, loaded: _R_contra) -> float:
        """The worse end of its interval, so turned that more is better; −∞ where there is none."""
        ...

    def why_poor(self, loaded: _R_contra) -> str | None:
        """Why it is not good enough; None where it is."""
        ...

    def why_unlike(self, loaded: _R_contra, champion: _R_contra | None) -> str | None:
        """Why it cannot answer in the champion's place at all; None where it can."""
        ...

    async def may_choose(self, ask: _AskT_contra, champion: _R_contra | None) -> bool:
        """False where the champion must say what is wrong with what is asked."""
        ...

    def is_timed(self, ask: _AskT_contra) -> bool:
        """Whether the time until the answer begins is what the limit is for."""
        ...

    def told(self, reply: _ReplyT, nano_usd: int, degraded: str | None) -> _ReplyT:
        """What the caller gets. nano_usd: of who answered."""
        ...


@dataclass(frozen=True)
class Allocation:
    """Whom everybody gets, by place among the candidates, and whom those that explore may get.
    degraded: the constraint that the chosen one does not meet, since nobody does."""

    chosen: int
    explorable: tuple[int, ...]
    degraded: str | None
    problems: Mapping[str, str]

    def propensity(self, place: int, explore: float) -> float:
        """The probability with which a unit gets this candidate."""
        if not self.explorable:
            return float(place == self.chosen)
        explored = explore / len(self.explorable) if place in self.explorable else 0.0
        return explored + (1 - explore) * (place == self.chosen)


class Objective(Generic[AskT, ReplyT, R]):
    """candidates: the champion first. on_choice: told the arm that a request got, and why:
    cheapest, explored, degraded, or columns that only the champion may judge.

    Where nobody meets both constraints, the best by its quality answers, and the answer says which
    constraint it is. While nobody who is good enough has been measured, the best of those answers:
    not yet measured is no breach. Rows of several units do not explore.
    """

    def __init__(
        self,
        candidates: Sequence[Candidate[AskT, ReplyT, R]],
        config: ObjectiveLimits,
        terms: Terms[AskT, ReplyT, R],
        salt: str,
        on_choice: Callable[[str, str], None] = lambda arm, reason: None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._candidates = tuple(candidates)
        self._config = config
        self._terms = terms
        self._salt = salt
        self._on_choice = on_choice
        self._clock_s = clock_s
        self._latencies = [self._unmeasured() for _ in self._candidates]
        self._loaded: tuple[R | None, ...] = (None,) * len(self._candidates)
        self._allocation: Allocation | None = None
        self._until_s = 0.0

    async def predict(self, ask: AskT) -> ReplyT:
        begun_s = self._clock_s()
        allocation = self.allocation(begun_s)
        place, propensity, unit, reason = await self._choice(ask, allocation)
        candidate = self._candidates[place]
        ask.assignment = Assignment(candidate.name, propensity * propensity_of(ask), unit)
        degraded = allocation.degraded if reason == "degraded" else None
        self._on_choice(candidate.name, reason)
        reply = await self._measured(candidate.endpoint, ask, begun_s, self._latencies[place])
        return self._terms.told(reply, candidate.nano_usd, degraded)

    def problems(self) -> Mapping[str, str]:
        """Why a candidate cannot be chosen, by its name."""
        return self.allocation(self._clock_s()).problems

    def allocation(self, now_s: float) -> Allocation:
        loaded = tuple(candidate.loaded() for candidate in self._candidates)
        is_same = all(a is b for a, b in zip(loaded, self._loaded, strict=True))
        if self._allocation is None or not is_same or now_s >= self._until_s:
            for place, (now, before) in enumerate(zip(loaded, self._loaded, strict=True)):
                if _is_another(now, before):
                    self._latencies[place] = self._unmeasured()
            states = [latency.look(now_s) for latency in self._latencies]
            self._allocation = self._allocated(loaded, states)
            self._loaded, self._until_s = loaded, now_s + ALLOCATION_S
        return self._allocation

    def _unmeasured(self) -> Latency:
        config = self._config
        return Latency(config.max_p95_ms / 1000, config.min_answers, config.window_s)

    async def _choice(
        self, ask: AskT, allocation: Allocation
    ) -> tuple[int, float, str | None, str]:
        """Who answers, with what probability, the unit that it is chosen for, and why."""
        if not await self._terms.may_choose(ask, self._loaded[0]):
            return 0, 1.0, None, "columns"
        usual = "degraded" if allocation.degraded else "cheapest"
        unit = ask.unit
        if unit is None:
            return allocation.chosen, 1.0, None, usual
        place = self._place_of(unit, allocation)
        reason = usual if place == allocation.chosen else "explored"
        return place, allocation.propensity(place, self._config.explore), unit, reason

    def _place_of(self, unit: str, allocation: Allocation) -> int:
        if not allocation.explorable or position(self._salt, unit) >= self._config.explore:
            return allocation.chosen
        return max(
            allocation.explorable,
            key=lambda place: position(f"{self._salt}/{self._candidates[place].name}", unit),
        )

    async def _measured(
        self, endpoint: AnyEndpoint[AskT, ReplyT], ask: AskT, begun_s: float, latency: Latency
    ) -> ReplyT:
        try:
            reply = await endpoint.predict(ask)
        except BaseException as error:
            now_s = self._clock_s()
            is_slow = now_s - begun_s > latency.limit_s
            if not is_callers_fault(error) and (is_slow or _is_its_own(error, ask, now_s)):
                latency.note(FAILED_S, now_s)
            raise
        if self._terms.is_timed(ask):
            now_s = self._clock_s()
            latency.note(now_s - begun_s, now_s)
        return reply

    def _allocated(self, loaded: Sequence[R | None], states: Sequence[State]) -> Allocation:
        reasons = [self._unfit(one, loaded[0]) for one in loaded]
        good = [place for place, reason in enumerate(reasons) if reason is None]
        for place in good:
            if states[place] == "slow":
                reasons[place] = self._slow(self._latencies[place])
        named = zip(self._candidates, reasons, strict=True)
        problems = {one.name: reason for one, reason in named if reason is not None}
        explorable = tuple(
            place
            for place in good
            if states[place] == "quick" or not self._latencies[place].is_measured
        )
        quality = [-math.inf if one is None else self._terms.quality(one) for one in loaded]
        quick = [place for place in good if states[place] == "quick"]
        if quick:
            cheapest = min(quick, key=lambda p: (self._candidates[p].nano_usd, -quality[p], p))
            return Allocation(cheapest, explorable, None, problems)
        unknown = [place for place in good if states[place] == "unknown"]
        able = unknown or [p for p, one in enumerate(loaded) if self._can_answer(one, loaded[0])]
        best = max(able or [0], key=lambda p: (quality[p], -p))
        constraint = "latency" if good else "quality"
        degraded = None if unknown or not able else f"objective:{constraint}"
        return Allocation(best, explorable, degraded, problems)

    def _unfit(self, loaded: R | None, champion: R | None) -> str | None:
        """Why this release may not answer whatever its latency; None where it may."""
        if loaded is None:
            return "it is not loaded"
        return self._terms.why_unlike(loaded, champion) or self._terms.why_poor(loaded)

    def _can_answer(self, loaded: R | None, champion: R | None) -> bool:
        return loaded is not None and self._terms.why_unlike(loaded, champion) is None

    def _slow(self, latency: Latency) -> str:
        config = self._config
        if not latency.is_measured:
            return (
                f"its p95 exceeded {config.max_p95_ms:g} ms; units that explore measure it again, "
                f"{latency.num_answers} of {config.min_answers} answers so far"
            )
        return (
            f"its p95 exceeded {config.max_p95_ms:g} ms: {latency.num_slow} of "
            f"{latency.num_answers} answers in the last {config.window_s:g} s took longer; it is "
            "chosen again once its p95 is a tenth below"
        )


def _is_another(now: Release | None, before: Release | None) -> bool:
    """It begins with a clean slate."""
    return before is not None and (now is None or now.release_id != before.release_id)


def _is_its_own(error: BaseException, ask: AnyAsk, now_s: float) -> bool:
    """Whether a failure that was no mistake of the caller's says something about who was asked: not
    where the caller left too little time, or went away."""
    if isinstance(error, DeadlineExceeded) and now_s >= ask.deadline_s:
        return False
    return isinstance(error, Exception)
