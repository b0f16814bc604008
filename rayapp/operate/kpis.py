"""Delivery figures that the ledger can prove. What it cannot prove is None, with what it needs."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from statistics import median

from rich import box
from rich.table import Table
from rich.text import Text

from rayapp.schemas.operations import Event, EventKind
from rayapp.schemas.record import Record

_SECONDS_PER_DAY = 86_400.0
_DAYS_PER_WEEK = 7.0
_SMALLER = {"days": (24.0, "h"), "h": (60.0, "min")}


class Kpi(Record):
    """One figure. value is None where the ledger does not support it, and `note` says why.

    evidence: sequences of the ledger events that the value was computed from.
    """

    name: str
    value: float | None
    unit: str
    definition: str
    evidence: tuple[int, ...] = ()
    note: str = ""


def compute_kpis(events: Sequence[Event], now: datetime, window_days: int) -> tuple[Kpi, ...]:
    """events: the whole ledger in order, since a release may rest on a snapshot from before the
    window. The window is (now - window_days, now]; later events do not count."""
    known = [e for e in events if e.at <= now]
    since = now - timedelta(days=window_days)
    recent = [e for e in known if e.at > since]
    measured = (
        _lead_time(known, since),
        _releases_per_week(known, since, window_days),
        _refused_share(recent),
        _champion_age(known, now),
        _training_cost(known, since),
        _live_auc(recent),
        _scored_in_batch(recent),
    )
    return measured + _UNSUPPORTED


def _unsupported(name: str, unit: str, definition: str, needs: str) -> Kpi:
    note = f"insufficient data: needs {needs}"
    return Kpi(name=name, value=None, unit=unit, definition=definition, note=note)


_UNSUPPORTED = (
    _unsupported(
        "availability",
        "share",
        "answered requests over all requests at the endpoints",
        "recorded request counts with their outcomes",
    ),
    _unsupported(
        "time_to_restore",
        "h",
        "mean time from the start of an incident to its end",
        "recorded incidents",
    ),
    _unsupported(
        "change_failure_rate",
        "share",
        "promotions that were rolled back or caused an incident, over all promotions",
        "recorded rollbacks and incidents",
    ),
    _unsupported(
        "cost_per_1k_predictions",
        "USD",
        "serving cost over a thousand answered rows",
        "prices of the machines and recorded serving time",
    ),
)


def _first_promotions(known: Iterable[Event], since: datetime) -> list[Event]:
    """The first time each release became a champion, if after `since`: going back to an older
    release is no new release."""
    first: dict[str, Event] = {}
    for event in _of(known, EventKind.CHAMPION_MOVED):
        first.setdefault(event.payload["release_id"], event)
    return [e for e in first.values() if e.at > since]


def _lead_time(known: Sequence[Event], since: datetime) -> Kpi:
    built = _first(_of(known, EventKind.SNAPSHOT_BUILT), lambda e: e.subject)
    runs = _first(_of(known, EventKind.RUN_FINISHED), lambda e: e.subject)
    sealed = _first(_of(known, EventKind.RELEASE_SEALED), lambda e: e.subject)
    hours, evidence = [], []
    for promotion in _first_promotions(known, since):
        seal = sealed.get(promotion.payload["release_id"])
        run = runs.get(seal.payload["run_id"]) if seal else None
        start = built.get(run.payload["run"]["snapshot_id"]) if run else None
        if start is not None:
            hours.append((promotion.at - start.at).total_seconds() / 3600)
            evidence += [start.sequence, promotion.sequence]
    return Kpi(
        name="lead_time",
        value=median(hours) if hours else None,
        unit="h",
        definition="median time from a release's snapshot being built to its first promotion",
        evidence=tuple(sorted(set(evidence))),
        note="" if hours else "insufficient data: needs a release promoted in the window",
    )


def _releases_per_week(known: Sequence[Event], since: datetime, window_days: int) -> Kpi:
    promotions = _first_promotions(known, since)
    return Kpi(
        name="releases_per_week",
        value=len(promotions) * _DAYS_PER_WEEK / window_days,
        unit="1/week",
        definition=f"releases first promoted in the last {window_days} days, per seven days",
        evidence=_sequences(promotions),
    )


def _refused_share(recent: Sequence[Event]) -> Kpi:
    refused = _of(recent, EventKind.RELEASE_REFUSED)
    candidates = refused + _of(recent, EventKind.RELEASE_SEALED)
    return Kpi(
        name="refused_share",
        value=len(refused) / len(candidates) if candidates else None,
        unit="share",
        definition="candidates that the gates refused, over all candidates judged in the window",
        evidence=_sequences(candidates),
        note="" if candidates else "insufficient data: needs a candidate judged in the window",
    )


def _champion_age(known: Sequence[Event], now: datetime) -> Kpi:
    last = {e.subject: e for e in _of(known, EventKind.CHAMPION_MOVED)}
    oldest = min(last.values(), key=lambda e: e.at, default=None)
    return Kpi(
        name="time_since_champion",
        value=(now - oldest.at).total_seconds() / _SECONDS_PER_DAY if oldest else None,
        unit="days",
        definition="age of the champion that was promoted longest ago, over all endpoints",
        evidence=_sequences([oldest] if oldest else []),
        note=oldest.subject if oldest else "insufficient data: needs a champion",
    )


def _training_cost(known: Sequence[Event], since: datetime) -> Kpi:
    promotions = _first_promotions(known, since)
    runs = [e for e in _of(known, EventKind.RUN_FINISHED) if e.at > since]
    sweeps = [e for e in _of(known, EventKind.SWEEP_FINISHED) if e.at > since]
    used_s = sum(e.payload["run"]["cpu_s"] for e in runs)
    used_s += sum(e.payload["used_s"] for e in sweeps)
    return Kpi(
        name="training_cpu_per_release",
        value=used_s / len(promotions) if promotions else None,
        unit="CPU-s",
        definition="processor time of all finished runs and sweeps in the window, those without a "
        "release included, over releases first promoted in it",
        evidence=_sequences(runs + sweeps + promotions),
        note="" if promotions else "insufficient data: needs a release promoted in the window",
    )


def _live_auc(recent: Sequence[Event]) -> Kpi:
    measured = [
        e
        for e in _of(recent, EventKind.SIGNAL_MEASURED)
        if e.payload.get("signal") == "auc" and e.payload.get("value") is not None
    ]
    last = measured[-1] if measured else None
    return Kpi(
        name="live_auc",
        value=last.payload["value"] if last else None,
        unit="AUC",
        definition="the last AUC in the window that was measured on outcomes of live predictions",
        evidence=_sequences([last] if last else []),
        note=last.subject if last else "insufficient data: needs joined outcomes (jobs.monitor)",
    )


def _scored_in_batch(recent: Sequence[Event]) -> Kpi:
    jobs = _of(recent, EventKind.BATCH_SCORED)
    return Kpi(
        name="batch_predictions",
        value=float(sum(e.payload["num_rows"] for e in jobs)),
        unit="rows",
        definition="rows scored by batch jobs in the window",
        evidence=_sequences(jobs),
    )


def render_kpis(kpis: Sequence[Kpi]) -> Table:
    """One entry per figure for a terminal; a figure without a value shows what it needs."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("KPI", no_wrap=True)
    table.add_column("value", no_wrap=True, justify="right")
    table.add_column("unit", no_wrap=True)
    table.add_column("meaning")
    for kpi in kpis:
        value, unit = _readable(kpi.value, kpi.unit)
        meaning = Text(kpi.definition)
        if kpi.note:
            meaning.append(f"\n{kpi.note}", style="yellow" if kpi.value is None else "dim")
        table.add_row(kpi.name, value, unit, meaning)
    return table


def _readable(value: float | None, unit: str) -> tuple[str, str]:
    """A time below one of its unit is shown in a smaller one."""
    if value is None:
        return "-", unit
    while 0 < value < 1 and unit in _SMALLER:
        times, unit = _SMALLER[unit]
        value *= times
    return f"{value:,.4g}", unit


def _of(events: Iterable[Event], kind: EventKind) -> list[Event]:
    return [e for e in events if e.kind == kind]


def _first(events: Iterable[Event], key: Callable[[Event], str]) -> dict[str, Event]:
    found: dict[str, Event] = {}
    for event in events:
        found.setdefault(key(event), event)
    return found


def _sequences(events: Iterable[Event]) -> tuple[int, ...]:
    return tuple(sorted({e.sequence for e in events}))
