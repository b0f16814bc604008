"""Which release a job means, and that it is one of the endpoint's own."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from released import CARD, ENDPOINT, Released, release

from rayapp.config.release import ReleaseConfig
from rayapp.errors import TamperedError, UserError
from rayapp.flows import releasing
from rayapp.flows.releasing import Evaluated, champion, evaluate_stage, release_of
from rayapp.flows.session import Session, open_session
from rayapp.release.promote import champion_pointer
from rayapp.schemas.operations import EventKind
from rayapp.schemas.release import Evaluation
from rayapp.storage import fetch_bundle


@pytest.fixture
def released(tmp_path: Path) -> Released:
    return release(tmp_path)


@pytest.fixture
def session(released: Released) -> Session:
    return open_session({"RAYAPP_WORKSPACE": released.workspace.uri}, lambda text: None)


def test_without_an_id_it_is_the_champion(session: Session, released: Released) -> None:
    assert release_of(session, ENDPOINT) == released.signed
    assert release_of(session, ENDPOINT, released.signed.release_id) == released.signed
    with pytest.raises(UserError, match="'other' has no champion"):
        release_of(session, "other")


def test_another_endpoints_release_is_refused(session: Session, released: Released) -> None:
    with pytest.raises(UserError, match=f"is of '{ENDPOINT}', wanted is one of 'other'"):
        release_of(session, "other", released.signed.release_id)


def test_a_release_that_did_not_pass_is_refused(session: Session) -> None:
    payload = {"release_id": "refused1", "endpoint": ENDPOINT}
    session.ledger.append(EventKind.RELEASE_REFUSED, "refused1", payload)
    with pytest.raises(UserError, match="refused1 is not known"):
        release_of(session, ENDPOINT, "refused1")


class Unread:
    """A tracker."""

    def log_text(self, text: str, name: str) -> None:
        pass

    def log_metrics(self, metrics: Any, step: int) -> None:
        pass


def test_other_gates_judge_what_was_found_before(
    session: Session, released: Released, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def evaluate(session: Session, config: ReleaseConfig, *_: Any) -> Evaluation:
        made.append(config.policy)
        return released.evaluation

    monkeypatch.setattr(releasing, "_evaluate", evaluate)
    monkeypatch.setattr(releasing, "open_tracker", lambda *_, **named: nullcontext(Unread()))

    def judged(limit: float, **evaluation: Any) -> Evaluated:
        policy = tmp_path / f"{limit}.yaml"
        policy.write_text(f"gates: {{useful: {{kind: floor, metric: auc, limit: {limit}}}}}")
        config = ReleaseConfig.model_validate(
            {
                "endpoint": ENDPOINT,
                "training": "unused",
                "policy": str(policy),
                "evaluation": evaluation,
                "card": CARD,
            }
        )
        return evaluate_stage(session, config, released.run)

    low, high = judged(0.7), judged(0.8)
    assert [e.verdicts[0].value for e in (low, high)] == ["pass", "fail"]
    assert len(made) == 1
    assert low.evaluation == high.evaluation
    assert low.report_uri != high.report_uri
    assert judged(0.8).report_uri == high.report_uri
    judged(0.8, confidence=0.9)
    assert len(made) == 2


def test_a_pointer_to_another_endpoints_release_is_seen(
    session: Session, released: Released
) -> None:
    session.ledger.move_pointer(
        champion_pointer("other"), released.signed.release_id, 0, EventKind.CHAMPION_MOVED, {}
    )
    with pytest.raises(TamperedError, match=f"sealed for '{ENDPOINT}'"):
        champion(session, "other")


def test_a_bundle_with_another_list_of_files_is_refused(released: Released, tmp_path: Path) -> None:
    bundle = released.run.bundle
    fetch_bundle(bundle, tmp_path / "copy")
    with pytest.raises(TamperedError, match="list of files"):
        fetch_bundle(bundle.model_copy(update={"files": bundle.files[1:]}), tmp_path / "again")
