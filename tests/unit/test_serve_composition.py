"""What a serving config puts around a champion, through the whole gateway with real bundles."""

import asyncio
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError
from serving_case import ENDPOINT, ROW, Case, in_parallel, make_bundle, oip_body

from rayapp.config.serving import ServingConfig
from rayapp.schemas.operations import Pointer
from rayapp.serve.follow import release_key
from serve_apps.predict import named_releases

SCORE = f"/endpoints/{ENDPOINT}/invocations"
INFER = f"/v2/models/{ENDPOINT}/infer"
BODY = {"dataframe_records": [ROW]}
OTHER = "b" * 64
THIRD = "c" * 64


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    made = {"r1": folder / "1", OTHER: folder / "2", THIRD: folder / "3"}
    for seed, path in enumerate(made.values(), start=1):
        make_bundle(path, seed=seed)
    return made


def started(bundles: dict[str, Path], **endpoint: Any) -> Case:
    """A gateway for one endpoint with this configuration, its releases loaded."""
    config = ServingConfig.model_validate({"endpoints": {ENDPOINT: endpoint}})
    case = Case(config, releases=bundles)
    fixed = named_releases(config)
    case.pointers.update(fixed)
    case.promote("r1")
    case.follower.refresh()
    return case


async def score(case: Case, headers: Mapping[str, str] | None = None) -> httpx.Response:
    async with case.client() as client:
        return await client.post(SCORE, json=BODY, headers=headers)


async def test_a_declared_answer_stands_in_and_is_labelled(bundles: dict[str, Path]) -> None:
    case = started(bundles, fallback=[{"scores": [0.8, 0.2]}])
    good = await score(case)
    assert (good.headers["x-release"], good.headers.get("x-degraded")) == ("r1", None)
    case.break_model()
    degraded = await score(case)
    assert degraded.status_code == 200
    assert degraded.json()["predictions"] == pytest.approx([0.2])
    assert (degraded.headers["x-release"], degraded.headers["x-degraded"]) == ("static", "failed")
    kept = case.predictions.records
    assert [(r["release_id"], r["degraded"]) for r in kept] == [("r1", None), ("static", "failed")]
    assert case.meter.degradations == [(ENDPOINT, "failed")]


async def test_another_release_stands_in_first(bundles: dict[str, Path]) -> None:
    case = started(bundles, fallback=[{"release": OTHER}, {"scores": [0.8, 0.2]}])
    case.break_model()
    assert (await score(case)).headers["x-release"] == OTHER
    case.break_model(release_key(ENDPOINT, OTHER))
    assert (await score(case)).headers["x-release"] == "static"


async def test_a_row_that_breaks_the_contract_gets_no_stand_in(bundles: dict[str, Path]) -> None:
    case = started(bundles, fallback=[{"scores": [0.8, 0.2]}])
    async with case.client() as client:
        refused = await client.post(SCORE, json={"dataframe_records": [{**ROW, "carrier": "ZZ"}]})
        case.break_model()
        broken = await client.post(SCORE, json={"dataframe_records": [{**ROW, "carrier": "ZZ"}]})
    assert (refused.status_code, broken.status_code) == (422, 422)


@pytest.mark.parametrize(
    ("row", "param"),
    [
        ({**ROW, "carrier": "ZZ"}, "carrier"),
        ({name: value for name, value in ROW.items() if name != "temp"}, "temp"),
    ],
)
async def test_a_mistake_is_the_callers_also_where_the_champion_has_no_time(
    bundles: dict[str, Path], row: Mapping[str, Any], param: str
) -> None:
    case = started(bundles, timeout_ms=0.001, fallback=[{"scores": [0.8, 0.2]}])
    assert (await score(case)).headers["x-degraded"] == "timeout"
    async with case.client() as client:
        refused = await client.post(SCORE, json={"dataframe_records": [row]})
    assert (refused.status_code, refused.json()["error"]["param"]) == (422, param)


async def test_a_static_answer_of_a_wrong_width_is_told(
    bundles: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    case = started(bundles, fallback=[{"scores": [0.8]}])
    case.break_model()
    response = await score(case)
    assert response.status_code == 500
    assert "has 1 score(s), 'flight-delay' gives 2" in caplog.text


async def test_a_release_that_fails_is_not_asked_for_a_while(bundles: dict[str, Path]) -> None:
    case = started(bundles, breaker={"min_requests": 2}, fallback=[{"scores": [0.8, 0.2]}])
    case.break_model()
    reasons = [(await score(case)).headers["x-degraded"] for _ in range(4)]
    assert reasons == ["failed", "failed", "unavailable", "unavailable"]
    assert case.meter.breakers == [(ENDPOINT, "open")]


async def test_units_stay_with_their_arm_and_the_log_knows_it(bundles: dict[str, Path]) -> None:
    case = started(bundles, split={"salt": "s", "arms": {"new": {"release": OTHER, "share": 0.5}}})
    units = [f"unit-{n}" for n in range(20)]
    first = [(await score(case, {"x-unit-id": unit})).headers["x-release"] for unit in units]
    again = [(await score(case, {"x-unit-id": unit})).headers["x-release"] for unit in units]
    assert first == again
    assert set(first) == {"r1", OTHER}
    arms = {"r1": "champion", OTHER: "new"}
    kept = [
        (r["release_id"], r["arm"], r["propensity"], r["unit"]) for r in case.predictions.records
    ]
    assert kept == [
        (release, arms[release], 0.5, unit)
        for release, unit in zip(first + again, units + units, strict=True)
    ]


async def test_an_arm_may_have_fewer_columns_where_it_is_another_endpoint(
    bundles: dict[str, Path], tmp_path: Path
) -> None:
    """Callers go by the columns of the endpoint that they ask."""
    make_bundle(tmp_path / "basic", without=("temp",))
    split = {"salt": "s", "arms": {"basic": {"endpoint": "basic", "share": 1}}}
    config = ServingConfig.model_validate({"endpoints": {ENDPOINT: {"split": split}}})
    releases = bundles | {"basic-1": tmp_path / "basic"}
    case = Case(config, releases=releases, endpoints={"basic-1": "basic"})
    case.promote("r1")
    case.pointers["basic"] = Pointer(name="basic", target="basic-1", revision=0)
    case.follower.refresh()
    answer = await score(case)
    assert (answer.status_code, answer.headers["x-release"]) == (200, "basic-1")


async def test_a_cached_answer_is_of_the_protocol_that_asked(bundles: dict[str, Path]) -> None:
    case = started(bundles, cache={})
    body = oip_body([ROW])
    async with case.client() as client:
        asked = [await client.post(INFER, json=body) for _ in range(2)]
        other = await client.post(SCORE, json=body)
    assert [answer.status_code for answer in asked] == [200, 200]
    assert other.status_code == 422  # rows with the columns `name`, `shape`, …
    assert case.meter.lookups == [False, True, False]


async def test_nobody_is_blamed_for_what_an_arm_did(bundles: dict[str, Path]) -> None:
    case = started(bundles, split={"salt": "s", "arms": {"new": {"release": OTHER, "share": 1}}})
    case.break_model(release_key(ENDPOINT, OTHER))
    failed = await score(case)
    assert failed.status_code == 500
    assert "x-release" not in failed.headers
    assert case.meter.requests == [(ENDPOINT, "none", 500)]


async def test_an_endpoint_without_a_release_keeps_nobody_from_the_others(
    bundles: dict[str, Path],
) -> None:
    config = ServingConfig.model_validate({"endpoints": {ENDPOINT: {}, "not-yet": {}}})
    case = Case(config, releases=bundles)
    async with case.client() as client:
        assert (await client.get("/v2/health/ready")).status_code == 503
        case.promote("r1")
        case.follower.refresh()
        assert (await client.get("/v2/health/ready")).status_code == 200
        missing = await client.post("/endpoints/not-yet/invocations", json=BODY)
    assert missing.status_code == 503
    assert "rayapp submit" in missing.json()["error"]["next"]


async def test_it_is_ready_once_its_arms_are(bundles: dict[str, Path]) -> None:
    case = started(bundles, split={"salt": "s", "arms": {"new": {"release": OTHER, "share": 0.5}}})
    async with case.client() as client:
        assert (await client.get("/v2/health/ready")).status_code == 200
        case.follower.current = {ENDPOINT: case.follower.current[ENDPOINT]}
        assert (await client.get("/v2/health/ready")).status_code == 503


async def test_a_path_may_name_the_release(bundles: dict[str, Path]) -> None:
    case = started(bundles, split={"salt": "s", "arms": {"new": {"release": OTHER, "share": 0.5}}})
    path = f"/v2/models/{ENDPOINT}/versions"
    async with case.client() as client:
        metadata = await client.get(f"{path}/{OTHER}")
        unknown = await client.get(f"{path}/{THIRD}")
        short = await client.get(f"{path}/{OTHER[:12]}")
        too_short = await client.get(f"{path}/{OTHER[:5]}")
        both = await client.get(f"/v2/models/{ENDPOINT}")
        ready = await client.get(f"{path}/{OTHER}/ready")
        asked = [await client.post(f"{path}/{OTHER}/infer", json=oip_body([ROW])) for _ in range(5)]
    assert metadata.json()["versions"] == short.json()["versions"] == [OTHER]
    assert too_short.status_code == 404
    assert both.json()["versions"] == ["r1", OTHER]
    assert ready.headers["x-release"] == OTHER
    assert {response.headers["x-release"] for response in asked} == {OTHER}
    assert (unknown.status_code, unknown.json()["error"]["type"]) == (404, "unknown_version")


async def test_a_shadow_is_recorded_apart(bundles: dict[str, Path]) -> None:
    case = started(bundles, shadow={"release": OTHER})
    assert (await score(case)).headers["x-release"] == "r1"
    while len(case.predictions.records) < 2:
        await asyncio.sleep(0)
    live, shadow = case.predictions.records
    assert (live["endpoint"], live["release_id"]) == (ENDPOINT, "r1")
    assert (shadow["endpoint"], shadow["release_id"]) == (f"{ENDPOINT}.shadow", OTHER)
    assert live["request_id"] == shadow["request_id"]


async def test_a_champion_that_takes_too_long_is_stood_in_for(bundles: dict[str, Path]) -> None:
    """With a cache, where several wait for one answer: each of them is answered in time."""
    case = started(bundles, timeout_ms=40, fallback=[{"scores": [0.8, 0.2]}], cache={})
    never = asyncio.Event()

    async def wait(x_NF: Any, deadline_s: float = math.inf) -> Any:
        await never.wait()

    case.follower.current[ENDPOINT].scorer.predict = wait  # type: ignore[method-assign]
    answers = await in_parallel(*[score(case) for _ in range(4)])
    assert {(a.status_code, a.headers["x-degraded"]) for a in answers} == {(200, "timeout")}


async def test_equal_requests_are_answered_from_the_cache(bundles: dict[str, Path]) -> None:
    case = started(bundles, cache={})
    first, second = await score(case), await score(case)
    assert first.json() == second.json()
    assert case.meter.lookups == [False, True]
    assert len(case.predictions.records) == 2
    assert len({r["request_id"] for r in case.predictions.records}) == 2
    case.promote(OTHER)
    case.follower.refresh()
    third = await score(case)
    assert third.headers["x-release"] == OTHER
    assert third.json() != first.json()


async def test_an_endpoint_that_only_stands_in_is_not_offered(bundles: dict[str, Path]) -> None:
    case = started(bundles, fallback=[{"endpoint": "backup"}])
    case.pointers["backup"] = Pointer(name="champion/backup", target=OTHER, revision=1)
    case.sealed_for = "backup"
    case.follower.refresh()
    case.break_model()
    degraded = await score(case)
    assert (degraded.headers["x-release"], degraded.headers["x-degraded"]) == (OTHER, "failed")
    async with case.client() as client:
        assert (await client.get("/v2/models/backup")).status_code == 404
        assert list((await client.get("/")).json()["endpoints"]) == [ENDPOINT]
    assert case.predictions.records[-1]["endpoint"] == ENDPOINT


# deadlines


@pytest.mark.parametrize("given", ["soon", "-1", "1.5", "", "9" * 10])
async def test_a_deadline_that_is_none_is_refused(bundles: dict[str, Path], given: str) -> None:
    response = await score(started(bundles), {"x-deadline-ms": given})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "x-deadline-ms"


async def test_what_is_late_is_not_worked_on(bundles: dict[str, Path]) -> None:
    case = started(bundles)
    late = await score(case, {"x-deadline-ms": "0"})
    assert (late.status_code, late.json()["error"]["type"]) == (504, "deadline_exceeded")
    assert "within less than 1 ms" in late.json()["error"]["message"]
    assert case.meter.batches == []
    assert case.predictions.records == []
    assert (await score(case, {"x-deadline-ms": "5000"})).status_code == 200


async def test_a_request_in_the_queue_past_its_deadline_reaches_no_model(
    bundles: dict[str, Path],
) -> None:
    case = started(bundles)
    batcher: Any = case.follower.current[ENDPOINT].scorer
    batcher._waiting._clock_s = lambda: 1e12
    response = await score(case)
    assert response.status_code == 504
    assert case.meter.batches == []


@pytest.mark.parametrize(
    ("headers", "num_rows", "last"),
    [({}, 1, 503), ({"x-deadline-ms": "20"}, 1, 504), ({}, 500, 504)],
)
async def test_a_model_that_hangs_is_not_asked_by_everybody(
    bundles: dict[str, Path], headers: dict[str, str], num_rows: int, last: int
) -> None:
    """Unless nobody gave it all the time that there is, or their own rows may be why it takes so
    long."""
    endpoints = {ENDPOINT: {"breaker": {"min_requests": 3}}}
    config = ServingConfig.model_validate({"endpoints": endpoints, "deadline_ms": 500})
    case = Case(config, releases=bundles)
    case.promote("r1")
    case.follower.refresh()

    async def hang(*args: Any) -> None:
        await asyncio.Event().wait()

    scorer: Any = case.follower.current[ENDPOINT].scorer
    scorer.predict = hang
    body = {"dataframe_records": BODY["dataframe_records"] * num_rows}
    async with case.client() as client:
        asked = [client.post(SCORE, json=body, headers=headers) for _ in range(3)]
        assert {answer.status_code for answer in await asyncio.gather(*asked)} == {504}
        assert (await client.post(SCORE, json=body, headers=headers)).status_code == last


async def test_a_body_that_does_not_come_is_not_waited_for(bundles: dict[str, Path]) -> None:
    config = ServingConfig(deadline_ms=20)
    case = Case(config, releases=bundles)
    case.promote("r1")
    case.follower.refresh()
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": SCORE, "headers": []}
    await case.app(scope, receive, send)
    assert sent[0]["status"] == 408
    assert case.app.num_ongoing == 0


# configs


BAD: list[tuple[dict[str, Any], str]] = [
    ({"timeout_ms": 50}, "`timeout_ms` has no effect without `fallback`"),
    ({"timeout_ms": 10_000, "fallback": [{"scores": [1.0]}]}, "has no effect with deadline_ms"),
    ({"fallback": [{"scores": [1.0]}, {"release": OTHER}]}, "is never asked"),
    ({"fallback": [{}]}, "name one of"),
    ({"fallback": [{"endpoint": ENDPOINT}]}, "names itself"),
    ({"split": {"salt": "s", "arms": {}}}, "at least 1"),
    ({"split": {"salt": "s", "arms": {"a": {"release": OTHER, "share": 1.5}}}}, "less than or"),
    ({"split": {"salt": "s", "arms": {"champion": {"release": OTHER, "share": 0.5}}}}, "cannot be"),
    (
        {
            "split": {
                "salt": "s",
                "arms": {
                    "a": {"release": OTHER, "share": 0.6},
                    "b": {"release": THIRD, "share": 0.6},
                },
            }
        },
        "1.2 together",
    ),
    ({"shadow": {"share": 0.5}}, "name either"),
    ({"shadow": {"release": "abc"}}, "pattern"),
    ({"split": {"salt": "", "arms": {"x": {"endpoint": "b", "share": 0.1}}}}, "at least 1 char"),
    ({"cache": {"max_byte": 5}}, "Extra inputs"),
]


@pytest.mark.parametrize(("endpoint", "says"), BAD)
def test_a_setting_without_effect_is_an_error(endpoint: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(says)):
        ServingConfig.model_validate({"endpoints": {ENDPOINT: endpoint}})
