"""KPIs are computed from events alone, and what the ledger cannot support has no number."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from rayapp.operate.kpis import Kpi, compute_kpis, render_kpis
from rayapp.schemas.operations import Event, EventKind

NOW = datetime(2013, 12, 1, tzinfo=UTC)
_SUPPORTED = (
    "lead_time",
    "releases_per_week",
    "refused_share",
    "time_since_champion",
    "training_cpu_per_release",
    "live_auc",
    "batch_predictions",
)
_UNSUPPORTED = (
    "availability",
    "time_to_restore",
    "change_failure_rate",
    "cost_per_1k_predictions",
)

Told = tuple[float, EventKind, str, dict[str, Any]]


def _events(*told: Told) -> list[Event]:
    """Each is (hours before now, kind, subject, payload), oldest first."""
    return [
        Event(
            sequence=number,
            at=NOW - timedelta(hours=hours),
            kind=kind,
            subject=subject,
            key="",
            actor="tester",
            payload=payload,
            previous_hash="",
            hash="",
        )
        for number, (hours, kind, subject, payload) in enumerate(told, start=1)
    ]


def _released(name: str, built_h: float, promoted_h: float, cpu_s: float = 100.0) -> list[Told]:
    run = {"snapshot_id": f"s-{name}", "cpu_s": cpu_s}
    return [
        (built_h, EventKind.SNAPSHOT_BUILT, f"s-{name}", {}),
        (built_h - 1, EventKind.RUN_FINISHED, f"run-{name}", {"run": run}),
        (promoted_h, EventKind.RELEASE_SEALED, name, {"run_id": f"run-{name}"}),
        _moved(promoted_h, name),
    ]


def _moved(hours: float, name: str, endpoint: str = "flight-delay") -> Told:
    return (hours, EventKind.CHAMPION_MOVED, f"champion/{endpoint}", {"release_id": name})


def _kpis(events: Sequence[Event], window_days: int = 28) -> dict[str, Kpi]:
    return {k.name: k for k in compute_kpis(events, NOW, window_days)}


def test_an_empty_ledger_gives_counts_of_zero_and_no_made_up_figure() -> None:
    kpis = _kpis([])
    assert tuple(kpis) == _SUPPORTED + _UNSUPPORTED
    assert {n for n, k in kpis.items() if k.value is not None} == {
        "releases_per_week",
        "batch_predictions",
    }
    without = [k for k in kpis.values() if k.value is None]
    assert all(k.note.startswith("insufficient data: needs") for k in without)


def test_lead_time_is_the_median_from_snapshot_to_first_promotion() -> None:
    told = _released("a", 100, 90) + _released("b", 80, 60) + _released("c", 50, 10)
    kpi = _kpis(_events(*told))["lead_time"]
    assert (kpi.value, kpi.unit) == (20.0, "h")
    assert kpi.evidence == (1, 4, 5, 8, 9, 12)


def test_lead_time_counts_from_a_snapshot_before_the_window() -> None:
    kpi = _kpis(_events(*_released("a", 60 * 24, 24)))["lead_time"]
    assert kpi.value == 59 * 24


def test_going_back_to_an_older_release_is_no_new_release() -> None:
    told = [*_released("a", 100, 90), *_released("b", 80, 60), _moved(5, "a")]
    kpis = _kpis(_events(*told))
    assert kpis["releases_per_week"].value == 0.5  # two in four weeks
    assert kpis["time_since_champion"].value == 5 / 24


def test_a_release_from_before_the_window_does_not_count() -> None:
    kpis = _kpis(_events(*_released("a", 40 * 24, 30 * 24)))
    assert kpis["releases_per_week"].value == 0.0
    assert kpis["lead_time"].value is None
    assert kpis["time_since_champion"].value == 30.0


def test_refused_share_is_over_all_candidates() -> None:
    refused: Told = (20, EventKind.RELEASE_REFUSED, "x", {"run_id": "run-x"})
    kpi = _kpis(_events(*_released("a", 100, 90), *_released("b", 80, 60), refused))[
        "refused_share"
    ]
    assert kpi.value == 1 / 3
    assert kpi.evidence == (3, 7, 9)


def test_training_cost_includes_sweeps_and_runs_without_a_release() -> None:
    failed: Told = (30, EventKind.RUN_FINISHED, "r", {"run": {"snapshot_id": "s", "cpu_s": 50.0}})
    sweep: Told = (20, EventKind.SWEEP_FINISHED, "trees", {"used_s": 600.0})
    told = [*_released("a", 100, 90), *_released("b", 80, 60), failed, sweep]
    assert _kpis(_events(*told))["training_cpu_per_release"].value == (100 + 100 + 50 + 600) / 2


def test_the_oldest_champion_is_the_one_that_is_told() -> None:
    told = [_moved(72, "a", "slow"), _moved(48, "b", "quick"), _moved(24, "c", "quick")]
    kpi = _kpis(_events(*told))["time_since_champion"]
    assert (kpi.value, kpi.note, kpi.evidence) == (3.0, "champion/slow", (1,))


def test_live_auc_is_the_last_one_that_has_a_value() -> None:
    told: list[Told] = [
        (9, EventKind.SIGNAL_MEASURED, "flight-delay", {"signal": "auc", "value": 0.71}),
        (8, EventKind.SIGNAL_MEASURED, "flight-delay", {"signal": "auc", "value": 0.73}),
        (7, EventKind.SIGNAL_MEASURED, "flight-delay", {"signal": "auc", "value": None}),
        (6, EventKind.SIGNAL_MEASURED, "flight-delay", {"signal": "psi", "value": 0.2}),
    ]
    kpi = _kpis(_events(*told))["live_auc"]
    assert (kpi.value, kpi.evidence) == (0.73, (2,))


def test_batch_predictions_are_summed_over_the_window() -> None:
    told: list[Told] = [
        (40 * 24, EventKind.BATCH_SCORED, "flight-delay", {"num_rows": 1_000}),
        (9, EventKind.BATCH_SCORED, "flight-delay", {"num_rows": 200}),
        (8, EventKind.BATCH_SCORED, "flight-delay", {"num_rows": 30}),
    ]
    assert _kpis(_events(*told))["batch_predictions"].value == 230.0


def test_events_after_now_do_not_count() -> None:
    assert _kpis(_events(*_released("a", 10, -1)))["lead_time"].value is None


@given(
    hours=st.lists(st.floats(min_value=0, max_value=2000), max_size=8),
    window_days=st.integers(min_value=1, max_value=90),
)
def test_evidence_is_always_of_events_that_exist(hours: list[float], window_days: int) -> None:
    told = [t for i, h in enumerate(sorted(hours, reverse=True)) for t in _released(f"r{i}", h, h)]
    events = _events(*told)
    for kpi in compute_kpis(events, NOW, window_days):
        assert set(kpi.evidence) <= {e.sequence for e in events}
        assert kpi.value is None or kpi.value >= 0 or kpi.name == "lead_time"


def test_renders_what_is_missing() -> None:
    console = Console(width=250)
    with console.capture() as capture:
        console.print(render_kpis(compute_kpis(_events(*_released("a", 100, 90)), NOW, 28)))
    text = capture.get()
    assert "needs recorded incidents" in text
    assert "0.25" in text


def test_a_short_time_is_shown_in_a_smaller_unit() -> None:
    figure = Kpi(name="age", value=0.002, unit="days", definition="how old")
    console = Console(width=100)
    with console.capture() as capture:
        console.print(render_kpis([figure]))
    assert "2.88" in capture.get()
    assert "min" in capture.get()
