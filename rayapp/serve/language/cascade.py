"""A cheaper model answers first; the name's own answers where that is not sure.

    first ─▶ all of its answer ─▶ 1 − P(answer) ≤ max_error ? ─ yes ─▶ it is given
                                                              └ no ──▶ the name's own model

What both may come to is reserved before either is asked, and what both did is paid: the first
model's answer costs its tokens also where nobody reads it. Its whole answer is waited for, so a
stream begins when that is complete. Rows have a cascade of their own (endpoints/cascade.py).
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from rayapp.config.models import ModelCascadeConfig
from rayapp.config.routing import CHAMPION
from rayapp.config.serving import FIRST
from rayapp.errors import DeadlineExceeded, RequestError, Unavailable
from rayapp.serve.aside import INLINE_BYTES, aside
from rayapp.serve.endpoints.alike import why_uncalibrated
from rayapp.serve.endpoints.base import Assignment, is_callers_fault, propensity_of
from rayapp.serve.endpoints.cascade import DEGRADED, MERGE_S, Counts
from rayapp.serve.endpoints.deadline import Deadlines
from rayapp.serve.language.ask import Doubt, Spent, TextAsk, TextReply, completed
from rayapp.serve.language.billed import Billed, Opened
from rayapp.serve.language.confidence import Heard, heard, with_logprobs
from rayapp.serve.language.standing import Standing
from rayapp.serve.wire.http import RATE_LIMITED
from rayapp.serve.wire.openai import Asked

log = logging.getLogger("rayapp.serve.language.cascade")

FIRST_SHARE = 0.5
"""Of the time that a request has left, the first model gets no more."""


@dataclass(frozen=True)
class Held:
    """The first model's whole answer, which nobody got yet."""

    reply: TextReply
    heard: Heard


class TextCascade:
    """standing: what was measured of the first model. on_counts: told of each answer whose it was.

    Where the first model fails, or is not known to be calibrated, the name's own answers alone.
    Where that cannot, or not in time, the first model's answer is given and says so.
    """

    def __init__(
        self,
        first: Billed,
        champion: Billed,
        config: ModelCascadeConfig,
        standing: Callable[[], Standing | None],
        deadlines: Deadlines,
        on_counts: Callable[[Counts], None] = lambda counts: None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._first = first
        self._champion = champion
        self._config = config
        self._standing = standing
        self._deadlines = deadlines
        self._on_counts = on_counts
        self._clock_s = clock_s

    async def predict(self, ask: TextAsk) -> TextReply:
        large = await self._champion.opened(ask, is_whole=not ask.asked.is_stream)
        try:
            held = await self._held(ask) if self._problem() is None else None
        except BaseException:
            large.bill.tab.drop()
            raise
        if held is None:
            return await self._by_champion(ask, large)
        if self._is_sure(held.heard):
            large.bill.tab.drop()
            return self._kept(ask, held, Counts(1, 0, 0))
        return await self._handed_on(ask, held, large)

    def problems(self) -> Mapping[str, str]:
        """Why the name's own model answers everything, by the name of who is the reason."""
        found = self._problem()
        return {} if found is None else {FIRST: found}

    async def _held(self, ask: TextAsk) -> Held | None:
        """None where the first model has no whole answer in time, or cannot take the question, or
        the tenant's rate does not leave its tokens beside those of the other: tried again later, it
        would leave them no better."""
        try:
            opened = await self._first.opened(ask, is_whole=True)
        except RequestError as error:
            if error.kind in ("context_length_exceeded", RATE_LIMITED):  # by its own count
                return None
            raise
        except Unavailable as error:
            self._tell("first_model_failed", ask, error)
            return None
        asked, is_ours = with_logprobs(opened.ask.asked)  # after what is asked was written down
        try:
            reply = await self._in_time(opened, asked)
            is_long = len(reply.first) > INLINE_BYTES
            found = await aside(partial(heard, reply.first, asked), is_long)
        except BaseException as error:
            opened.bill.tab.drop()
            if not isinstance(error, Exception) or self._is_over(ask):
                raise
            self._tell("first_model_failed", ask, error)
            return None
        if found is None:
            opened.bill.tab.drop()
            return None
        doubt = self._doubt(found.confidence)
        return Held(replace(reply, hides_logprobs=is_ours, doubt=doubt), found)

    async def _in_time(self, opened: Opened, asked: Asked) -> TextReply:
        """All of the first model's answer to this."""
        now_s = self._clock_s()
        until_s = now_s + (opened.ask.deadline_s - now_s) * FIRST_SHARE
        in_time = replace(opened, ask=replace(opened.ask.until(until_s), asked=asked))
        with self._deadlines.within(until_s):
            return await completed(await self._first.answered(in_time))

    async def _by_champion(self, ask: TextAsk, large: Opened) -> TextReply:
        ask.assignment = self._assigned(ask, CHAMPION)
        reply = await self._champion.answered(large)
        self._on_counts(Counts(0, 1, 0))
        return replace(reply, doubt=self._doubt(None))

    async def _handed_on(self, ask: TextAsk, held: Held, large: Opened) -> TextReply:
        assert held.reply.bill is not None
        left_s = ask.deadline_s - self._clock_s()
        until_s = ask.deadline_s - min(MERGE_S, left_s / 4)
        try:
            in_time = replace(large, ask=large.ask.until(until_s))
            with self._deadlines.within(until_s):
                reply = await self._champion.answered(in_time)
        except BaseException as error:
            large.bill.tab.drop()  # where it was never asked, as no time was left
            if not isinstance(error, Exception) or is_callers_fault(error):
                held.reply.bill.tab.drop()
                raise
            self._tell("champion_not_reached", ask, error)
            return self._kept(ask, held, Counts(0, 0, 1)).instead(DEGRADED)
        spent = Spent(held.reply, held.heard.usage, self._assigned(ask, FIRST))
        ask.assignment = self._assigned(ask, CHAMPION)
        self._on_counts(Counts(0, 1, 0))
        return replace(reply, spent=spent, doubt=self._doubt(None))

    def _kept(self, ask: TextAsk, held: Held, counts: Counts) -> TextReply:
        ask.assignment = self._assigned(ask, FIRST)
        self._on_counts(counts)
        return held.reply

    @staticmethod
    def _assigned(ask: TextAsk, arm: str) -> Assignment:
        """It depends on nothing but the answer, whoever asks."""
        unit = None if ask.assignment is None else ask.assignment.unit
        return Assignment(arm, propensity_of(ask), unit)

    def _is_sure(self, found: Heard) -> bool:
        return found.confidence is not None and 1 - found.confidence <= self._config.max_error

    def _doubt(self, confidence: float | None) -> Doubt:
        return Doubt(confidence, self._config.max_error)

    def _is_over(self, ask: TextAsk) -> bool:
        return self._clock_s() >= ask.deadline_s

    def _problem(self) -> str | None:
        """Why the first model's confidence would mean nothing; None where it does."""
        standing, most = self._standing(), self._config.max_calibration_error
        if standing is None:
            return "nobody answers under its name"
        unmeasured = standing.why_unmeasured()
        if unmeasured is not None:
            return unmeasured
        return why_uncalibrated(standing.which, standing.estimates, most)

    @staticmethod
    def _tell(event: str, ask: TextAsk, error: Exception) -> None:
        """With a traceback where it is more than somebody's being away or late."""
        is_usual = isinstance(error, Unavailable | DeadlineExceeded | RequestError)
        log.log(
            logging.INFO if is_usual else logging.ERROR,
            event,
            extra={"request_id": ask.request_id},
            exc_info=None if is_usual else error,
        )
