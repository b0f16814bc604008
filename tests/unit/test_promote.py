"""Promotion: only what passed every gate, and only one winner."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from rayapp.errors import ChampionMoved, GateRefused
from rayapp.ledger import Ledger
from rayapp.release.promote import champion_pointer, champions, promote, refuse_unless_passed
from rayapp.schemas.model import BundleRef, BundleSchema
from rayapp.schemas.operations import EventKind
from rayapp.schemas.release import Manifest, SignedManifest, Verdict

PASSED = Verdict(gate="useful", value="pass", reason="auc 0.74 [0.73, 0.75] is over 0.70")
FAILED = Verdict(gate="not_worse", value="fail", reason="auc is 0.05 lower")
UNDECIDED = Verdict(gate="slices", value="inconclusive", reason="few rows", needs_rows=900)


def _signed(release_id: str, *verdicts: Verdict) -> SignedManifest:
    schema = BundleSchema(
        name="trees",
        family="tabular",
        task="binary",
        label="y",
        classes=("no", "yes"),
        inputs=(),
        features=(),
    )
    manifest = Manifest(
        endpoint="flight-delay",
        created_at=datetime(2013, 1, 1, tzinfo=UTC),
        run_id="run-1",
        bundle=BundleRef(uri="/b", digest="d", files=(), bundle_schema=schema),
        snapshot_id="s",
        data_digests={},
        contracts=(),
        config={},
        code_digest="c",
        environment_digest="e",
        evaluation_digest="v",
        evaluation_uri="/v",
        verdicts=verdicts,
        policy_digest="p",
        card_digest="k",
        card_uri="/k",
        mlflow_run_id="m",
    )
    return SignedManifest(release_id=release_id, manifest=manifest, key_id="k", signature="s")


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(f"sqlite:///{tmp_path}/ledger.db", "test", tmp_path / "ledger.anchors")


@pytest.mark.parametrize("bad", [FAILED, UNDECIDED])
def test_one_gate_that_does_not_pass_refuses_the_release(ledger: Ledger, bad: Verdict) -> None:
    with pytest.raises(GateRefused, match=bad.gate):
        promote(ledger, _signed("r1", PASSED, bad), 0)
    assert ledger.pointer(champion_pointer("flight-delay")) is None


def test_a_refusal_counts_what_failed_and_what_is_inconclusive() -> None:
    with pytest.raises(GateRefused, match="r1 is refused: 1 of 3 gates failed and 1 is inconcl"):
        refuse_unless_passed("r1", (PASSED, FAILED, UNDECIDED))


def test_reasons_that_were_told_are_not_told_again() -> None:
    verdicts = (PASSED, FAILED, UNDECIDED)
    with pytest.raises(GateRefused) as told:
        refuse_unless_passed("r1", verdicts, are_reasons_told=True)
    assert told.value.what.endswith("is inconclusive; not_worse; slices")
    with pytest.raises(GateRefused, match=r"; not_worse is fail: auc is .* lower; slices is incon"):
        refuse_unless_passed("r1", verdicts)


def test_rows_are_the_next_step_where_a_gate_asks_for_some() -> None:
    settled = Verdict(gate="same", value="inconclusive", reason="no number of rows settles it")
    steps = []
    for verdicts in ((FAILED, settled), (FAILED, settled, UNDECIDED)):
        with pytest.raises(GateRefused) as told:
            refuse_unless_passed("r1", verdicts)
        steps.append(told.value.next_step)
    assert steps[0] == "read the evaluation report; improve the candidate"
    assert steps[1] == f"{steps[0]}, or collect the rows asked for by slices"


def test_no_verdict_is_no_pass() -> None:
    with pytest.raises(GateRefused, match="no gate ran"):
        refuse_unless_passed("r1", ())


def test_of_two_that_compared_with_the_same_champion_one_wins(ledger: Ledger) -> None:
    assert promote(ledger, _signed("r1", PASSED), 0).revision == 1
    with pytest.raises(ChampionMoved, match="run again to compare with their release"):
        promote(ledger, _signed("r2", PASSED), 0)
    pointer = ledger.pointer(champion_pointer("flight-delay"))
    assert pointer is not None
    assert pointer.target == "r1"
    assert promote(ledger, _signed("r2", PASSED), 1).target == "r2"
    previous = [event.payload["previous"] for event in ledger.events()]
    assert previous == [None, "r1"]


def test_champions_are_listed_by_their_endpoints(ledger: Ledger) -> None:
    assert champions(ledger) == {}
    for name, target in ((champion_pointer("b"), "r2"), (champion_pointer("a"), "r1"), ("c", "r3")):
        ledger.move_pointer(name, target, 0, EventKind.CHAMPION_MOVED, {})
    assert {name: p.target for name, p in champions(ledger).items()} == {"a": "r1", "b": "r2"}
