"""The page of the endpoints: complete in itself, true, and its examples do what they say."""

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from pages import blocks, in_shell
from serving_case import ENDPOINT, INPUTS, Case, case_of_tasks, make_bundle

from rayapp.config.serving import ServingConfig
from rayapp.schemas.data import Column
from rayapp.schemas.model import BundleSchema, EncodedFeature
from rayapp.serve.wire.examples import LookedUp, row
from rayapp.serve.wire.openapi import describe
from rayapp.serve.wire.page import render_page
from serve_apps.predict import named_releases

OTHER = "ab" * 32


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return case_of_tasks(tmp_path_factory.mktemp("tasks"))


async def page_of(case: Case, **headers: str) -> httpx.Response:
    async with case.client() as client:
        return await client.get("/docs", headers=headers)


def schema_of(*inputs: Column, features: tuple[EncodedFeature, ...] = ()) -> BundleSchema:
    return BundleSchema(
        name="m",
        family="tabular",
        task="binary",
        label="y",
        classes=("no", "yes"),
        inputs=inputs,
        features=features,
    )


async def test_every_example_is_answered_as_it_says(case: Case) -> None:
    response = await page_of(case)
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    found = blocks(response.text)
    assert found[0].strip() == "URL=http://gateway"
    async with case.client() as client:
        for command, shown in zip(found[1:-1:2], found[2:-1:2], strict=True):
            url, headers, body = in_shell(command, URL="http://gateway")
            answer = await client.post(url, headers=headers, json=body)
            assert answer.status_code == 200, answer.text
            assert _form(answer.json()) == _form(json.loads(shown))
        url, headers, body = in_shell(found[-1], URL="http://gateway")
        assert (await client.post(url, headers=headers, json=body)).status_code == 202


def _form(answer: Any) -> Any:
    """Without what differs from answer to answer."""
    if isinstance(answer, dict):
        return {key: _form(value) for key, value in answer.items() if key not in ("id", "data")}
    if isinstance(answer, list):
        return [_form(value) for value in answer]
    return type(answer) if isinstance(answer, float) else answer


async def test_all_that_a_caller_must_know_is_there(case: Case) -> None:
    page = (await page_of(case)).text
    for endpoint in case.pointers:
        assert f'<section id="{endpoint}">' in page
    for column in INPUTS:
        assert f"<code>{column.name}</code>" in page
    for words in ("0 to 5,000", "at least 1", "one of AA, DL, UA", "Of each row the value of y"):
        assert words in page
    assert "the probability of each y: short, middle, long" in page
    for status in ("400", "401", "413", "422", "429", "503", "504"):
        assert f"<code>{status}</code>" in page


async def test_it_is_complete_in_itself(case: Case) -> None:
    page = (await page_of(case)).text
    assert re.findall(r"src\s*=|url\(|@import|<script|<link", page) == []
    assert all(target.startswith("#") for target in re.findall(r'href="(.*?)"', page))


async def test_releases_that_answer_by_name_are_named(tmp_path: Path) -> None:
    make_bundle(tmp_path / "1")
    make_bundle(tmp_path / "2", seed=9, without=("temp",))
    arms = {"next": {"release": OTHER, "share": 0.5}}
    config = {"endpoints": {ENDPOINT: {"split": {"salt": "s", "arms": arms}}}}
    releases = {"r1": tmp_path / "1", OTHER: tmp_path / "2"}
    case = Case(ServingConfig.model_validate(config), releases=releases)
    case.pointers.update(named_releases(case.config))
    assert "No endpoint has a release yet" in (await page_of(case)).text
    case.promote("r1")
    case.follower.refresh()
    page = (await page_of(case)).text
    assert re.findall(r"<code>(r1|(?:ab){32})</code>", page) == ["r1", OTHER]
    async with case.client() as client:
        document = (await client.get("/openapi.json")).json()
        for release, num_columns in (("r1", len(INPUTS)), (OTHER, len(INPUTS) - 1)):
            path = f"/v2/models/{ENDPOINT}/versions/{release}"
            asked = document["paths"][f"{path}/infer"]["post"]["requestBody"]["content"]
            example = asked["application/json"]["example"]
            assert len(example["inputs"]) == num_columns
            answer = await client.post(f"{path}/infer", json=example)
            assert (answer.status_code, answer.headers["x-release"]) == (200, release)
            assert (await client.get(f"{path}/ready")).status_code == 200


async def test_where_keys_are_needed_it_needs_one_and_says_how(tmp_path: Path) -> None:
    make_bundle(tmp_path / "1")
    case = Case(ServingConfig(requires_key=True), releases={"r1": tmp_path / "1"})
    case.promote("r1")
    case.follower.refresh()
    assert (await page_of(case)).status_code == 401
    document = case.app._described()
    found = blocks(render_page(document, "h"))
    assert "KEY=rk_" in found[0]
    _, headers, _ = in_shell(found[1], KEY="rk_1_2")
    assert headers["authorization"] == "Bearer rk_1_2"


@pytest.mark.parametrize("host", ["a.example:8000", "[::1]:8000"])
async def test_the_address_is_the_callers(case: Case, host: str) -> None:
    assert blocks((await page_of(case, host=host)).text)[0].strip() == f"URL=http://{host}"


@pytest.mark.parametrize("host", ["a;rm -rf ~", "$(x)", "<b>", "", "é"])
def test_a_host_that_is_none_is_not_repeated(host: str) -> None:
    page = render_page(describe({}, {}, "1", False, 10), host)
    assert blocks(page)[0].strip() == "URL=http://localhost:8000"


def test_what_stands_in_a_contract_is_text() -> None:
    odd = "</pre><script>alert(1)</script>'"
    column = Column(name="c", type="string", allowed=(odd,), description=odd)
    page = render_page(describe({"e": {"r": schema_of(column)}}, {}, "1", False, 10), "h")
    assert "<script" not in page
    assert in_shell(blocks(page)[1])[2] == {"dataframe_records": [{"c": odd}]}


def test_a_column_of_few_values_keeps_its_type_and_may_still_be_null() -> None:
    columns = (
        Column(name="gate", type="integer", allowed=("7", "8"), nullable=True),
        Column(name="dest", type="string", allowed=("ATL", "BOS")),
    )
    page = render_page(describe({"e": {"r": schema_of(*columns)}}, {}, "1", False, 10), "h")
    cells = {
        name: re.findall(r"<td>(.*?)</td>", page.partition(f"<td><code>{name}</code>")[2])[:3]
        for name in ("gate", "dest")
    }
    assert cells == {
        "gate": ["whole number", "one of 7, 8", "null"],
        "dest": ["text", "one of ATL, BOS", ""],
    }


def test_a_usual_row_is_of_the_training_rows_within_the_limits() -> None:
    features = (
        EncodedFeature(name="dest", expression="dest", kind="category", vocabulary=("ATL", "BOS")),
        EncodedFeature(name="miles", expression="miles", kind="number", mean=1045.2346),
        EncodedFeature(name="seats", expression="seats", kind="number", mean=99.7),
    )
    schema = schema_of(
        Column(name="dest", type="string"),
        Column(name="miles", type="number"),
        Column(name="seats", type="integer", maximum=90),
        Column(name="gate", type="integer", allowed=("7", "8")),
        Column(name="rate", type="number"),
        features=features,
    )
    found = {"dest": "ATL", "miles": 1045.0, "seats": 90, "gate": 7, "rate": 0.0}
    assert row(schema, LookedUp()) == found
    keys = (Column(name="tail", type="string"), Column(name="station", type="integer"))
    looked_up = LookedUp(frozenset({"rate"}), keys)
    del found["rate"]
    assert row(schema, looked_up) == {**found, "tail": "TEXT", "station": 0}
