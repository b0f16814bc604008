from datetime import UTC, datetime, timedelta

import orjson
import pyarrow as pa
import pytest

from rayapp.errors import DataError
from rayapp.observe.predictions import FEEDBACK, PREDICTIONS
from rayapp.observe.quality import JOINED_COLUMNS, join_outcomes

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


def labels(joined: pa.Table) -> dict[int, object]:
    rows, found = joined.column("row").to_pylist(), joined.column("label").to_pylist()
    return dict(zip(rows, found, strict=True))


def test_feedback_wins_over_outcomes() -> None:
    joined = join_outcomes(
        predictions("a", "b", "c", None), feedback((1, True)), outcomes([0, 0], "a", "b")
    )
    assert joined.column_names == list(JOINED_COLUMNS)
    assert labels(joined) == {0: 0, 1: 1}
    assert joined.schema.field("label").type == pa.int64()


def test_later_feedback_wins_and_a_comment_changes_no_label() -> None:
    said = feedback((0, False), (0, True), (0, None))
    assert labels(join_outcomes(predictions("a"), said)) == {0: 1.0}


@pytest.mark.parametrize("other", ["globex", None])
def test_feedback_counts_for_predictions_of_its_own_tenant_only(other: str | None) -> None:
    """Callers choose request ids, so another one may know or guess them."""
    both = pa.concat_tables([predictions("a", tenant="acme"), predictions("a", tenant=other)])
    said = pa.concat_tables(
        [feedback((0, True), tenant="acme"), feedback((0, False), tenant=other)]
    )
    assert join_outcomes(both, said).column("label").to_pylist() == [1.0, 0.0]
    alone = join_outcomes(predictions("a", tenant="acme"), feedback((0, False), tenant=other))
    assert labels(alone) == {}


def test_label_types_without_outcomes() -> None:
    assert labels(join_outcomes(predictions("a", "b"), feedback((0, 1.5)))) == {0: 1.5}
    mixed = join_outcomes(predictions("a", "b"), feedback((0, "late"), (1, 3)))
    assert labels(mixed) == {0: "late", 1: "3"}


def test_feedback_of_another_type_leaves_the_outcome(caplog: pytest.LogCaptureFixture) -> None:
    said = feedback((0, "no idea"), (1, 0.5))
    joined = join_outcomes(predictions("a", "b"), said, outcomes([1, 0], "a", "b"))
    assert labels(joined) == {0: 1, 1: 0}
    assert "feedback_labels_unusable" in caplog.text


def test_outcomes_find_every_prediction_of_their_unit() -> None:
    joined = join_outcomes(predictions("a", "a"), feedback(), outcomes(["x"], "a"))
    assert labels(joined) == {0: "x", 1: "x"}


def test_nothing_known_is_an_empty_table() -> None:
    assert join_outcomes(predictions("a"), feedback()).num_rows == 0
    assert join_outcomes(predictions(), feedback(), outcomes([1], "a")).num_rows == 0


def test_two_outcomes_of_one_row_are_refused() -> None:
    with pytest.raises(DataError, match="twice"):
        join_outcomes(predictions("a"), feedback(), outcomes([0, 1], "a", "a"))
