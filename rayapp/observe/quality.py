"""Predictions with what really happened: the rows that live quality is computed from."""

from collections.abc import Callable
from typing import Any, NamedTuple

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from rayapp.errors import DataError


class Joined(NamedTuple):
    """rows: JOINED_COLUMNS. num_unusable: labels that were sent and are none."""

    rows: pa.Table
    num_unusable: int


JOINED_COLUMNS = ("request_id", "row", "unit_id", "scores", "label")
_SAID_OF = ("tenant", "request_id", "row")
"""What a prediction and the feedback on it have alike. tenant: null where no key was sent."""


def join_outcomes(
    predictions: pa.Table,
    feedback: pa.Table,
    number_of: Callable[[Any], float | None],
    outcomes: pa.Table | None = None,
) -> Joined:
    """JOINED_COLUMNS of every prediction whose label is known, in the order of `predictions`.

    predictions, feedback: as the logs of this room hold them. number_of: a label as metrics want
    it; None where it is none. outcomes: row_id and label; a row_id is what a caller sent as the
    row's id. Feedback wins over an outcome, later feedback over earlier; it counts for predictions
    of the tenant that sent it, whoever else knows their request ids. Raises DataError for two
    outcomes of one row_id.
    """
    said = _said(feedback)
    known = _outcomes(outcomes)
    keys = zip(*(predictions.column(name).to_pylist() for name in _SAID_OF), strict=True)
    units = predictions.column("unit_id").to_pylist()
    labels: list[float | None] = []
    num_unusable = 0
    for key, unit_id in zip(keys, units, strict=True):
        label = number_of(said[key]) if key in said else None
        num_unusable += label is None and key in said
        labels.append(number_of(known.get(unit_id)) if label is None else label)
    column = pa.array(labels, pa.float64())
    joined = predictions.select(list(JOINED_COLUMNS[:-1])).append_column("label", column)
    return Joined(joined.filter(pc.is_valid(column)), num_unusable)


def _said(feedback: pa.Table) -> dict[tuple[Any, ...], Any]:
    """By _SAID_OF, the latest label."""
    with_label = feedback.filter(pc.is_valid(feedback.column("label"))).sort_by("at")
    return {
        tuple(line[name] for name in _SAID_OF): orjson.loads(line["label"])
        for line in with_label.select([*_SAID_OF, "label"]).to_pylist()
    }


def _outcomes(outcomes: pa.Table | None) -> dict[str, Any]:
    if outcomes is None:
        return {}
    ids = pc.cast(outcomes.column("row_id"), pa.string()).to_pylist()
    known = dict(zip(ids, outcomes.column("label").to_pylist(), strict=True))
    if len(known) != len(ids):
        raise DataError(
            f"outcomes: {len(ids) - len(known)} row ids come twice", "give each row id one label"
        )
    known.pop(None, None)
    return known
