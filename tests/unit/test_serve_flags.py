"""Feature flags: what the provider tells OpenFeature's client, and what a gateway keeps of them."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openfeature import api
from openfeature.client import OpenFeatureClient
from openfeature.evaluation_context import EvaluationContext
from openfeature.exception import ErrorCode
from openfeature.flag_evaluation import FlagEvaluationDetails, Reason

from rayapp.config.routing import FlagConfig, FlagsConfig, RuleConfig
from rayapp.errors import WorkspaceError
from rayapp.govern.flags import current_flags, publish_flags
from rayapp.ledger import Ledger
from rayapp.serve.flag_provider import Flag, Provider
from rayapp.serve.flags import Decisions, Flags
from rayapp.storage import Workspace

UNITS = [f"u{n}" for n in range(2000)]
VARIANTS = {"off": "old", "on": "new", "half": "both"}
STAFF = {"when": {"headers": {"X-Channel": ["staff", "test"]}}, "variant": "on"}
ACME = {"when": {"tenants": ["acme"]}, "shares": {"on": 0.5}}
ALL = {"shares": {"on": 0.1, "half": 0.2}}


def flag(*targeting: dict[str, Any], **more: Any) -> FlagConfig:
    return FlagConfig.model_validate(
        {"variants": VARIANTS, "default": "off", "targeting": targeting} | more
    )


def client(**flags: FlagConfig) -> OpenFeatureClient:
    """OpenFeature's own, as anybody would get it."""
    provider = Provider()
    provider.flags = {name: Flag(name, config) for name, config in flags.items()}
    api.set_provider_and_wait(provider, "test")
    return api.get_client("test")


def context(unit: str | None = "u", tenant: str | None = None, **headers: str) -> EvaluationContext:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    attributes = {"headers": named} | ({"tenant": tenant} if tenant else {})
    return EvaluationContext(unit, attributes)


def ask(config: FlagConfig, asked: EvaluationContext) -> FlagEvaluationDetails[str]:
    return client(f=config).get_string_details("f", "none", asked)


@pytest.mark.parametrize(
    ("config", "asked", "variant", "reason"),
    [
        (flag(), context(), "off", Reason.STATIC),
        (flag(STAFF), context(), "off", Reason.DEFAULT),
        (flag(STAFF), context(x_channel="app"), "off", Reason.DEFAULT),
        (flag(STAFF), context(x_channel="test"), "on", Reason.TARGETING_MATCH),
        (flag(STAFF, is_enabled=False), context(x_channel="test"), "off", Reason.DISABLED),
        (flag(ALL, is_enabled=False), context(), "off", Reason.DISABLED),
        (flag(STAFF, ALL), context(None, x_channel="staff"), "on", Reason.TARGETING_MATCH),
    ],
)
def test_what_is_not_divided_has_a_reason_and_is_certain(
    config: FlagConfig, asked: EvaluationContext, variant: str, reason: Reason
) -> None:
    details = ask(config, asked)
    assert (details.variant, details.value) == (variant, VARIANTS[variant])
    assert (details.reason, details.error_code) == (reason, None)
    assert details.flag_metadata == {"propensity": 1.0}


def test_shares_divide_units_and_tell_the_propensity() -> None:
    asked = client(f=flag(STAFF, ACME, ALL))
    shares = {"on": 0.1, "half": 0.2, "off": 0.7}
    found: dict[str | None, int] = dict.fromkeys(shares, 0)
    for unit in UNITS:
        details = asked.get_string_details("f", "none", context(unit, "other"))
        assert details.reason == Reason.SPLIT
        variant = str(details.variant)
        assert details.flag_metadata["propensity"] == pytest.approx(shares[variant])
        assert details.flag_metadata[f"propensity.{variant}"] == pytest.approx(shares[variant])
        found[variant] += 1
    assert {v: n / len(UNITS) for v, n in found.items()} == pytest.approx(shares, abs=0.03)


def test_the_first_entry_that_holds_decides() -> None:
    asked = client(f=flag(STAFF, ACME, ALL))
    of_acme = [asked.get_string_details("f", "none", context(u, "acme")) for u in UNITS]
    assert sum(d.variant == "on" for d in of_acme) / len(UNITS) == pytest.approx(0.5, abs=0.04)
    assert {d.variant for d in of_acme} == {"on", "off"}
    staff = asked.get_string_details("f", "none", context("u", "acme", x_channel="staff"))
    assert (staff.variant, staff.reason) == ("on", Reason.TARGETING_MATCH)


@given(st.floats(0.01, 0.98), st.floats(0.01, 0.98))
def test_a_larger_share_only_adds_units(one: float, other: float) -> None:
    small, large = sorted((one, other))
    before, after = (Flag("f", flag({"shares": {"on": share}})) for share in (small, large))
    for unit in UNITS[:200]:
        if before.resolve(context(unit)).variant == "on":  # type: ignore[union-attr]
            assert after.resolve(context(unit)).variant == "on"  # type: ignore[union-attr]


def test_flags_and_salts_divide_independently() -> None:
    half = {"shares": {"on": 0.5}}
    flags = (Flag("f", flag(half)), Flag("g", flag(half)), Flag("f", flag(half, salt="s")))
    taken = [{u for u in UNITS if f.resolve(context(u)).variant == "on"} for f in flags]  # type: ignore[union-attr]
    for other in taken[1:]:
        assert len(taken[0] & other) / len(UNITS) == pytest.approx(0.25, abs=0.04)


def test_a_flag_that_is_not_there_gives_what_the_asker_said() -> None:
    details = client().get_string_details("f", "mine", context())
    assert (details.value, details.variant, details.reason) == ("mine", None, Reason.ERROR)
    assert details.error_code == ErrorCode.FLAG_NOT_FOUND


def test_another_type_is_told() -> None:
    asked = client(
        text=flag(),
        switch=flag(variants={"off": False}),
        count=flag(variants={"off": 2}),
        weight=flag(variants={"off": 1, "on": 0.5}),
    )
    asking: dict[str, Callable[..., FlagEvaluationDetails[Any]]] = {
        "text": partial(asked.get_string_details, default_value=""),
        "switch": partial(asked.get_boolean_details, default_value=True),
        "count": partial(asked.get_integer_details, default_value=0),
        "weight": partial(asked.get_float_details, default_value=0.0),
        "object": partial(asked.get_object_details, default_value={}),
    }
    values = {"text": "old", "switch": False, "count": 2, "weight": 1.0}
    for name, value in values.items():
        for kind, ask_for in asking.items():
            details = ask_for(name, evaluation_context=context())
            if kind == name:
                assert (details.value, type(details.value)) == (value, type(value))
            else:
                assert details.error_code == ErrorCode.TYPE_MISMATCH
                assert details.variant is None


def test_units_are_needed_where_they_are_divided() -> None:
    details = ask(flag(ALL), context(None))
    assert details.error_code == ErrorCode.TARGETING_KEY_MISSING
    assert ask(flag(ALL), EvaluationContext("u")).variant is not None


# what a gateway keeps


class Source:
    """Where flags are read; fails while it has an error."""

    def __init__(self, **flags: FlagConfig) -> None:
        self.flags = flags
        self.error: Exception | None = None

    def __call__(self) -> Mapping[str, FlagConfig]:
        if self.error is not None:
            raise self.error
        return self.flags


def variant_of(flags: Flags, unit: str | None = "u", **headers: str) -> str | None:
    wire = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    decision = flags.decisions(None, unit, wire).of("f")
    return decision.variant if decision is not None else None


def test_what_cannot_be_read_leaves_the_flags_that_were_known() -> None:
    source = Source(f=flag(STAFF))
    flags = Flags(source)
    assert variant_of(flags) is None
    flags.refresh()
    assert variant_of(flags, x_channel="staff") == "on"
    source.error = WorkspaceError("the ledger is away", "wait")
    flags.refresh()
    assert variant_of(flags, x_channel="staff") == "on"
    assert flags.problem == "the server's log says why"
    source.error, source.flags = None, {}
    flags.refresh()
    assert variant_of(flags) is None
    assert flags.problem is None


def test_two_gateways_in_a_process_have_their_own_flags() -> None:
    one, other = Flags(Source(f=flag())), Flags(Source(f=flag(default="on")))
    one.refresh()
    other.refresh()
    assert (variant_of(one), variant_of(other)) == ("off", "on")


@pytest.mark.parametrize("values", [{"off": False, "on": True}, {"off": 1}, {"off": 0.5}])
def test_flags_of_every_type_have_variants(values: dict[str, Any]) -> None:
    flags = Flags(Source(f=flag(variants=values)))
    flags.refresh()
    assert variant_of(flags) == "off"


def test_a_flag_is_evaluated_once_for_a_request() -> None:
    asked: list[str] = []

    def evaluate(name: str, given: EvaluationContext) -> FlagEvaluationDetails[Any]:
        asked.append(name)
        return FlagEvaluationDetails(name, 1, "on", {"propensity": 0.25})

    decisions = Decisions(evaluate, context())
    for name in ("f", "g", "f"):
        decision = decisions.of(name)
        assert decision is not None
        assert (decision.propensity("on"), decision.propensity("off")) == (0.25, 0.0)
    assert asked == ["f", "g"]


def test_rules_that_ask_for_what_is_not_there_are_named() -> None:
    flags = Flags(Source(f=flag()))
    flags.refresh()
    rules = [
        RuleConfig.model_validate({"name": name, "endpoint": "e", "when": when})
        for name, when in {
            "fine": {"flag": "f", "is": "on"},
            "no-flag": {"flag": "g", "is": "on"},
            "no-variant": {"flag": "f", "is": "onn"},
            "plain": {"tenants": ["acme"]},
        }.items()
    ]
    assert flags.problems({"e": rules, "other": []}) == {
        "e/no-flag": "flag 'g' is not published",
        "e/no-variant": "flag 'f' has no variant 'onn'",
    }


def test_what_is_published_reaches_a_gateway(tmp_path: Path) -> None:
    ledger = Ledger.of(Workspace(str(tmp_path)), "test")
    flags = Flags(partial(current_flags, ledger))
    flags.refresh()
    assert (variant_of(flags), flags.problem) == (None, None)
    for default in ("on", "off"):
        publish_flags(ledger, FlagsConfig(name="s", flags={"f": flag(STAFF, default=default)}))
        flags.refresh()
        assert variant_of(flags) == default
