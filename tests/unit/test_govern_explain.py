"""From a request id back to the data."""

from datetime import timedelta
from pathlib import Path

import pytest
from released import NOW, Released, release
from rich.console import Console

from rayapp.errors import TamperedError, UserError, WorkspaceError
from rayapp.govern.explain import Explanation, explain, render_explanation
from rayapp.register.manifest import manifest_uri
from rayapp.schemas.operations import EventKind
from rayapp.schemas.traffic import PredictionRecord


@pytest.fixture
def released(tmp_path: Path) -> Released:
    return release(tmp_path)


def _prediction(released: Released, row: int = 0) -> PredictionRecord:
    return PredictionRecord(
        request_id="req-1",
        row=row,
        endpoint="flight-delay",
        release_id=released.signed.release_id,
        at=NOW,
        unit_id=f"UA-{row}",
        inputs={"dep_delay": 4.0, "note": "[red]late[/red]"},
        scores=(0.25, 0.75),
        latency_ms=3.5,
    )


def _explain(released: Released, *predictions: PredictionRecord) -> Explanation:
    table = {"req-1": list(predictions)}
    return explain("req-1", lambda r: table.get(r, []), released.ledger, released.workspace)


def _text(explanation: Explanation) -> str:
    console = Console(width=200, color_system=None)
    with console.capture() as capture:
        console.print(render_explanation(explanation))
    return capture.get()


def test_walks_back_to_run_snapshot_and_contract(released: Released) -> None:
    explanation = _explain(released, _prediction(released, 1), _prediction(released, 0))
    assert [p.row for p in explanation.predictions] == [0, 1]
    (provenance,) = explanation.releases
    assert provenance.signed == released.signed
    assert provenance.seal_problem is None
    assert provenance.is_champion
    assert provenance.run == released.run
    assert provenance.snapshot == released.snapshot
    moved = released.ledger.latest(EventKind.CHAMPION_MOVED)
    assert moved is not None
    assert provenance.promoted_at == moved.at


def test_a_declared_answer_and_a_split_are_told(released: Released) -> None:
    made = _prediction(released).model_copy(
        update={"degraded": "failed", "arm": "new", "propensity": 0.1, "unit": "u"}
    )
    text = _text(_explain(released, made))
    assert "degraded: failed, answered by a stand-in" in text
    assert "arm new: unit 'u' is on it, as 10% of such units are" in text
    certain = made.model_copy(update={"propensity": 1.0})
    assert "arm new: where every such request goes" in _text(_explain(released, certain))
    static = made.model_copy(update={"release_id": "static"})
    explanation = _explain(released, static)
    assert explanation.releases == ()
    text = _text(explanation)
    assert "on_time 0.2500, late 0.7500" in text
    assert "answered by a declared answer" in text
    assert "arm new: unit 'u' is on it, as 10% of such units are; it did not answer" in text


def test_who_asked_and_what_it_cost_is_told_where_that_is_known(released: Released) -> None:
    made = _prediction(released)
    paid = made.model_copy(update={"tenant": "acme", "cost_nano_usd": 2_500})
    text = _text(_explain(released, paid))
    assert "cost: 0.000002500 USD" in text
    assert "tenant: acme" in text
    free = _text(_explain(released, made))  # nobody has set a price, which is not a price of 0
    assert not [word for word in ("cost: ", "tenant: ") if word in free]


def test_what_a_shadow_made_of_a_row_is_told_beneath_it(released: Released) -> None:
    rows = [_prediction(released, row) for row in (0, 1)]
    shadow = rows[1].model_copy(
        update={"endpoint": "flight-delay.shadow", "scores": (0.125, 0.875), "latency_ms": 7.0}
    )
    explanation = _explain(released, *rows, shadow)
    assert [one.row for one in explanation.predictions] == [0, 1]
    assert explanation.shadows == (shadow,)
    text = _text(explanation)
    told = (
        f"heard by a shadow, release {released.signed.release_id[:12]}, whose answer nobody got: "
        "on_time 0.1250, late 0.8750 (7.0 ms)"
    )
    assert text.count("heard by a shadow") == 1
    assert text.index("row 1 of UA-1") < text.index(told)


def test_a_shadow_whose_release_is_gone_keeps_no_answer_from_being_explained(
    released: Released,
) -> None:
    made = _prediction(released)
    gone = {"endpoint": "flight-delay.shadow", "release_id": "e" * 64}
    explanation = _explain(released, made, made.model_copy(update=gone))
    (provenance,) = explanation.releases
    assert provenance.release_id == released.signed.release_id
    assert "release eeeeeeeeeeee, whose answer nobody got: score 0.2500, 0.7500" in _text(
        explanation
    )


def test_a_shadow_of_an_id_that_was_used_again_is_told_once(released: Released) -> None:
    first = _prediction(released)
    again = first.model_copy(update={"at": NOW + timedelta(seconds=20)})
    shadow = first.model_copy(
        update={"endpoint": "flight-delay.shadow", "at": NOW + timedelta(seconds=1)}
    )
    text = _text(_explain(released, again, first, shadow))
    assert text.count("heard by a shadow") == 1
    assert text.index("00:00:20") < text.index("00:00:00") < text.index("heard by a shadow")


def test_what_only_a_shadow_answered_is_no_answer(released: Released) -> None:
    shadow = _prediction(released).model_copy(update={"endpoint": "flight-delay.shadow"})
    with pytest.raises(UserError, match="not among the committed"):
        _explain(released, shadow)


def test_scores_of_classes_that_nobody_knows_are_all_told(released: Released) -> None:
    made = _prediction(released).model_copy(
        update={"degraded": "failed", "release_id": "static", "endpoint": "other"}
    )
    assert "score 0.2500, 0.7500" in _text(_explain(released, made))


def test_an_unknown_id_says_what_to_do() -> None:
    with pytest.raises(UserError, match="every few seconds"):
        explain("req-9", lambda _: [], None, None)  # type: ignore[arg-type]


def test_says_that_a_manifest_was_altered(released: Released) -> None:
    path = Path(manifest_uri(released.workspace, released.signed.release_id))
    path.write_bytes(path.read_bytes().replace(b"run-1", b"run-2"))
    explanation = _explain(released, _prediction(released))
    (provenance,) = explanation.releases
    assert "altered" in str(provenance.seal_problem)
    assert provenance.run is None
    assert "run run-2: not in the ledger" in _text(explanation)


def test_refuses_a_manifest_that_is_none(released: Released) -> None:
    path = Path(manifest_uri(released.workspace, released.signed.release_id))
    path.write_bytes(b"{}")
    with pytest.raises(TamperedError, match="no sealed manifest"):
        _explain(released, _prediction(released))


def test_refuses_a_manifest_that_is_gone(released: Released) -> None:
    Path(manifest_uri(released.workspace, released.signed.release_id)).unlink()
    with pytest.raises(WorkspaceError):
        _explain(released, _prediction(released))


def test_a_former_champion_is_told_as_one(released: Released) -> None:
    released.ledger.move_pointer(
        "champion/flight-delay", "x" * 64, 1, EventKind.CHAMPION_MOVED, {"release_id": "x" * 64}
    )
    (provenance,) = _explain(released, _prediction(released)).releases
    assert not provenance.is_champion
    assert provenance.promoted_at is not None


def test_renders_each_link(released: Released) -> None:
    text = _text(_explain(released, _prediction(released)))
    for expected in (
        "request req-1",
        "row 0 of UA-0",
        "on_time 0.2500, late 0.7500",
        "note = '[red]late[/red]'",  # data is no markup
        f"release {released.signed.release_id} of flight-delay, champion now",
        "digest and signature fit",
        "gates: 1 of 1 pass",
        "run run-1: tabular on 800 rows",
        "flights version 3: 1,000 rows, 7 quarantined",
        "contract flights 1.2.0",
    ):
        assert expected in text
