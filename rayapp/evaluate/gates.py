"""Gates: what an evaluation must show before a release, and what it showed.

Pure: no clock, no Ray, no network. A gate passes only on evidence. "inconclusive" means that the
rows cannot tell, and says how many could; it is not a pass.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

from rayapp.config.release import (
    ChampionGate,
    FloorGate,
    GapGate,
    Gate,
    LatencyGate,
    PolicyConfig,
    SliceGate,
    UntunedGate,
)
from rayapp.errors import ConfigError
from rayapp.evaluate.declared import metrics_in
from rayapp.evaluate.evidence import (
    gap_between,
    growth_to_clear,
    holm,
    interval_at,
    loss_at,
    p_value,
    z_score,
)
from rayapp.evaluate.items import BY_TOKENS
from rayapp.evaluate.metrics import METRICS, Metric, metrics_of
from rayapp.schemas.data import Task
from rayapp.schemas.release import (
    CHAMPION,
    UNTUNED,
    Evaluation,
    Verdict,
    VerdictValue,
)

NO_METRICS: Mapping[str, Metric] = {}
MIN_LATENCY_CALLS = 100
"""Under this a 95th percentile rests on fewer than five calls."""


def check_policy(
    policy: PolicyConfig,
    task: Task,
    slices: Sequence[str | Mapping[str, str]],
    declared: Mapping[str, Metric] = NO_METRICS,
) -> None:
    """Refuse, before any compute, a gate that could never be judged. declared: the metrics that the
    release config adds to the task's own. Raises ConfigError."""
    known = {name: METRICS[name] for name in metrics_of(task)} | dict(declared)
    columns = [n for item in slices for n in ([item] if isinstance(item, str) else item)]
    for name, gate in policy.gates.items():
        if isinstance(gate, LatencyGate):
            _check_latency(name, task)
            continue
        if gate.metric not in known:
            raise ConfigError(
                f"gate {name!r}: {task} has no metric {gate.metric!r}",
                f"metrics are {', '.join(known)}",
            )
        _check_direction(name, gate, known[gate.metric].higher_is_better)
        if isinstance(gate, UntunedGate) and task != "text":
            raise ConfigError(
                f"gate {name!r} compares with untuned weights, and a model of task {task} has none",
                "kind: champion",
            )
        if isinstance(gate, SliceGate | GapGate) and known[gate.metric].is_of_all_rows:
            raise ConfigError(
                f"gate {name!r} judges slices, but {gate.metric} is told of all rows alone: how a "
                "judge errs in a slice is not known from its anchors",
                "kind: floor, ceiling or champion; or another metric",
            )
        if isinstance(gate, SliceGate) and not columns:
            raise ConfigError(
                f"gate {name!r} judges slices, but evaluation.slices is empty",
                "add slices to the release config, or remove the gate",
            )
        if isinstance(gate, GapGate) and gate.column not in columns:
            raise ConfigError(
                f"gate {name!r}: {gate.column!r} is not a slice; slices are {columns}",
                f"add {gate.column!r} to evaluation.slices",
            )


def _check_latency(name: str, task: Task) -> None:
    if task == "text":
        raise ConfigError(
            f"gate {name!r} judges latency, which is not measured for task text: it is that of the "
            "engine which answers",
            "kind: ceiling on answer_tokens, which latency and cost grow with; or a limit where it "
            "is served (docs/how-to/route-by-cost.md)",
        )


def _check_direction(name: str, gate: Gate, better: bool | None) -> None:
    if isinstance(gate, GapGate | LatencyGate):
        return
    if isinstance(gate, FloorGate):
        if better is not None and better != (gate.kind == "floor"):
            way, kind = ("higher", "floor") if better else ("lower", "ceiling")
            raise ConfigError(
                f"gate {name!r}: a {gate.kind} on {gate.metric}, which is better when {way}",
                f"kind: {kind}",
            )
    elif better is None:
        raise ConfigError(
            f"gate {name!r}: neither direction of {gate.metric} is better, so nothing is worse",
            "compare a metric with a direction, such as auc or log_loss",
        )


def decide(evaluation: Evaluation, policy: PolicyConfig) -> tuple[Verdict, ...]:
    """One verdict per gate of the policy, in its order."""
    return tuple(
        _decide(name, gate, evaluation, policy.confidence) for name, gate in policy.gates.items()
    )


def _decide(name: str, gate: Gate, evaluation: Evaluation, confidence: float) -> Verdict:
    if isinstance(gate, FloorGate):
        return _decide_limit(name, gate, evaluation, confidence)
    if isinstance(gate, ChampionGate):
        return _decide_champion(name, gate, evaluation, confidence)
    if isinstance(gate, UntunedGate):
        return _decide_opponent(name, gate, evaluation, UNTUNED, confidence)
    if isinstance(gate, SliceGate):
        return _decide_slices(name, gate, evaluation, confidence)
    if isinstance(gate, GapGate):
        return _decide_gap(name, gate, evaluation, confidence)
    return _decide_latency(name, gate, evaluation)


def _decide_limit(name: str, gate: FloorGate, evaluation: Evaluation, confidence: float) -> Verdict:
    num_rows = evaluation.overall.num_rows
    bounds = interval_at(evaluation.overall, gate.metric, confidence)
    if bounds is None:
        return _no_interval(name, gate.metric, num_rows)
    value, low, high = bounds
    sign, word = (1, "≥") if gate.kind == "floor" else (-1, "≤")
    worst, best = (low, high) if sign > 0 else (high, low)
    shown = f"{gate.metric} {value:.4f} [{low:.4f}, {high:.4f}], required {word} {gate.limit:g}"
    if sign * (worst - gate.limit) >= 0:
        return Verdict(gate=name, value="pass", reason=shown)
    if sign * (best - gate.limit) < 0:
        return Verdict(gate=name, value="fail", reason=shown)
    if value == gate.limit:
        return _inconclusive(name, shown, None)
    bound = low if gate.limit < value else high
    is_share = metrics_in(evaluation)[gate.metric].is_share
    growth = growth_to_clear(value, bound, gate.limit, is_share)
    return _inconclusive(name, shown, num_rows * growth)


def _decide_champion(
    name: str, gate: ChampionGate, evaluation: Evaluation, confidence: float
) -> Verdict:
    if evaluation.champion is None:
        return Verdict(gate=name, value="pass", reason="no champion yet, nothing to be worse than")
    return _decide_opponent(name, gate, evaluation, CHAMPION, confidence)


def _decide_opponent(
    name: str,
    gate: ChampionGate | UntunedGate,
    evaluation: Evaluation,
    opponent: str,
    confidence: float,
) -> Verdict:
    better = metrics_in(evaluation)[gate.metric].higher_is_better
    differences = evaluation.differences(evaluation.overall, opponent)
    worse = loss_at(differences, gate.metric, confidence, better)
    if worse is None and differences and gate.metric in BY_TOKENS:
        reason = f"{gate.metric} is by token, and the {opponent} spells the right answers otherwise"
        return Verdict(gate=name, value="inconclusive", reason=reason)
    if worse is None:
        what = f"difference in {gate.metric} to the {opponent}"
        return _no_interval(name, what, evaluation.overall.num_rows)
    loss, half = worse
    reach = f"the interval may reach {gate.margin:g} worse"
    shown = (
        f"{gate.metric} is {_better_or_worse(loss)} that of the {opponent}, ± {half:.4f} on the "
        f"same rows; {reach if gate.margin else 'none of the interval may be worse'}"
    )
    if loss + half <= gate.margin:
        return Verdict(gate=name, value="pass", reason=shown)
    if loss - half > gate.margin:
        return Verdict(gate=name, value="fail", reason=shown)
    needed = _rows(evaluation.overall.num_rows, half, abs(loss - gate.margin))
    return _inconclusive(name, shown, needed, _about(evaluation, gate.metric))


def _decide_slices(
    name: str, gate: SliceGate, evaluation: Evaluation, confidence: float
) -> Verdict:
    """Fail where Holm's procedure (1979, Scand. J. Statist. 6:65) finds a slice worse by more than
    the margin; pass when every judged slice shows that it is not. The pass needs no correction:
    it asks all slices at once (an intersection-union test, Berger 1982, Technometrics 24:295)."""
    if evaluation.champion is None:
        return Verdict(gate=name, value="pass", reason="no champion yet, nothing to be worse than")
    judged: dict[str, tuple[float, float, int]] = {}
    better = metrics_in(evaluation)[gate.metric].higher_is_better
    for part in evaluation.slices:
        differences = evaluation.differences(part, CHAMPION)
        worse = loss_at(differences, gate.metric, confidence, better)
        if part.num_rows >= gate.min_rows and worse is not None:
            judged[part.slice] = (*worse, part.num_rows)
    if not judged:
        return Verdict(
            gate=name,
            value="inconclusive",
            reason=f"no slice has {gate.min_rows:,} rows on which {gate.metric} can be compared",
            needs_rows=gate.min_rows,
        )
    small = [p.slice for p in evaluation.slices if p.slice not in judged]
    unjudged = f"; too small to judge: {_listed(small)}" if small else ""
    z = z_score(confidence)
    p_values = {s: p_value(loss - gate.margin, half / z) for s, (loss, half, _) in judged.items()}
    failed = holm(p_values, (1 - confidence) / 2)
    if failed:
        losses = ", ".join(f"{s} ({judged[s][0]:.4f} worse)" for s in failed)
        shown = f"{gate.metric} is beyond the margin of {gate.margin:g} on {losses}"
        return Verdict(gate=name, value="fail", reason=shown + unjudged)
    about = _about(evaluation, gate.metric)
    return _non_inferior_slices(name, gate, judged, unjudged, about)


def _non_inferior_slices(
    name: str,
    gate: SliceGate,
    judged: Mapping[str, tuple[float, float, int]],
    unjudged: str,
    about: str,
) -> Verdict:
    """judged: slice → (loss, half width, rows), none of them shown to be beyond the margin."""
    doubtful = [s for s, (loss, half, _) in judged.items() if loss + half > gate.margin]
    if not doubtful:
        shown = f"{gate.metric} is not worse by {gate.margin:g} on any of {len(judged)} slices"
        return Verdict(gate=name, value="pass", reason=shown + unjudged)
    worst = max(doubtful, key=lambda s: judged[s][0])
    loss, half, num_rows = judged[worst]
    shown = (
        f"{gate.metric} may be worse by more than {gate.margin:g} on {_listed(doubtful)}; on "
        f"{worst} it is {_better_or_worse(loss)} the champion's, ± {half:.4f}"
    )
    needed = _rows(num_rows, half, abs(loss - gate.margin))
    return _inconclusive(name, shown + unjudged, needed, about)


def _about(evaluation: Evaluation, metric: str) -> str:
    """How the rows are told that a difference needs. Where few items differ, that of shares is as
    wide as a score interval at 0, which shrinks faster than with √rows (items.least_error)."""
    is_share = metrics_in(evaluation)[metric].is_share
    return "at most about" if is_share and evaluation.task == "text" else "about"


def _listed(slices: Sequence[str], most: int = 6) -> str:
    rest = f" and {len(slices) - most} more" if len(slices) > most else ""
    return ", ".join(slices[:most]) + rest


def _decide_gap(name: str, gate: GapGate, evaluation: Evaluation, confidence: float) -> Verdict:
    """Every pair of slices is compared: pass when no pair may differ by more than the limit, fail
    when a pair does at the confidence shared among the pairs (Bonferroni)."""
    parts = [
        p
        for p in evaluation.slices
        if p.slice.partition("=")[0] == gate.column and p.num_rows >= gate.min_rows
    ]
    found = {
        p.slice: b for p in parts if (b := interval_at(p, gate.metric, confidence)) is not None
    }
    if len(found) < 2:
        return Verdict(
            gate=name,
            value="inconclusive",
            reason=f"{len(found)} slice(s) of {gate.column} have {gate.min_rows:,} rows and a "
            f"{gate.metric}; a gap needs two",
            needs_rows=2 * gate.min_rows,
        )
    ordered = sorted(found, key=lambda s: -found[s][0])
    pairs = list(combinations(ordered, 2))
    gaps = {pair: gap_between(found[pair[0]], found[pair[1]]) for pair in pairs}
    top, bottom = ordered[0], ordered[-1]
    gap, _, high = gaps[(top, bottom)]
    shown = (
        f"{gate.metric} differs by {gap:.4f} between {top} ({found[top][0]:.4f}) and {bottom} "
        f"({found[bottom][0]:.4f}), at most {gate.limit:g} is allowed"
    )
    widest = max(gaps[pair][2] for pair in pairs)
    if widest <= gate.limit:
        return Verdict(gate=name, value="pass", reason=f"{shown}, and no pair may exceed it")
    stretch = z_score(1 - (1 - confidence) / len(pairs)) / z_score(confidence)
    if any(value - (value - low) * stretch > gate.limit for value, low, _ in gaps.values()):
        return Verdict(gate=name, value="fail", reason=shown)
    num_rows = min(p.num_rows for p in parts if p.slice in (top, bottom))
    return _inconclusive(name, shown, _rows(num_rows, high - gap, abs(gap - gate.limit)))


def _decide_latency(name: str, gate: LatencyGate, evaluation: Evaluation) -> Verdict:
    measured = evaluation.latency
    if measured is None:
        reason = "what was measured is not kept beside this evaluation"
        return Verdict(gate=name, value="inconclusive", reason=reason)
    shown = (
        f"p95 {measured.p95_ms:.2f} ms for one row over {measured.num_calls} calls, "
        f"at most {gate.p95_ms:g} ms is allowed"
    )
    value: VerdictValue = "pass" if measured.p95_ms <= gate.p95_ms else "fail"
    if measured.num_calls < MIN_LATENCY_CALLS:
        shown, value = f"{shown}; {MIN_LATENCY_CALLS} calls are needed", "inconclusive"
    return Verdict(gate=name, value=value, reason=shown)


def _better_or_worse(loss: float) -> str:
    """The beginning of a comparison."""
    if loss == 0:
        return "as good as"
    return f"{abs(loss):.4f} {'worse' if loss > 0 else 'better'} than"


def _no_interval(name: str, what: str, num_rows: int) -> Verdict:
    why = "too few rows, or clusters of them, or one class only"
    reason = f"{what} has no interval on these {num_rows:,} rows: {why}"
    return Verdict(gate=name, value="inconclusive", reason=reason)


def _inconclusive(name: str, shown: str, num_rows: float | None, about: str = "about") -> Verdict:
    """num_rows: so many would settle it; None where the value is exactly at the limit."""
    if num_rows is None:
        return Verdict(
            gate=name,
            value="inconclusive",
            reason=f"{shown}; exactly at the limit, so no number of such rows settles it",
        )
    needs_rows = math.ceil(num_rows)
    reason = f"{shown}; {about} {needs_rows:,} such rows would tell"
    return Verdict(gate=name, value="inconclusive", reason=reason, needs_rows=needs_rows)


def _rows(num_rows: int, half: float, distance: float) -> float | None:
    """An interval of this half width shrinks with √rows, so it clears the distance at these."""
    return num_rows * (half / distance) ** 2 if distance else None
