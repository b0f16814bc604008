"""Predictions with what really happened: the rows that live quality is computed from."""

import logging
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from rayapp.errors import DataError

log = logging.getLogger("rayapp.observe.quality")

JOINED_COLUMNS = ("request_id", "row", "unit_id", "scores", "label")
_SAID_OF = ("tenant", "request_id", "row")
"""What a prediction and the feedback on it have alike. tenant: null where no key was sent."""


def join_outcomes(
    predictions: pa.Table, feedback: pa.Table, outcomes: pa.Table | None = None
) -> pa.Table:
    """JOINED_COLUMNS of every prediction whose label is known, in the order of `predictions`.

    predictions, feedback: as the logs of this room hold them. outcomes: row_id and label; a row_id
    is what a caller sent as the row's id. Feedback wins over an outcome, later feedback over
    earlier; it counts for predictions of the tenant that sent it, whoever else knows their request
    ids. The label has the type that outcomes give it, else float64 where all of it are numbers
    or truths, else text. Raises DataError for two outcomes of one row_id.
    """
    said = _said(feedback)
    known = _outcomes(outcomes)
    keys = zip(*(predictions.column(name).to_pylist() for name in _SAID_OF), strict=True)
    units = predictions.column("unit_id").to_pylist()
    wanted = None if outcomes is None else outcomes.schema.field("label").type
    convert = _converter(wanted, list(said.values()))
    labels: list[Any] = []
    num_unusable = 0
    for key, unit_id in zip(keys, units, strict=True):
        label = convert(said.get(key))
        num_unusable += label is None and key in said
        labels.append(known.get(unit_id) if label is None else label)
    if num_unusable:
        log.warning("feedback_labels_unusable", extra={"num_rows": num_unusable})
    column = pa.array(labels, wanted or convert.type)
    joined = predictions.select(list(JOINED_COLUMNS[:-1])).append_column("label", column)
    return joined.filter(pc.is_valid(column))


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


class _Numbers:
    def __init__(self, wanted: pa.DataType) -> None:
        self.type = wanted

    def __call__(self, label: Any) -> Any:
        """None for a label that is no number, or would be changed by the type."""
        if not isinstance(label, (bool, int, float)):
            return None
        if pa.types.is_boolean(self.type):
            return bool(label) if label in (0, 1) else None
        if pa.types.is_integer(self.type):
            return int(label) if label == int(label) else None
        return float(label)


class _Texts:
    type = pa.string()

    def __call__(self, label: Any) -> Any:
        return label if label is None or isinstance(label, str) else orjson.dumps(label).decode()


def _converter(wanted: pa.DataType | None, labels: list[Any]) -> "_Numbers | _Texts":
    if wanted is None:
        numeric = all(isinstance(label, (bool, int, float)) for label in labels)
        return _Numbers(pa.float64()) if numeric else _Texts()
    is_text = pa.types.is_string(wanted) or pa.types.is_large_string(wanted)
    return _Texts() if is_text else _Numbers(wanted)
