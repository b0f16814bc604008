from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pyarrow as pa
import pytest

from rayapp.errors import DataError
from rayapp.families.encoding import label_number
from rayapp.observe.predictions import FEEDBACK, PREDICTIONS
from rayapp.observe.quality import JOINED_COLUMNS, join_outcomes
from rayapp.schemas.data import Task

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


def predictions(*units: str | None, tenant: str | None = None) -> pa.Table:
    rows = [
        {"request_id": "q", "row": i, "endpoint": "toy", "at": NOON, "unit_id": unit}
        | {"scores": [0.5, 0.5], "tenant": tenant}
        for i, unit in enumerate(units)
    ]
    return pa.Table.from_pylist(rows, schema=PREDICTIONS.schema)


def feedback(*said: tuple[int, object], tenant: str | None = None) -> pa.Table:
    """In the order in which it was said."""
    rows = [
        {"request_id": "q", "row": row, "at": NOON + timedelta(hours=i), "tenant": tenant}
        | {"label": None if label is None else orjson.dumps(label).decode()}
        for i, (row, label) in enumerate(said)
    ]
    return pa.Table.from_pylist(rows, schema=FEEDBACK.schema)


def outcomes(labels: list[object], *row_ids: str) -> pa.Table:
    return pa.table({"row_id": list(row_ids), "label": labels})


def rows_of(said: pa.Table, told: pa.Table, known: pa.Table | None = None) -> pa.Table:
    return join_outcomes(said, told, number_of, known).rows


def number_of(label: Any) -> float | None:
    return label_number(label, "binary", ("on_time", "late"))


def labels(joined: pa.Table) -> dict[int, object]:
    rows, found = joined.column("row").to_pylist(), joined.column("label").to_pylist()
    return dict(zip(rows, found, strict=True))


def test_feedback_wins_over_outcomes() -> None:
    joined = rows_of(
        predictions("a", "b", "c", None), feedback((1, True)), outcomes([0, 0], "a", "b")
    )
    assert joined.column_names == list(JOINED_COLUMNS)
    assert labels(joined) == {0: 0, 1: 1}


def test_later_feedback_wins_and_a_comment_changes_no_label() -> None:
    said = feedback((0, False), (0, True), (0, None))
    assert labels(rows_of(predictions("a"), said)) == {0: 1.0}


@pytest.mark.parametrize("other", ["globex", None])
def test_feedback_counts_for_predictions_of_its_own_tenant_only(other: str | None) -> None:
    """Callers choose request ids, so another one may know or guess them."""
    both = pa.concat_tables([predictions("a", tenant="acme"), predictions("a", tenant=other)])
    said = pa.concat_tables(
        [feedback((0, True), tenant="acme"), feedback((0, False), tenant=other)]
    )
    assert rows_of(both, said).column("label").to_pylist() == [1.0, 0.0]
    alone = rows_of(predictions("a", tenant="acme"), feedback((0, False), tenant=other))
    assert labels(alone) == {}


def test_one_label_that_is_none_hurts_no_other() -> None:
    said = feedback((0, "banana"), (1, "late"), (2, 0), (3, 7), (4, 0.5))
    joined = join_outcomes(predictions(*"abcde"), said, number_of)
    assert labels(joined.rows) == {1: 1, 2: 0}
    assert joined.num_unusable == 3


def test_feedback_that_is_no_label_leaves_the_outcome_and_is_counted() -> None:
    said = feedback((0, "no idea"), (1, 0.5))
    joined = join_outcomes(
        predictions("a", "b"), said, number_of, outcomes(["late", "on_time"], "a", "b")
    )
    assert labels(joined.rows) == {0: 1, 1: 0}
    assert joined.num_unusable == 2


@pytest.mark.parametrize(
    ("label", "task", "classes", "number"),
    [
        ("late", "binary", ("on_time", "late"), 1),
        (True, "binary", ("on_time", "late"), 1),
        (1.0, "binary", ("on_time", "late"), 1),
        ("1", "binary", ("on_time", "late"), None),
        (2, "binary", ("on_time", "late"), None),
        (0.5, "binary", ("on_time", "late"), None),
        (7, "multiclass", ("3", "7"), 1),
        (7.0, "multiclass", ("3", "7"), 1),
        ("7", "multiclass", ("3", "7"), 1),
        (1, "multiclass", ("3", "7"), None),
        (7.5, "multiclass", ("3", "7"), None),
        (2.5, "regression", (), 2.5),
        ("2.5", "regression", (), None),
        (float("inf"), "regression", (), None),
        (None, "regression", (), None),
        ({"a": 1}, "binary", ("on_time", "late"), None),
    ],
)
def test_what_counts_as_a_label(
    label: Any, task: Task, classes: tuple[str, ...], number: float | None
) -> None:
    assert label_number(label, task, classes) == number


def test_outcomes_find_every_prediction_of_their_unit() -> None:
    joined = rows_of(predictions("a", "a"), feedback(), outcomes(["late"], "a"))
    assert labels(joined) == {0: 1, 1: 1}


def test_nothing_known_is_an_empty_table() -> None:
    assert rows_of(predictions("a"), feedback()).num_rows == 0
    assert rows_of(predictions(), feedback(), outcomes([1], "a")).num_rows == 0


def test_two_outcomes_of_one_row_are_refused() -> None:
    with pytest.raises(DataError, match="twice"):
        rows_of(predictions("a"), feedback(), outcomes([0, 1], "a", "a"))
