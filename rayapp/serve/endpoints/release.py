"""The innermost endpoint: one loaded release answers, inside this process."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from rayapp.errors import RequestError, Unavailable
from rayapp.schemas.traffic import STATIC
from rayapp.serve.aside import aside
from rayapp.serve.endpoints.base import Ask, Reply
from rayapp.serve.follow import Loaded
from rayapp.serve.wire.oip import check_outputs
from rayapp.serve.wire.validation import Rows, validated, with_nulls


class Release:
    """find: the release that answers now, or raises Unavailable. A request is answered by what it
    found, to the end, whatever is loaded meanwhile. ignores_unknown: columns that this model does
    not have are passed over, for one that stands in for another."""

    def __init__(self, find: Callable[[], Loaded], ignores_unknown: bool = False) -> None:
        self._find = find
        self._ignores_unknown = ignores_unknown

    async def predict(self, ask: Ask) -> Reply:
        loaded = self._find()
        rows = await _understood(ask, loaded, self._ignores_unknown)
        scores_NK = await loaded.scorer.predict(rows.x_NF, ask.deadline_s)
        return Reply(loaded.release_id, loaded.schema, rows, scores_NK)


class Static:
    """A declared answer, the same for every row: the end of a chain of fallbacks. The rows must
    still be in order, so that a caller's mistake is told whoever answers.

    scores: of the classes in their order, or the one value of a regression. has_feeds: what callers
    need not send, since it is looked up, is taken to be null.
    """

    def __init__(
        self, find: Callable[[], Loaded], scores: Sequence[float], has_feeds: bool = False
    ) -> None:
        self._find = find
        self._scores_K = np.asarray(scores, np.float32)
        self._has_feeds = has_feeds

    async def predict(self, ask: Ask) -> Reply:
        loaded = self._find()
        schema = loaded.schema
        if len(self._scores_K) != schema.num_scores:
            raise Unavailable(
                f"the static answer has {len(self._scores_K)} score(s), {loaded.endpoint!r} gives "
                f"{schema.num_scores}",
                "correct `fallback` in the serving config",
            )
        if self._has_feeds:
            ask = replace(ask, parsed=with_nulls(ask.parsed, schema))
        try:
            rows = await _understood(ask, loaded, self._has_feeds)
        except RequestError as error:
            if self._has_feeds and error.kind == "missing_column":
                # a feed may have it, then it is no caller's mistake
                raise Unavailable(error.what, error.next_step) from error
            raise
        scores_NK = np.tile(self._scores_K, (len(rows.x_NF), 1))
        return Reply(STATIC, schema, rows, scores_NK)


async def _understood(ask: Ask, loaded: Loaded, ignores_unknown: bool = False) -> Rows:
    """The ask's rows as this release takes them. Raises RequestError for what is not in order."""

    def understand() -> Rows:
        check_outputs(ask.parsed, loaded.schema)
        return validated(ask.parsed, loaded.bundle, loaded.row_encoder, ignores_unknown)

    return await aside(understand, ask.is_long)
