"""The description and the endpoint agree: what one takes the other takes, and the same for no."""

from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pages import body_schema, described
from serving_case import ENDPOINT, INPUTS, ROW, Case, make_bundle, oip_body

from rayapp.config.serving import ServingConfig
from rayapp.schemas.data import Task

SCORE = f"/endpoints/{ENDPOINT}/invocations"
ODD: list[Any] = [None, True, "x", "UA", "2013-10-01T12:00:00Z", 0, 1, -1, 3.5, 5.0, 6000, [1], {}]


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return started(tmp_path_factory.mktemp("bundle") / "1", "binary")


def started(folder: Path, task: Task, **config: Any) -> Case:
    make_bundle(folder, task)
    case = Case(ServingConfig(**config), releases={"r1": folder})
    case.promote("r1")
    case.follower.refresh()
    return case


def accepts(schema: dict[str, Any], body: Any) -> bool:
    return not list(jsonschema.Draft202012Validator(schema).iter_errors(body))


async def test_every_path_that_can_be_asked_is_described(case: Case) -> None:
    document = await described(case.client())
    assert document["openapi"] == "3.1.0"
    async with case.client() as client:
        for path, operations in document["paths"].items():
            for method in operations:
                response = await client.request(method, path)
                assert response.status_code not in (404, 405), (method, path)
    assert "security" not in document


async def test_good_bodies_keep_to_the_description(case: Case) -> None:
    document = await described(case.client())
    records = {"dataframe_records": [ROW, {**ROW, "id": "k", "temp": None}]}
    assert accepts(body_schema(document, SCORE), records)
    infer = f"/v2/models/{ENDPOINT}/infer"
    assert accepts(body_schema(document, infer), oip_body([ROW]))
    feedback = body_schema(document, "/feedback")
    assert accepts(feedback, {"request_id": "q", "label": 1})
    for nothing in ({}, {"label": None}, {"label": 1, "rating": 5}):
        assert not accepts(feedback, {"request_id": "q", **nothing})
    assert not accepts(feedback, {"request_id": "", "label": 1})
    async with case.client() as client:
        assert (await client.post(SCORE, json=records)).status_code == 200
        assert (await client.post(infer, json=oip_body([ROW]))).status_code == 200


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from([*(c.name for c in INPUTS), "id", "more"]), st.sampled_from(ODD), max_size=3
    ),
    st.sampled_from([None, *(c.name for c in INPUTS)]),
)
async def test_they_agree_on_odd_rows(case: Case, change: dict[str, Any], less: str | None) -> None:
    row = {name: value for name, value in (ROW | change).items() if name != less}
    schema = body_schema(await described(case.client()), SCORE)
    async with case.client() as client:
        response = await client.post(SCORE, json={"dataframe_records": [row]})
    assert response.status_code in (200, 400, 422)
    is_time = isinstance(row.get("departure"), str) and row["departure"].endswith("Z")
    if is_time or not isinstance(row.get("departure"), str):  # a format is not asserted
        is_described = accepts(schema, {"dataframe_records": [row]})
        assert is_described == (response.status_code == 200), (row, response.text)


@pytest.mark.parametrize("task", ["multiclass", "regression"])
async def test_answers_keep_to_the_description(tmp_path: Path, task: Task) -> None:
    case = started(tmp_path / "1", task)
    document = await described(case.client())
    async with case.client() as client:
        answer = (await client.post(SCORE, json={"dataframe_records": [ROW, ROW]})).json()
        error = (await client.post(SCORE, json={})).json()
    responses = document["paths"][SCORE]["post"]["responses"]
    assert accepts(responses["200"]["content"]["application/json"]["schema"], answer)
    assert not accepts(responses["200"]["content"]["application/json"]["schema"], error)
    assert accepts(document["components"]["schemas"]["Error"], error)


async def test_headers_are_described_and_taken_as_they_are(case: Case) -> None:
    document = await described(case.client())
    headers = document["components"]["parameters"]
    infer = document["paths"][f"/v2/models/{ENDPOINT}/infer"]["post"]
    named = [{"$ref": f"#/components/parameters/{name}"} for name in headers]
    assert infer["parameters"] == document["paths"][SCORE]["post"]["parameters"] == named
    assert list(headers) == ["x-request-id", "x-deadline-ms", "x-unit-id"]
    given: dict[str, list[Any]] = {
        "x-request-id": ["a.b_c:d-1", "x" * 128, "x" * 129, "a b"],
        "x-deadline-ms": [5000, 10**9 - 1, 10**9, -1],
    }
    async with case.client() as client:
        for name, values in given.items():
            for value in values:
                sent = {name: str(value)}
                response = await client.post(SCORE, json={"dataframe_records": [ROW]}, headers=sent)
                is_taken = response.status_code == 200
                assert accepts(headers[name]["schema"], value) == is_taken, sent


async def test_a_key_that_is_needed_is_described(tmp_path: Path) -> None:
    case = started(tmp_path / "1", "binary", requires_key=True)
    async with case.client() as client:
        assert (await client.get("/openapi.json")).status_code == 401
    case.app._keys._requires_key = False
    assert (await described(case.client()))["security"] == [{"key": []}]
