"""Rules: who answers which request and with what probability, alone and through the gateway."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from serving_case import ENDPOINT, ROW, Case, make_bundle

from rayapp.config.routing import FlagConfig, FlagsConfig, RuleConfig
from rayapp.config.serving import ServingConfig
from rayapp.errors import WorkspaceError
from rayapp.govern.flags import current_flags, publish_flags
from rayapp.govern.keys import create_key
from rayapp.ledger import Ledger
from rayapp.schemas.model import BundleSchema
from rayapp.serve.endpoints.base import Ask, Assignment, Endpoint, Reply
from rayapp.serve.endpoints.rules import Rule, Rules
from rayapp.serve.endpoints.split import Arm, Split
from rayapp.serve.flags import Flags
from rayapp.serve.wire.protocols import Parsed
from rayapp.serve.wire.validation import Rows
from rayapp.storage import Workspace
from serve_apps.predict import named_releases

UNITS = [f"u{n}" for n in range(4000)]
SCHEMA = BundleSchema(
    name="s", family="f", task="binary", label="y", classes=("0", "1"), inputs=(), features=()
)
THREE = {"off": 0, "a": 1, "b": 2}


class Named:
    """Answers as release `name`."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def predict(self, ask: Ask) -> Reply:
        rows = Rows(np.zeros((1, 1), np.float32), ({},), (None,))
        return Reply(self.name, SCHEMA, rows, np.ones((1, 2), np.float32))


def rule(name: str, **when: Any) -> Rule[Ask, Reply]:
    config = RuleConfig.model_validate({"name": name, "endpoint": "other", "when": when})
    return Rule.of(config, Named(name))


def flags(**given: dict[str, Any]) -> Flags:
    made = Flags(lambda: {name: FlagConfig.model_validate(f) for name, f in given.items()})
    made.refresh()
    return made


def shares(salt: str | None = None, **of: float) -> dict[str, Any]:
    return {"variants": THREE, "default": "off", "targeting": [{"shares": of}], "salt": salt}


async def answered(
    endpoint: Endpoint, unit: str = "u", tenant: str | None = None, **headers: str
) -> tuple[str, Assignment | None]:
    wire = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    ask = Ask("q", b"{}", Parsed({}, 1), headers={b"x-unit-id": unit.encode()} | wire)
    ask.tenant = tenant
    reply = await endpoint.predict(ask)
    return reply.release_id, ask.assignment


async def test_the_first_rule_that_holds_says_who_answers() -> None:
    endpoint = Rules(
        Named("rest"),
        [
            rule("both", tenants=["acme"], headers={"X-Channel": ["app", "web"]}),
            rule("tenant", tenants=["acme", "globex"]),
            rule("header", headers={"x-channel": "app"}),
        ],
    )
    cases: list[tuple[str | None, dict[str, str], str]] = [
        ("acme", {"x_channel": "web"}, "both"),
        ("acme", {"x_channel": "Web"}, "tenant"),
        ("globex", {"x_channel": "app"}, "tenant"),
        (None, {"x_channel": "app"}, "header"),
        ("other", {"x_tenant": "acme"}, "rest"),
        (None, {}, "rest"),
    ]
    for tenant, headers, name in cases:
        release, assignment = await answered(endpoint, "u", tenant, **headers)
        assert release == name
        arm = "champion" if name == "rest" else name
        assert assignment == Assignment(arm, 1.0, "u")


async def test_a_rule_takes_a_request_before_a_split_does() -> None:
    split = Split(Named("rest"), [Arm("new", 0.5, Named("new"))], "s")
    endpoint = Rules(split, [rule("staff", headers={"x-channel": "staff"})])
    for unit in UNITS[:20]:
        assert (await answered(endpoint, unit, x_channel="staff"))[0] == "staff"
        release, assignment = await answered(endpoint, unit)
        arm = "champion" if release == "rest" else release
        assert assignment == Assignment(arm, 0.5, unit)


async def test_rows_of_several_units_are_taken_by_rules_and_divided_by_nobody() -> None:
    split = Split(Named("rest"), [Arm("new", 1.0, Named("new"))], "s")
    endpoint = Rules(
        split,
        [rule("flagged", flag="f", **{"is": "a"}), rule("staff", tenants=["staff"])],
        flags(f=shares(a=1.0)),
    )
    parsed = Parsed({"id": ["u1", "u2"]}, 2)
    for tenant, arm in (("staff", "staff"), ("other", "champion")):
        ask = Ask("q", b"{}", parsed, tenant=tenant)
        await endpoint.predict(ask)
        assert ask.assignment == Assignment(arm, 1.0, None)


async def test_a_rule_on_a_flag_that_is_not_there_takes_nothing() -> None:
    asking = [rule("flagged", flag="f", **{"is": "a"}), rule("typo", flag="g", **{"is": "z"})]
    for known in (None, flags(), flags(g=shares(a=0.5))):
        release, assignment = await answered(Rules(Named("rest"), asking, known))
        assert (release, assignment) == ("rest", Assignment("champion", 1.0, "u"))


async def test_propensities_are_those_of_the_whole_way() -> None:
    """Each arm gets about the share of units that its propensity says, and they make up one."""
    known = flags(f=shares(a=0.3, b=0.2), g=shares(a=0.5))
    split = Split(Named("rest"), [Arm("split", 0.4, Named("split"))], "s")
    asking = [
        rule("f-a", flag="f", **{"is": "a"}),
        rule("never", tenants=["acme"]),
        rule("g-a", flag="g", **{"is": "a"}),
        rule("f-b", flag="f", **{"is": "b"}),
    ]
    endpoint = Rules(split, asking, known)
    taken: Counter[str] = Counter()
    told: dict[str, float] = {}
    for unit in UNITS:
        _, assignment = await answered(endpoint, unit)
        assert assignment is not None
        taken[assignment.arm] += 1
        assert told.setdefault(assignment.arm, assignment.propensity) == assignment.propensity
    assert told == pytest.approx(
        {"f-a": 0.3, "g-a": 0.35, "f-b": 0.1, "split": 0.1, "champion": 0.15}
    )
    assert sum(told.values()) == pytest.approx(1)
    assert {arm: n / len(UNITS) for arm, n in taken.items()} == pytest.approx(told, abs=0.03)


async def test_a_rule_that_a_request_is_not_for_leaves_the_propensity() -> None:
    known = flags(f=shares(a=0.3))
    asking = [
        rule("acme", tenants=["acme"], flag="f", **{"is": "a"}),
        rule("off", flag="f", **{"is": "off"}),
    ]
    endpoint = Rules(Named("rest"), asking, known)
    found: dict[str, set[Assignment | None]] = {"acme": set(), "other": set()}
    for tenant, assignments in found.items():
        for unit in UNITS[:50]:
            _, assignment = await answered(endpoint, unit, tenant)
            assert assignment is not None
            assignments.add(
                replace(assignment, propensity=round(assignment.propensity, 6), unit="")
            )
    assert found["acme"] == {Assignment("acme", 0.3, ""), Assignment("off", 0.7, "")}
    assert found["other"] == {Assignment("champion", 0.3, ""), Assignment("off", 0.7, "")}


# through the gateway

SCORE = f"/endpoints/{ENDPOINT}/invocations"
NEW, STAFF = "b" * 64, "c" * 64
CONFIG = {
    "endpoints": {
        ENDPOINT: {
            "rules": [
                {"name": "acme", "release": STAFF, "when": {"tenants": ["acme"]}},
                {"name": "next", "release": NEW, "when": {"flag": "model", "is": "next"}},
            ]
        }
    }
}


def published(**model: Any) -> FlagsConfig:
    variants = {"current": "trees", "next": "neural"}
    model = {"variants": variants, "default": "current"} | model
    return FlagsConfig.model_validate({"name": "s", "flags": {"model": model}})


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger.of(Workspace(str(tmp_path)), "test")


@pytest.fixture
def case(tmp_path: Path, ledger: Ledger) -> Case:
    releases = {"r1": tmp_path / "1", NEW: tmp_path / "2", STAFF: tmp_path / "3"}
    for seed, path in enumerate(releases.values(), start=1):
        make_bundle(path, seed=seed)
    config = ServingConfig.model_validate(CONFIG)
    case = Case(config, releases=releases, flags=Flags(partial(current_flags, ledger)))
    case.pointers.update(named_releases(config))
    case.promote("r1")
    case.follower.refresh()
    return case


async def score(case: Case, headers: Mapping[str, str] | None = None) -> httpx.Response:
    body = {"dataframe_records": [ROW]}
    async with case.client() as client:
        return await client.post(SCORE, json=body, headers={"x-unit-id": "u"} | dict(headers or {}))


async def test_a_flag_takes_effect_without_a_rebuild(case: Case, ledger: Ledger) -> None:
    assert case.flags is not None
    text, key = create_key(ledger, "acme", "caller")
    case.keys[key.key_id] = key
    case.ring.refresh()
    problems = []
    for config in (
        None,
        published(targeting=[{"shares": {"next": 1.0}}]),
        published(is_enabled=False, targeting=[{"shares": {"next": 1.0}}]),
        published(variants={"current": "trees"}),
    ):
        if config is not None:
            publish_flags(ledger, config)
        case.flags.refresh()
        await score(case)
        async with case.client() as client:
            problems.append((await client.get("/")).json()["problems"])
            assert (await client.get("/v2/health/ready")).status_code == 200
    await score(case, {"authorization": f"Bearer {text}"})
    kept = case.predictions.records
    assert [(r["release_id"], r["arm"], r["propensity"], r["unit"]) for r in kept] == [
        ("r1", "champion", 1.0, "u"),
        (NEW, "next", 1.0, "u"),
        ("r1", "champion", 1.0, "u"),
        ("r1", "champion", 1.0, "u"),
        (STAFF, "acme", 1.0, "u"),
    ]
    assert problems == [
        {f"{ENDPOINT}/next": "flag 'model' is not published"},
        {},
        {},
        {f"{ENDPOINT}/next": "flag 'model' has no variant 'next'"},
    ]


async def test_flags_that_cannot_be_read_are_a_problem_and_hold_on(
    case: Case, ledger: Ledger
) -> None:
    def fail() -> Mapping[str, FlagConfig]:
        raise WorkspaceError("the ledger is away", "wait")

    assert case.flags is not None
    publish_flags(ledger, published(default="next"))
    case.flags.refresh()
    case.flags._read_flags = fail
    case.flags.refresh()
    assert (await score(case)).headers["x-release"] == NEW
    async with case.client() as client:
        problems = (await client.get("/")).json()["problems"]
    assert problems == {"_flags": "the flags cannot be read: the server's log says why"}


async def test_it_is_ready_once_the_rules_releases_are(case: Case) -> None:
    async with case.client() as client:
        current = case.follower.current
        case.follower.current = {key: current[key] for key in current if STAFF not in key}
        assert (await client.get("/v2/health/ready")).status_code == 503
        case.follower.current = current
        assert (await client.get("/v2/health/ready")).status_code == 200
