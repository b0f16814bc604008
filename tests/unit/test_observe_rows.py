"""Spooled records as rows of the prediction log: whatever callers put into them."""

from datetime import UTC
from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from rayapp.observe.predictions import PREDICTIONS

KEY = ',"inputs":'
"""What a commit looks for."""
TEXTS = (
    st.none() | st.text(max_size=20) | st.sampled_from((KEY, f'"{KEY}{{}}', "inputs", "}}", "\\"))
)
TIMES = st.datetimes(timezones=st.just(UTC))
VALUES = (
    TEXTS
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
)
RECORDS = st.fixed_dictionaries(
    {
        "request_id": st.text(max_size=20),
        "endpoint": st.just("toy"),
        "release_id": st.just("r"),
        "at": TIMES,
        "latency_ms": st.floats(0, 1e6) | st.integers(0, 10),
        "degraded": TEXTS,
        "tenant": TEXTS,
    },
    optional={
        "cost_nano_usd": st.integers(0, 2**62),
        "loan_id": TEXTS,
        "arm": TEXTS,
        "propensity": st.floats(0, 1) | st.just(1),
        "unknown_to_this_version": VALUES,
    },
)
REST = st.fixed_dictionaries(
    {
        "row": st.integers(0, 2**31 - 1),
        "unit_id": TEXTS,
        "scores": st.lists(
            st.floats(allow_nan=False, allow_infinity=False) | st.integers(-5, 5) | st.none(),
            max_size=3,
        ),
    }
)
INPUTS = st.dictionaries(st.text(max_size=8), VALUES, max_size=4)


@given(st.lists(st.tuples(RECORDS, REST, INPUTS, st.booleans()), min_size=1, max_size=4))
def test_a_row_has_what_its_record_has(
    spooled: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any], bool]],
) -> None:
    texts = []
    for common, rest, inputs, is_older in spooled:
        # an earlier version had the inputs amid the rest
        fields = {**common, "inputs": inputs, **rest} if is_older else {**common, **rest}
        texts.append(orjson.dumps(fields if is_older else {**fields, "inputs": inputs}))
    rows = PREDICTIONS.rows(texts)
    assert rows.schema == PREDICTIONS.schema
    for row, (common, rest, inputs, _) in zip(rows.to_pylist(), spooled, strict=True):
        expected = dict.fromkeys(PREDICTIONS.schema.names) | common | rest
        expected.pop("unknown_to_this_version", None)
        expected |= {"date": common["at"].date().isoformat(), "inputs": row["inputs"]}
        assert row == expected
        assert orjson.loads(row["inputs"]) == orjson.loads(orjson.dumps(inputs))
