"""A cheaper model answers first; the champion answers the rows of which it is not sure.

    first ─▶ 1 − max P(class) ≤ max_error ? ─ yes ─▶ its scores
                                            └ no ──▶ champion, one call with just those rows

For a calibrated classifier 1 − max P(class) is the probability that its answer is wrong (C. Chow,
"On optimum recognition error and reject tradeoff", 1970, IEEE Trans. Inf. Theory 16:41: to hand on
what exceeds a threshold errs least for the share that is handed on). No family has a calibration
step: trees and networks are fitted to the log loss, and whether that made their probabilities
true is what an evaluation measures as calibration_error. So the first model's release must show, by
the upper end of that interval, that it is calibrated; a gate of kind `ceiling` on calibration_error
refuses others at release already.
"""

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from rayapp.config.choosing import CascadeConfig
from rayapp.errors import DeadlineExceeded, Unavailable
from rayapp.families.scores import unsure_rows
from rayapp.schemas.record import short
from rayapp.serve.aside import aside
from rayapp.serve.endpoints.alike import columns_of, has_columns, why_not_alike, why_uncalibrated
from rayapp.serve.endpoints.base import Ask, Reply, RowAnswer, is_callers_fault
from rayapp.serve.endpoints.deadline import Deadlines
from rayapp.serve.endpoints.objective import Candidate
from rayapp.serve.follow import Loaded
from rayapp.serve.wire.validation import Rows

log = logging.getLogger("rayapp.serve.endpoints.cascade")

RowCandidate = Candidate[Ask, Reply, Loaded]
DEGRADED = "cascade"
MERGE_S = 0.05
"""So long before the request's deadline, or in the last quarter of what is left, the champion is
given up: the first model's answers must still be written down and sent."""


class Counts(NamedTuple):
    """Rows of one request: answered by the first model since it was sure, by the champion, and by
    the first model since the champion could not."""

    kept: int
    escalated: int
    given: int


class Cascade:
    """on_rows: told the counts of each request.

    What the first model cannot answer, for whatever reason, the champion is asked; so it decides
    also whether a caller's rows are in order. (Values of columns that only the champion has are
    looked at only where it is asked.) Where the champion cannot answer the rows that are
    handed on, or not in time, they keep the first model's answer, and the whole answer says so.
    """

    def __init__(
        self,
        first: RowCandidate,
        champion: RowCandidate,
        config: CascadeConfig,
        deadlines: Deadlines,
        on_rows: Callable[[Counts], None] = lambda counts: None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._first = first
        self._champion = champion
        self._config = config
        self._deadlines = deadlines
        self._on_rows = on_rows
        self._clock_s = clock_s
        self._judged: tuple[Loaded | None, Loaded | None] | None = None
        self._problem: str | None = None
        self._columns: frozenset[str] | None = None
        """The champion's."""

    async def predict(self, ask: Ask) -> Reply:
        first, champion = self._first.loaded(), self._champion.loaded()
        if self._refused(first, champion) is not None or first is None or champion is None:
            return await self._by_champion(ask)
        if not await has_columns(ask, self._columns):
            return await self._by_champion(ask)
        small = await self._by_first(ask)
        if small is None or small.release_id != first.release_id:  # or it moved, to one not judged
            return await self._by_champion(ask)
        unsure = unsure_rows(small.scores_NK, self._config.max_error)
        if not unsure:
            return self._kept(small, frozenset())
        if len(unsure) == ask.parsed.num_rows:
            large = await self._escalated(ask, ask)
        else:
            part = await aside(partial(_part, ask, unsure), ask.is_long)
            large = await self._escalated(ask, part)
        if large is None:
            return self._kept(small, frozenset(unsure))
        if large.schema.classes != small.schema.classes:  # the champion moved meanwhile
            return await self._by_champion(ask)
        self._on_rows(Counts(ask.parsed.num_rows - len(unsure), len(unsure), 0))
        return await aside(partial(self._merged, small, large, unsure), ask.is_long)

    def problems(self) -> Mapping[str, str]:
        """Why the champion answers everything, by the name of who is the reason."""
        found = self._refused(self._first.loaded(), self._champion.loaded())
        return {} if found is None else {self._first.name: found}

    async def _by_first(self, ask: Ask) -> Reply | None:
        try:
            return await self._first.endpoint.predict(ask)
        except Exception as error:  # noqa: BLE001 - whatever it is, the champion should know
            if not is_callers_fault(error):
                self._tell("first_model_failed", ask, error)
            return None

    async def _by_champion(self, ask: Ask) -> Reply:
        reply = await self._champion.endpoint.predict(ask)
        num_rows = len(reply.scores_NK)
        each = RowAnswer(
            reply.release_id, self._champion.nano_usd, reply.degraded, self._champion.name
        )
        self._on_rows(Counts(0, num_rows, 0))
        return replace(reply, by_row=(each,) * num_rows)

    async def _escalated(self, ask: Ask, part: Ask) -> Reply | None:
        """The champion's answer to some of the rows; None where it has none in time. A caller's
        fault is raised as the champion says it of all rows, so that it names the right one."""
        try:
            if math.isinf(ask.deadline_s):
                return await self._champion.endpoint.predict(part)
            left_s = ask.deadline_s - self._clock_s()
            until_s = ask.deadline_s - min(MERGE_S, left_s / 4)
            with self._deadlines.within(until_s):
                return await self._champion.endpoint.predict(replace(part, deadline_s=until_s))
        except Exception as error:
            if is_callers_fault(error):
                if part is not ask:
                    await self._champion.endpoint.predict(ask)
                raise
            self._tell("champion_not_reached", part, error)
            return None

    @staticmethod
    def _tell(event: str, ask: Ask, error: Exception) -> None:
        """With a traceback where it is more than somebody's being away or late."""
        is_usual = isinstance(error, Unavailable | DeadlineExceeded)
        log.log(
            logging.INFO if is_usual else logging.ERROR,
            event,
            extra={"request_id": ask.request_id, "num_rows": ask.parsed.num_rows},
            exc_info=None if is_usual else error,
        )

    def _kept(self, small: Reply, given: frozenset[int]) -> Reply:
        """The first model's reply. given: rows that the champion should have answered."""
        num_rows, name = len(small.scores_NK), self._first.name
        row_nano_usd = self._first.nano_usd
        sure = RowAnswer(small.release_id, row_nano_usd, None, name)
        self._on_rows(Counts(num_rows - len(given), 0, len(given)))
        if not given:  # replace() would take three times as long
            by_row = (sure,) * num_rows
            return Reply(
                small.release_id, small.schema, small.rows, small.scores_NK, None, None, by_row
            )
        instead = RowAnswer(small.release_id, row_nano_usd, DEGRADED, name)
        by_row = tuple(instead if row in given else sure for row in range(num_rows))
        return replace(small, degraded=DEGRADED, by_row=by_row)

    def _merged(self, small: Reply, large: Reply, unsure: list[int]) -> Reply:
        """Row by row: the champion's answers where it was asked, under its name."""
        first_nano_usd = self._first.nano_usd
        sure = RowAnswer(small.release_id, first_nano_usd, None, self._first.name)
        asked = RowAnswer(
            large.release_id,
            first_nano_usd + self._champion.nano_usd,
            large.degraded,
            self._champion.name,
        )
        scores_NK = small.scores_NK.copy()
        scores_NK[unsure] = large.scores_NK
        inputs, by_row = list(small.rows.inputs), [sure] * len(scores_NK)
        for row, given in zip(unsure, large.rows.inputs, strict=True):
            inputs[row], by_row[row] = given, asked
        return replace(
            large,
            rows=Rows(small.rows.x_NF, inputs, small.rows.unit_ids),
            scores_NK=scores_NK,
            by_row=tuple(by_row),
        )

    def _refused(self, first: Loaded | None, champion: Loaded | None) -> str | None:
        judged = self._judged
        if judged is None or judged[0] is not first or judged[1] is not champion:
            self._problem = _unusable(first, champion, self._config)
            self._columns = columns_of(champion)
            self._judged = first, champion
        return self._problem


def _part(ask: Ask, rows: list[int]) -> Ask:
    """Some rows of an ask. Its body stands for them: a cache tells questions apart by it."""
    body = b"%b\0%b" % (ask.body, repr(rows).encode())
    return replace(ask, body=body, parsed=ask.parsed.take(rows))


def _unusable(first: Loaded | None, champion: Loaded | None, config: CascadeConfig) -> str | None:
    """Why a cascade from this model to that one would mean nothing; None where it is fine."""
    if first is None:
        return "it is not loaded"
    which = f"release {short(first.release_id)}"
    schema = first.schema
    if schema.task == "regression":
        return (
            f"{which} is a regression without intervals, which does not say how far it may be off: "
            "take a classifier"
        )
    unlike = why_not_alike(first, champion)
    if unlike is not None:
        return unlike
    most = 1 - 1 / len(schema.classes)
    if config.max_error >= most:
        return (
            f"{which}: with {len(schema.classes)} classes no error is likelier than {most:g}, so "
            f"max_error {config.max_error:g} would hand nothing on"
        )
    return why_uncalibrated(which, first.estimates, config.max_calibration_error)
