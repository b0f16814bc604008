"""Whether one release may answer in another's place without a caller noticing, and what a release
was measured to be."""

import math
from collections.abc import KeysView, Sequence

from rayapp.schemas.record import short
from rayapp.schemas.release import HIGHER_IS_BETTER, Estimate
from rayapp.schemas.traffic import UNIT_ID
from rayapp.serve.aside import aside
from rayapp.serve.endpoints.base import Ask, Reply, RowAnswer
from rayapp.serve.follow import Loaded


def why_not_alike(loaded: Loaded, champion: Loaded | None) -> str | None:
    """Why callers would notice that not the champion answered: its answer has another form, or it
    needs a column that the champion does not take. None where they would not."""
    if champion is None:
        return None
    which = f"release {short(loaded.release_id)}"
    one, other = loaded.schema, champion.schema
    if (one.task, one.classes) != (other.task, other.classes):
        return f"{which}: it does not give the champion's classes"
    known = {column.name for column in other.inputs}
    unknown = [column.name for column in one.inputs if column.name not in known]
    return f"{which} needs {unknown[0]!r}, which the champion does not take" if unknown else None


def columns_of(loaded: Loaded | None) -> frozenset[str] | None:
    """What a release takes; None where there is none."""
    if loaded is None:
        return None
    return frozenset(column.name for column in loaded.schema.inputs)


async def has_columns(ask: Ask, names: frozenset[str] | None) -> bool:
    """Exactly these in every row, a business key aside: a model of fewer columns would pass over a
    misspelt one, and not miss another. Of no names nothing can be said."""
    if names is None:
        return True
    records = ask.parsed.records
    if records is None:
        return _are(ask.parsed.columns.keys(), names)
    return await aside(lambda: all(_are(record.keys(), names) for record in records), ask.is_long)


def _are(keys: KeysView[str], names: frozenset[str]) -> bool:
    return keys == names or keys - {UNIT_ID} == names


def worse_end(estimates: Sequence[Estimate], metric: str, is_higher_better: bool) -> float | None:
    """Of the metric's interval; None where there is none."""
    found = next((one for one in estimates if one.metric == metric), None)
    if found is None:
        return None
    return found.low if is_higher_better else found.high


def turned(bound: float | None, is_higher_better: bool) -> float:
    """So that more is better; −∞ where there is none."""
    if bound is None:
        return -math.inf
    return bound if is_higher_better else -bound


def why_uncalibrated(which: str, estimates: Sequence[Estimate], most: float) -> str | None:
    """Why a model's own doubt says too little of its errors; None where it says enough. which: was
    measured. most: that the worse end of its calibration_error may be."""
    found = next((one for one in estimates if one.metric == "calibration_error"), None)
    if found is None or found.low is None or found.high is None:
        return f"{which}: its evaluation has no calibration_error with an interval"
    if found.high <= most:
        return None
    span = (
        f"calibration_error {found.low:.4f} to {found.high:.4f} over {found.num_rows:,} rows, at "
        f"most {most:g} is allowed"
    )
    if found.low > most:
        return f"{which} is not calibrated: {span}"
    return f"{which} is not known to be calibrated: {span}; more rows may tell"


def why_poor(
    which: str, metric: str, bound: float | None, limit: float, is_higher_better: bool
) -> str | None:
    """Why a measured quality does not do; None where it does. which: what was measured. bound: the
    worse end of its interval."""
    if bound is None:
        return f"{which}: its evaluation has no {metric} with an interval"
    sign, word = (1, "least") if is_higher_better else (-1, "most")
    if sign * (bound - limit) >= 0:
        return None
    return (
        f"{which}: {metric} is {bound:.4f} at the worse end of its interval, at {word} {limit:g} "
        "is required"
    )


class RowTerms:
    """What an objective goes by where rows are answered (objective.Terms)."""

    def __init__(self, metric: str, min_quality: float) -> None:
        self._metric = metric
        self._is_higher_better = HIGHER_IS_BETTER[metric]
        self._min_quality = min_quality
        self._champion: Loaded | None = None
        self._columns: frozenset[str] | None = None
        """The champion's."""

    def quality(self, loaded: Loaded) -> float:
        return turned(self._bound(loaded), self._is_higher_better)

    def why_poor(self, loaded: Loaded) -> str | None:
        bound, which = self._bound(loaded), f"release {short(loaded.release_id)}"
        return why_poor(which, self._metric, bound, self._min_quality, self._is_higher_better)

    def _bound(self, loaded: Loaded) -> float | None:
        """Over all rows of the release's evaluation."""
        return worse_end(loaded.estimates, self._metric, self._is_higher_better)

    def why_unlike(self, loaded: Loaded, champion: Loaded | None) -> str | None:
        return why_not_alike(loaded, champion)

    async def may_choose(self, ask: Ask, champion: Loaded | None) -> bool:
        if champion is not self._champion:
            self._champion, self._columns = champion, columns_of(champion)
        return await has_columns(ask, self._columns)

    def is_timed(self, ask: Ask) -> bool:
        return True

    def told(self, reply: Reply, nano_usd: int, degraded: str | None) -> Reply:
        degraded = reply.degraded or degraded
        each = RowAnswer(reply.release_id, nano_usd, degraded)
        by_row = (each,) * len(reply.scores_NK)
        # replace() would take three times as long
        return Reply(
            reply.release_id, reply.schema, reply.rows, reply.scores_NK, degraded, None, by_row
        )
