"""Columns that callers do not send come from feeds; while one is stale a stand-in answers, and says
so; what recovers is used again."""

import json
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import numpy as np
import pyarrow as pa
import pytest
from pages import Moving, described
from serving_case import ENDPOINT, NOON, ROW, Case, make_bundle, oip_body

from rayapp.config.serving import ServingConfig
from rayapp.errors import TamperedError
from rayapp.schemas.features import FeatureFeed, FeatureTable
from rayapp.schemas.operations import Pointer
from rayapp.schemas.traffic import ApiKey
from rayapp.serve.background import REFRESH_S
from rayapp.serve.endpoints import lookup
from rayapp.serve.feeds import LOOK_EVERY_S, Feeds, Values
from rayapp.serve.follow import release_key
from rayapp.serve.replica import Lookout
from rayapp.storage import sha256

SCORE = f"/endpoints/{ENDPOINT}/invocations"
KEYED = {k: v for k, v in ROW.items() if k not in ("temp", "distance")}
BASIC = "b" * 64
"""A release without the columns that are looked up."""
OTHER = "c" * 64
TYPES = {"temp": "number", "distance": "number", "unused": "number", "departure": "timestamp"}
VALUES = pa.table(
    {
        "carrier": ["UA", "AA"],
        "flight": [1545, 2],
        "temp": [39.0, None],
        "distance": [733.0, 100.0],
        "unused": [1.0, 2.0],
    }
)


class Store:
    """Feeds as their store has them, and a clock that the test moves."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC)
        self.clock_s = 0.0
        self.values = VALUES
        self.feed: FeatureFeed | None = None
        self.error: Exception | None = None
        self.feeds = Feeds(("trips",), self.read, self.read_values, lambda: self.clock_s)

    def publish(
        self,
        values: pa.Table = VALUES,
        keys: tuple[str, ...] = ("carrier",),
        patience_s: float | None = None,
    ) -> None:
        self.values = values
        types = {
            "temp": "number",
            "distance": "number",
            "unused": "number",
            "departure": "timestamp",
        }
        columns = [(n, types[n]) for n in values.column_names if n in types]
        table: Any = {
            "keys": keys,
            "columns": columns,
            "uri": "memory",
            "digest": str(self.now),
            "num_rows": len(values),
            "as_of": self.now,
            "stale_at": self.now + timedelta(minutes=5),
        }
        self.feed = FeatureFeed(name="trips", at=self.now, tables=(FeatureTable(**table),))
        self.look(patience_s)

    def look(self, patience_s: float | None = None) -> None:
        self.clock_s += LOOK_EVERY_S
        self.feeds.refresh(patience_s)

    def read(self, name: str) -> FeatureFeed | None:
        if self.error is not None:
            raise self.error
        return self.feed

    def read_values(self, table: FeatureTable) -> pa.Table:
        return self.values


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    for seed in (1, 2):
        make_bundle(folder / str(seed), seed=seed)
    make_bundle(folder / "basic", without=("temp", "distance"))
    return {"r1": folder / "1", "r2": folder / "2", BASIC: folder / "basic"}


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    made = Store()

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return made.now

    monkeypatch.setattr(lookup, "datetime", Clock)
    return made


def started(bundles: dict[str, Path], store: Store, **endpoint: Any) -> Case:
    own = {"feeds": ["trips"], **endpoint}
    case = Case(
        ServingConfig.model_validate({"endpoints": {ENDPOINT: own}}),
        releases=bundles,
        feeds=store.feeds,
    )
    case.promote("r1")
    case.pointers[release_key(ENDPOINT, BASIC)] = Pointer(name="x", target=BASIC, revision=0)
    case.follower.refresh()
    return case


async def score(case: Case, *rows: dict[str, Any]) -> httpx.Response:
    async with case.client() as client:
        return await client.post(SCORE, json={"dataframe_records": list(rows)})


async def test_what_is_not_sent_is_looked_up(bundles: dict[str, Path], store: Store) -> None:
    store.publish()
    case = started(bundles, store)
    whole, filled = await score(case, ROW), await score(case, KEYED)
    assert (filled.status_code, filled.json()) == (200, whole.json())
    sent, found = case.predictions.records
    assert found["inputs"] == sent["inputs"]
    assert (sent.get("feature_age_s"), found["feature_age_s"]) == (None, 0.0)
    assert case.meter.feature_reads == [True]


async def test_a_key_that_is_not_sent_is_the_callers_mistake_however_old_the_feed_is(
    bundles: dict[str, Path], store: Store
) -> None:
    store.publish()
    case = started(bundles, store)
    store.now += timedelta(hours=1)
    answer = await score(case, {k: v for k, v in KEYED.items() if k != "carrier"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "carrier")


async def test_by_columns_and_tensors_too(bundles: dict[str, Path], store: Store) -> None:
    store.publish()
    case = started(bundles, store)
    other = KEYED | {"carrier": "AA", "flight": 2}
    expected = (await score(case, ROW, other | {"temp": None, "distance": 100.0})).json()
    rows = [KEYED, other]
    split = {"columns": list(KEYED), "data": [list(row.values()) for row in rows]}
    tensors = oip_body([ROW | row for row in rows])
    tensors["inputs"] = [t for t in tensors["inputs"] if t["name"] in KEYED]
    async with case.client() as client:
        by_columns = await client.post(SCORE, json={"dataframe_split": split})
        by_tensors = await client.post(f"/v2/models/{ENDPOINT}/infer", json=tensors)
        by_name = await client.post(f"/v2/models/{ENDPOINT}/versions/r1/infer", json=tensors)
    assert by_columns.json() == (await score(case, *rows)).json() == expected
    assert by_tensors.json()["outputs"][0]["data"] == expected["predictions"]
    assert by_name.json()["outputs"] == by_tensors.json()["outputs"]


async def test_what_a_caller_sends_itself_counts(bundles: dict[str, Path], store: Store) -> None:
    store.publish()
    case = started(bundles, store)
    await score(case, KEYED | {"temp": -5.0}, KEYED)
    temps = [r["inputs"]["temp"] for r in case.predictions.records]
    distances = [r["inputs"]["distance"] for r in case.predictions.records]
    assert (temps, distances) == ([-5.0, 39.0], [733.0, 733.0])


async def test_a_key_that_nobody_knows_has_nulls(bundles: dict[str, Path], store: Store) -> None:
    store.publish(VALUES.drop_columns(["distance"]))
    case = started(bundles, store)
    for key in ("DL", None, ["a list"]):
        await score(case, {k: v for k, v in ROW.items() if k != "temp"} | {"carrier": key})
    (record,) = case.predictions.records  # of DL; a null and a list break the contract
    assert record["inputs"]["temp"] is None


async def test_a_key_may_be_sent_for_the_look_up_only(
    bundles: dict[str, Path], store: Store
) -> None:
    store.publish(pa.table({"tail": ["N1"], "temp": [39.0]}), keys=("tail",))
    case = started(bundles, store)
    row = {k: v for k, v in ROW.items() if k != "temp"}
    assert (await score(case, row | {"tail": "N1"})).json() == (await score(case, ROW)).json()
    missing = await score(case, row)
    assert missing.status_code == 422
    error = missing.json()["error"]
    assert (error["type"], error["param"]) == ("missing_column", "tail")
    assert "by which 'temp' is looked up" in error["message"]
    unknown = await score(case, row | {"tail": "N1", "tale": 1})
    assert (unknown.status_code, unknown.json()["error"]["param"]) == (422, "tale")


WRONG_KEYS = [
    (7, "7"),
    (7, 7.5),
    (7, True),
    (7, [7]),
    (7, {"a": 1}),
    ("N1", 1),
    ("N1", ["N1"]),
    (1.5, "1.5"),
    (True, 1),
]
FITTING_KEYS = [(7, 8), (7, 7.0), (7, None), ("N1", "N2"), ("N1", None), (1.5, 1)]


def by_station(known: Any) -> pa.Table:
    return pa.table({"station": [known], "temp": [39.0]})


async def score_in_every_form(case: Case, rows: list[dict[str, Any]]) -> list[httpx.Response]:
    """As records, by columns and as tensors."""
    split = {"columns": list(rows[0]), "data": [list(row.values()) for row in rows]}
    stations = {"name": "station", "datatype": "BYTES", "shape": [len(rows)]}
    tensors = oip_body([ROW | row for row in rows])["inputs"]
    tensors = [t for t in tensors if t["name"] in rows[0] and t["name"] != "station"]
    tensors.append(stations | {"data": [row["station"] for row in rows]})
    async with case.client() as client:
        by_columns = await client.post(SCORE, json={"dataframe_split": split})
        path = f"/v2/models/{ENDPOINT}/infer"
        by_tensors = await client.post(path, json={"inputs": tensors})
    return [await score(case, *rows), by_columns, by_tensors]


@pytest.mark.parametrize(("known", "sent"), WRONG_KEYS)
async def test_a_key_of_another_type_is_refused_though_it_is_no_input(
    bundles: dict[str, Path], store: Store, known: Any, sent: Any
) -> None:
    store.publish(by_station(known), keys=("station",))
    case = started(bundles, store)
    row = {k: v for k, v in ROW.items() if k != "temp"}
    rows = [row | {"station": None}, row | {"station": sent}]
    for answer in await score_in_every_form(case, rows):
        error = answer.json()["error"]
        assert (answer.status_code, error["type"]) == (422, "wrong_type")
        assert error["param"] == "station"
        assert error["message"].startswith("'station' in row 1 is ")


@pytest.mark.parametrize(("known", "sent"), FITTING_KEYS)
async def test_a_key_of_its_type_is_taken_whether_it_is_known_or_not(
    bundles: dict[str, Path], store: Store, known: Any, sent: Any
) -> None:
    store.publish(by_station(known), keys=("station",))
    case = started(bundles, store)
    row = {k: v for k, v in ROW.items() if k != "temp"} | {"station": sent}
    for answer in await score_in_every_form(case, [row]):
        assert answer.status_code == 200, answer.text
    temps = {record["inputs"]["temp"] for record in case.predictions.records}
    assert temps == {39.0 if sent == known else None}


async def test_a_binary_tensor_of_keys_has_their_type(
    bundles: dict[str, Path], store: Store
) -> None:
    store.publish(by_station(7), keys=("station",))
    case = started(bundles, store)
    said = {}
    for datatype, raw in (("INT16", np.array([7], "<i2")), ("FP64", np.array([7.5]))):
        tensors = [t for t in oip_body([ROW])["inputs"] if t["name"] != "temp"]
        size = {"binary_data_size": raw.nbytes}
        tensors.append({"name": "station", "datatype": datatype, "shape": [1], "parameters": size})
        text = json.dumps({"inputs": tensors}).encode()
        async with case.client() as client:
            answer = await client.post(
                f"/v2/models/{ENDPOINT}/infer",
                content=text + raw.tobytes(),
                headers={"inference-header-content-length": str(len(text))},
            )
        said[datatype] = answer.status_code
    assert said == {"INT16": 200, "FP64": 422}
    assert case.predictions.records[0]["inputs"]["temp"] == 39.0


@pytest.mark.parametrize("kind", [pa.date32(), pa.timestamp("us", "UTC")])
async def test_a_feed_by_a_key_that_has_no_one_spelling_cannot_be_read(
    bundles: dict[str, Path], store: Store, kind: pa.DataType
) -> None:
    dates = pa.table({"day": pa.array([1], kind), "temp": [39.0]})
    store.publish(dates, keys=("day",))
    assert store.feeds.current["trips"].problem is not None
    assert f"its key 'day' is of type {kind}" in store.feeds.current["trips"].problem


async def test_one_row_for_all_and_times(bundles: dict[str, Path], store: Store) -> None:
    at = datetime.fromisoformat(ROW["departure"])
    store.publish(pa.table({"departure": pa.array([at], pa.timestamp("us", "UTC"))}), keys=())
    case = started(bundles, store)
    row = {k: v for k, v in ROW.items() if k != "departure"}
    assert (await score(case, row)).json() == (await score(case, ROW)).json()


async def test_while_it_is_stale_another_release_answers_and_says_why(
    bundles: dict[str, Path], store: Store
) -> None:
    store.publish()
    case = started(bundles, store, fallback=[{"release": BASIC}], cache={})
    full = await score(case, KEYED)
    store.now += timedelta(minutes=5) - timedelta(microseconds=1)
    assert "x-degraded" not in (await score(case, KEYED)).headers
    store.now += timedelta(microseconds=1)
    stale = await score(case, KEYED)
    assert (stale.status_code, stale.headers["x-degraded"]) == (200, "stale:temp")
    assert stale.headers["x-release"] == BASIC
    needs_nothing_of_it = await score(case, ROW)
    assert "x-degraded" not in needs_nothing_of_it.headers
    store.publish()
    again = await score(case, KEYED)
    assert (again.json(), again.headers["x-release"]) == (full.json(), "r1")
    assert case.meter.feature_reads == [True, True, False, True]
    assert case.meter.degradations == [(ENDPOINT, "stale:temp")]
    assert case.predictions.records[2]["degraded"] == "stale:temp"
    assert case.predictions.records[2].get("feature_age_s") is None


async def test_a_stand_in_has_the_values_that_it_needs_while_they_are_fresh(
    bundles: dict[str, Path], store: Store
) -> None:
    store.publish()
    case = started(bundles | {OTHER: bundles["r2"]}, store, fallback=[{"release": OTHER}])
    case.pointers[release_key(ENDPOINT, OTHER)] = Pointer(name="x", target=OTHER, revision=0)
    case.follower.refresh()
    case.break_model()
    store.now += timedelta(minutes=1)
    filled, whole = await score(case, KEYED), await score(case, ROW)
    assert (filled.headers["x-release"], filled.headers["x-degraded"]) == (OTHER, "failed")
    assert filled.json() == whole.json()
    found, sent = case.predictions.records
    assert found["inputs"] == sent["inputs"]
    assert (found["feature_age_s"], sent.get("feature_age_s")) == (60.0, None)
    assert case.meter.feature_reads == [True]  # one request needed them
    store.now += timedelta(minutes=5)
    assert (await score(case, KEYED)).status_code == 503


async def test_of_a_stand_in_that_needs_no_feature_no_age_is_told(
    bundles: dict[str, Path], store: Store
) -> None:
    store.publish()
    case = started(bundles, store, fallback=[{"release": BASIC}])
    case.break_model()
    answer = await score(case, KEYED)
    assert (answer.headers["x-release"], answer.headers["x-degraded"]) == (BASIC, "failed")
    (record,) = case.predictions.records
    assert (record.get("feature_age_s"), "temp" in record["inputs"]) == (None, False)


async def test_long_requests_are_filled_beside_the_event_loop(
    bundles: dict[str, Path], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.publish()
    case = started(bundles, store)
    threads: list[threading.Thread] = []
    find = lookup._Filler._found

    def noting(values: Values, key: Any) -> Any:
        threads.append(threading.current_thread())
        return find(values, key)

    monkeypatch.setattr(lookup._Filler, "_found", staticmethod(noting))
    await score(case, KEYED)
    assert (await score(case, *[KEYED] * 1000)).status_code == 200
    is_here = [thread is threading.current_thread() for thread in threads]
    assert (len(is_here), is_here[0], any(is_here[1:])) == (1001, True, False)
    assert case.meter.feature_reads == [True, True]


@pytest.mark.parametrize("is_published", [True, False])
async def test_a_declared_answer_stands_in_for_a_row_without_its_features(
    bundles: dict[str, Path], store: Store, is_published: bool
) -> None:
    """What is missing may be null there, and what was sent must still be in order."""
    if is_published:
        store.publish(pa.table({"tail": ["N1"], "temp": [39.0]}), keys=("tail",))
        store.now += timedelta(hours=1)
    case = started(bundles, store, fallback=[{"scores": [0.75, 0.25]}])
    row = {k: v for k, v in ROW.items() if k != "temp"} | ({"tail": "N1"} if is_published else {})
    answer = await score(case, row)
    assert (answer.json(), answer.headers["x-degraded"]) == ({"predictions": [0.25]}, "stale:temp")
    wrong = await score(case, row | {"flight": 0})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (422, "flight")
    lacks = await score(case, {k: v for k, v in row.items() if k != "flight"})
    assert lacks.status_code == 503  # a feed may have had it


async def test_stale_without_a_stand_in_is_a_503_that_names_it(
    bundles: dict[str, Path], store: Store
) -> None:
    store.publish()
    case = started(bundles, store)
    store.now += timedelta(hours=1)
    answer = await score(case, KEYED)
    assert (answer.status_code, case.meter.feature_reads) == (503, [False])
    assert "'temp' is of" in answer.json()["error"]["message"]


async def test_a_feed_that_was_never_published_is_stale(
    bundles: dict[str, Path], store: Store
) -> None:
    case = started(bundles, store)
    answer = await score(case, KEYED)
    assert answer.status_code == 503
    assert "feed 'trips' was never published" in answer.json()["error"]["message"]
    assert (await score(case, ROW)).status_code == 200


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (OSError("connection to bucket.internal refused"), "the server's log says why"),
        (TamperedError("trips.parquet is not what was published", "publish again"), "is not what"),
    ],
)
async def test_a_feed_that_could_not_be_read_is_not_told_as_one_that_nobody_published(
    bundles: dict[str, Path], store: Store, error: Exception, why: str
) -> None:
    case = started(bundles, store)
    await score(case, KEYED)  # what a look-up has to do is planned anew below
    store.error = error
    store.look()
    answer = await score(case, KEYED)
    async with case.client() as client:
        problem = (await client.get("/")).json()["problems"]["feeds/trips"]
    assert answer.status_code == 503
    for told in (answer.json()["error"]["message"], problem):
        assert "cannot be read: " in told
        assert why in told
    store.error = None
    store.look()
    async with case.client() as client:
        problem = (await client.get("/")).json()["problems"]["feeds/trips"]
    assert problem == "it was never published"
    assert "was never published" in (await score(case, KEYED)).json()["error"]["message"]


async def test_a_feed_that_cannot_be_read_again_is_a_problem_before_it_is_stale(
    bundles: dict[str, Path], store: Store
) -> None:
    store.publish()
    case = started(bundles, store)
    store.error = OSError("away")
    store.look()
    assert (await score(case, KEYED)).status_code == 200
    async with case.client() as client:
        problems = (await client.get("/")).json()["problems"]
    assert problems == {"feeds/trips": "it cannot be read: the server's log says why"}


async def test_a_cached_answer_is_of_the_values_it_was_given_for(
    bundles: dict[str, Path], store: Store
) -> None:
    store.publish()
    case = started(bundles, store, cache={})
    for _ in range(2):
        await score(case, KEYED)
    store.now += timedelta(seconds=1)
    store.publish(VALUES.set_column(2, "temp", pa.array([-20.0, 0.0])))
    await score(case, KEYED)
    assert case.meter.lookups == [False, True, False]
    assert [r["inputs"]["temp"] for r in case.predictions.records] == [39.0, 39.0, -20.0]


async def test_the_arm_is_logged_all_the_same(bundles: dict[str, Path], store: Store) -> None:
    store.publish()
    arms = {"new": {"release": "f" * 64, "share": 1}}
    releases = bundles | {"f" * 64: bundles["r2"]}
    case = started(releases, store, split={"salt": "s", "arms": arms})
    case.pointers[release_key(ENDPOINT, "f" * 64)] = Pointer(name="x", target="f" * 64, revision=0)
    case.follower.refresh()
    assert (await score(case, KEYED)).status_code == 200
    assert case.predictions.records[0]["arm"] == "new"


def test_a_store_that_is_away_leaves_what_was_read(store: Store, caplog: Any) -> None:
    store.publish()
    before = store.feeds.current["trips"]
    for _ in range(2):
        store.error = OSError("away")
        for _ in range(3):
            store.look()
        assert store.feeds.current["trips"].tables is before.tables
        store.error = None
        store.look()
    assert caplog.text.count("feed_not_read") == 2  # once an outage
    store.feeds.refresh()  # too early to look again
    store.now += timedelta(seconds=1)
    store.publish()
    assert store.feeds.current["trips"].digest != before.digest


def test_a_table_that_is_being_read_holds_up_no_key_and_no_champion(
    bundles: dict[str, Path], store: Store
) -> None:
    store.publish()
    case = started(bundles, store)
    before, gate = store.feeds.current["trips"], threading.Event()

    def slow(table: FeatureTable) -> pa.Table:
        assert gate.wait(10)
        return store.values

    store.feeds._read_table = slow
    store.now += timedelta(seconds=1)
    store.publish(patience_s=0)
    secret = "s" * 20
    digest = sha256(secret.encode())
    case.keys["0" * 12] = ApiKey(
        key_id="0" * 12, tenant="acme", role="caller", secret_sha256=digest
    )
    case.promote("r2")
    lookout = Lookout(case.config, case.ring, case.follower, {}, None, store.feeds)
    lookout.look(REFRESH_S)
    assert case.follower.current[ENDPOINT].release_id == "r2"
    principal = case.ring.identify(f"Bearer rk_{'0' * 12}_{secret}".encode())
    assert principal is not None
    assert store.feeds.current["trips"] is before
    gate.set()
    lookout.look(None)
    assert store.feeds.current["trips"].digest != before.digest


def test_values_are_found_by_their_keys() -> None:
    table: Any = {"uri": "", "digest": "", "num_rows": 2, "as_of": NOON, "stale_at": NOON}
    keyed = FeatureTable(keys=("carrier", "flight"), columns=(("temp", "number"),), **table)
    assert Values.of(keyed, VALUES).rows == {("UA", 1545): (39.0,), ("AA", 2): (None,)}
    for_all = FeatureTable(keys=(), columns=(("temp", "number"),), **table)
    assert Values.of(for_all, VALUES.slice(0, 1)).rows == {(): (39.0,)}


async def test_a_release_that_is_asked_by_name_gets_the_columns_that_it_has(
    bundles: dict[str, Path], store: Store
) -> None:
    """As the description says of each; the champion has more of them."""
    store.publish()
    case = started(bundles, store)
    sent = {}
    async with case.client() as client:
        document = (await client.get("/openapi.json")).json()
        for release in ("r1", BASIC):
            path = f"/v2/models/{ENDPOINT}/versions/{release}/infer"
            content = document["paths"][path]["post"]["requestBody"]["content"]
            example = content["application/json"]["example"]
            answer = await client.post(path, json=example)
            assert (answer.status_code, answer.headers["x-release"]) == (200, release), answer.text
            sent[release] = {tensor["name"] for tensor in example["inputs"]}
    assert sent["r1"] == sent[BASIC] == ROW.keys() - {"temp", "distance"}


async def test_the_description_says_what_need_not_be_sent(
    bundles: dict[str, Path], store: Store
) -> None:
    store.publish(pa.table({"tail": ["N1"], "temp": [39.0]}), keys=("tail",))
    case = started(bundles, store)
    async with case.client() as client:
        document = (await client.get("/openapi.json")).json()
    row = document["components"]["schemas"][ENDPOINT]
    assert set(ROW) - set(row["required"]) == {"temp"}
    assert {"temp", "tail"} <= row["properties"].keys()
    assert row["properties"]["tail"]["type"] == ["string", "null"]
    path = document["paths"][f"/v2/models/{ENDPOINT}/infer"]["post"]
    body = path["requestBody"]["content"]["application/json"]["schema"]
    sent = {k: v for k, v in ROW.items() if k != "temp"}
    tensors = oip_body([ROW])
    without = {"inputs": [t for t in tensors["inputs"] if t["name"] in sent]}
    validator = jsonschema.Draft202012Validator(body)
    assert [validator.is_valid(given) for given in (tensors, without)] == [True, True]
    assert not validator.is_valid({"inputs": without["inputs"][1:]})


@pytest.mark.parametrize("num_reads", range(1, 5))
async def test_the_description_is_of_one_champion(
    bundles: dict[str, Path], store: Store, num_reads: int
) -> None:
    """Another one takes its place in a thread, at any moment."""
    store.publish()
    case = started(bundles, store)
    before = dict(case.follower.current)
    after = {**before, ENDPOINT: replace(before[ENDPOINT], release_id="r2")}
    case.app._directory._follower = Moving(before, after, num_reads)  # type: ignore[assignment]
    document = await described(case.client())
    assert set(document["components"]["schemas"][ENDPOINT]["required"]) == set(KEYED)
