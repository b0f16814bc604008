"""Bodies that once were answered with 500, or took time or memory out of all proportion."""

import json
import tracemalloc
from datetime import UTC, datetime
from typing import Any

import httpx
import numpy as np
import orjson
import pyarrow as pa
import pytest
from serving_case import ENDPOINT, FEATURES, NOON, ROW, Case, make_bundle, oip_body

from rayapp.config.serving import ServingConfig
from rayapp.errors import RequestError
from rayapp.families.encoding import encode
from rayapp.families.inputs import shown
from rayapp.observe.predictions import FEEDBACK
from rayapp.schemas.traffic import Feedback
from rayapp.serve.wire import feedback
from rayapp.serve.wire.feedback import parse_feedback
from rayapp.serve.wire.protocols import decode_json, first_repeated, is_key, key_text, parse_mlflow

INFER = f"/v2/models/{ENDPOINT}/infer"
SCORE = f"/endpoints/{ENDPOINT}/invocations"
DEEP = "[" * 1000 + "]" * 1000
MAX_ANSWER_BYTES = 4096


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("bundle") / "1"
    make_bundle(folder)
    case = Case(ServingConfig(), releases={"r1": folder})
    case.promote("r1")
    case.follower.refresh()
    return case


async def post(case: Case, path: str, body: str | bytes, **headers: str) -> httpx.Response:
    async with case.client() as client:
        return await client.post(
            path, content=body, headers={"content-type": "application/json", **headers}
        )


def tensor(**change: Any) -> str:
    body = oip_body([ROW])
    body["inputs"][0] |= change
    return json.dumps(body)


def row(**change: Any) -> str:
    return json.dumps({"dataframe_records": [ROW | change]})


REFUSED: list[tuple[str, str, int, str | None]] = [
    (INFER, tensor(datatype={}), 400, "distance"),
    (INFER, tensor(datatype=["FP64"]), 400, "distance"),
    (INFER, tensor(shape=0).replace('"shape": 0', f'"shape": {DEEP}'), 400, "distance"),
    (INFER, tensor(parameters={"binary_data_size": [1]}, data=[]), 400, "distance"),
    (INFER, '{"inputs": NaN, "id": ' + "1" * 5000 + "}", 400, None),
    (INFER, '{"inputs": NaN, "id": "\\ud800"}', 400, None),
    (INFER, json.dumps(oip_body([ROW], outputs=[{"name": "label"}] * 9)), 400, "label"),
    (SCORE, row(id=0).replace('"id": 0', f'"id": {DEEP}'), 400, "id"),
    (SCORE, row(temp=0).replace('"temp": 0', f'"temp": {DEEP}'), 422, "temp"),
    (SCORE, row(id=1e300), 400, "id"),
    (SCORE, row(id=2**64), 400, "id"),
    (SCORE, row(flight=-(2**53) - 1), 422, "flight"),
    ("/feedback", '{"request_id": "q", "label": ' + DEEP + "}", 422, "label"),
    ("/feedback", '{"request_id": "q", "label": 1, "row": 18446744073709551615}', 422, "row"),
    ("/feedback", '{"request_id": "q", "label": 1, "row": true}', 422, "row"),
    ("/feedback", '{"request_id": "q", "score": "0.5"}', 422, "score"),
    ("/feedback", '{"request_id": "q", "score": Infinity}', 422, "score"),
    ("/feedback", '{"request_id": "q", "label": NaN}', 422, "label"),
    ("/feedback", '{"request_id": "q", "label": 1, "at": 5}', 422, "at"),
    ("/feedback", '{"request_id": "q", "score": 1, "at": "0001-01-01T00:00:00+05:00"}', 422, "at"),
    ("/feedback", '{"request_id": "q", "score": 1, "at": "9999-12-31T23:00:00-05:00"}', 422, "at"),
]


@pytest.mark.parametrize(("path", "body", "status", "param"), REFUSED)
async def test_is_refused(case: Case, path: str, body: str, status: int, param: str | None) -> None:
    response = await post(case, path, body)
    assert (response.status_code, response.json()["error"]["param"]) == (status, param)
    assert len(response.content) < MAX_ANSWER_BYTES


async def test_a_length_of_thousands_of_digits(case: Case) -> None:
    headers = {"inference-header-content-length": "9" * 5000}
    response = await post(case, INFER, tensor(), **headers)
    assert response.status_code == 400
    assert len(response.content) < MAX_ANSWER_BYTES


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (SCORE, {"dataframe_records": [ROW | {"é" * 100_000: 1}]}),
        (SCORE, {f"{i}": 1 for i in range(10_000)}),
        (SCORE, {"dataframe_split": {"columns": ["é" * 100_000] * 2, "data": []}}),
        (SCORE, {"inputs": {"é" * 100_000: [1], "b": [1, 2]}}),
        (INFER, {"inputs": [{"name": "é" * 100_000, "datatype": "x" * 100_000}]}),
        (INFER, {"inputs": [{"name": "a", "datatype": "FP64", "shape": [1] * 100_000}]}),
        ("/feedback", {"é" * 100_000: 1}),
        ("/feedback", {"request_id": ["x"] * 100_000, "label": 1}),
    ],
)
async def test_a_refusal_is_short_whatever_was_sent(case: Case, path: str, body: Any) -> None:
    response = await post(case, path, json.dumps(body))
    assert response.status_code in (400, 422)
    assert len(response.content) < MAX_ANSWER_BYTES


async def test_rows_with_names_of_their_own_take_no_more_than_they_are(case: Case) -> None:
    records = [{f"n{i}": i} for i in range(3000)]
    body = json.dumps({"dataframe_records": [*[ROW] * 40, *records]})
    tracemalloc.start()
    response = await post(case, SCORE, body)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert response.json()["error"]["type"] == "unknown_column"
    assert peak_bytes < 64 * len(body)  # 3,000 columns of 3,040 values are 73 MB
    parsed = parse_mlflow(body.encode(), 5000)
    assert len(list(parsed.names())) == 3000 + len(ROW)
    assert parsed.column("n7") == [None] * 47 + [7] + [None] * 2992
    assert parsed.column("n3000") is None


def test_the_first_name_that_comes_again() -> None:
    assert first_repeated(["a", "b", "c", "b", "a"]) == "b"
    assert first_repeated(["a", "b"]) is None


@pytest.mark.parametrize(
    ("key", "text"), [(7.0, "7"), (-(2**63), str(-(2**63))), (2**64 - 1, str(2**64 - 1)), ("", "")]
)
def test_keys(key: Any, text: str) -> None:
    assert is_key(key)
    assert key_text(key) == text
    assert [is_key(other) for other in (7.5, True, [7], float("inf"), -1e19)] == [False] * 5
    assert is_key(None)
    assert key_text(float("nan")) is None


async def test_a_key_that_pandas_made_a_float(case: Case) -> None:
    case.predictions.records.clear()
    body = json.dumps({"dataframe_records": [ROW | {"id": 7.0}, ROW | {"id": float("nan")}]})
    assert (await post(case, SCORE, body)).status_code == 200
    assert [record["unit_id"] for record in case.predictions.records] == ["7", None]


def test_text_that_only_looks_like_half_a_character() -> None:
    body = r'{"a": NaN, "pair": "\ud83d\ude00", "text": "\\ud800"}'
    assert decode_json(body.encode()) == pytest.approx(
        {"a": float("nan"), "pair": "😀", "text": r"\ud800"}, nan_ok=True
    )
    with pytest.raises(RequestError):
        decode_json(body.encode("utf-16"))


def test_what_float32_cannot_hold_is_missing() -> None:
    table = pa.table({name: [value, value] for name, value in ROW.items()})
    table = table.set_column(0, "distance", pa.array([1e39, 1.0]))
    [distance] = [i for i, feature in enumerate(FEATURES) if feature.name == "distance"]
    x_NF = encode(FEATURES[distance : distance + 1], table)
    np.testing.assert_array_equal(x_NF[:, 0], [np.nan, 1.0])


@pytest.mark.parametrize(
    "extra",
    [{"row": 2**31 - 1}, {"at": "0001-01-01T00:00:00Z"}, {"at": "2026-01-01"}, {"row": 5.0}],
)
def test_feedback_that_is_taken_can_be_stored(extra: dict[str, Any]) -> None:
    """What a commit fails on would keep all later feedback of the node waiting."""
    body = json.dumps({"request_id": "q", "label": "late", **extra}).encode()
    record = orjson.dumps({**parse_feedback(body, NOON), "endpoint": None})
    [stored] = FEEDBACK.rows([record]).to_pylist()
    assert stored["at"].astimezone(UTC).year in (1, 2026)


def test_a_shown_value_is_short_and_read_no_further_than_that() -> None:
    assert shown([[[[[[[[[[1]]]]]]]]]]) == "[[[[[[[...]]]]]]]"
    assert len(shown("x" * 10**6)) == len(shown({f"k{i}": "v" * 99 for i in range(99)})) == 58
    assert shown("a'b") == repr("a'b")


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (True, "true"),
        (None, "null"),
        (float("inf"), "Infinity"),
        ({"a": [None, False, "b"]}, '{"a": [null, false, "b"]}'),
        (["a\u2028"], r'["a\u2028"]'),
        (datetime(2026, 1, 1, tzinfo=UTC), "'2026-01-01T00:00:00+00:00'"),
    ],
)
def test_a_value_is_shown_as_its_sender_wrote_it(value: Any, says: str) -> None:
    assert shown(value) == says


def test_a_number_that_no_float_holds_is_called_that() -> None:
    with pytest.raises(RequestError, match="the number on line 1, column 8 of the body is too"):
        decode_json(b'{"a": [' + b"9" * 400 + b"]}")


@pytest.mark.parametrize(
    ("extra", "kind", "says"),
    [
        ({"row": -1}, "range", "row is -1, must be a whole number from 0 to 2147483647"),
        ({"row": 1e21}, "range", "row is 1e+21, must be a whole number from 0 to 2147483647"),
        ({"row": 0.5}, "wrong_type", "row is 0.5, must be a whole number from 0 to 2147483647"),
        ({"score": "good"}, "wrong_type", "score is 'good', must be a finite number"),
        ({"score": float("nan")}, "not_finite", "score is NaN, must be a finite number"),
        ({"label": [1]}, "wrong_type", "label is [1], must be a text, true, false or a finite"),
        ({"comment": True}, "wrong_type", "comment is true, must be a text\n  next: send a text"),
        ({"at": 5}, "wrong_type", "at is 5, must be an ISO 8601 time in the years 1 to 9999"),
        ({"request_id": 5}, "wrong_type", "request_id is 5, must be a text"),
    ],
)
def test_what_feedback_must_be_is_told(extra: dict[str, Any], kind: str, says: str) -> None:
    body = json.dumps({"request_id": "q", "score": 1, **extra}).encode()
    with pytest.raises(RequestError) as caught:
        parse_feedback(body, NOON)
    assert caught.value.kind == kind
    assert says in str(caught.value)


def test_every_field_of_feedback_has_its_words() -> None:
    assert feedback._WANTED.keys() == Feedback.model_fields.keys()
