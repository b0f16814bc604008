"""The evaluation as one self-contained HTML page that a reviewer can read, print and file."""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rayapp.evaluate import plots
from rayapp.evaluate.declared import metrics_in
from rayapp.evaluate.metrics import Metric
from rayapp.pages import page
from rayapp.schemas.data import Task
from rayapp.schemas.model import BundleSchema
from rayapp.schemas.release import Difference, Estimate, Evaluation, Verdict, not_passed

HEADLINE_METRIC: dict[Task, str] = {
    "binary": "auc",
    "multiclass": "auc",
    "regression": "rmse",
    "text": "exact_match",
}
_MAX_FOREST_ROWS = 80
_WORDS = {"pass": "passed", "fail": "failed", "inconclusive": "inconclusive"}


def render(
    evaluation: Evaluation,
    verdicts: Sequence[Verdict],
    title: str,
    created_at: datetime,
    bundle_schema: BundleSchema,
    extra: Mapping[str, str],
) -> str:
    """A complete HTML document. extra: label → text lines for the head, such as the run id."""
    return page(
        "rayapp.evaluate",
        "report.html",
        title=title,
        schema=bundle_schema,
        created_at=created_at.astimezone(UTC).strftime("%-d %B %Y, %H:%M UTC"),
        extra=extra,
        evaluation=evaluation,
        outcome=banner(verdicts),
        verdicts=[{"word": _WORDS[v.value], "verdict": v} for v in verdicts],
        headline=_headline(evaluation),
        opponents=_opponents(evaluation),
        metrics=_metric_rows(evaluation),
        pictures=_pictures(evaluation, bundle_schema),
        answering=_answering(evaluation),
        judge=_judge(evaluation),
        forest=_forest(evaluation),
        forest_metric=_name(HEADLINE_METRIC[evaluation.task]),
        asked=_asked(evaluation),
        changes=_slice_changes(evaluation),
        label=_label(evaluation),
        has_time=len({s.period for s in evaluation.label_shares}) > 1,
    )


def banner(verdicts: Sequence[Verdict]) -> dict[str, str]:
    """The page's first line: its colour (a verdict's value) and its text."""
    if not verdicts:
        return {"value": "inconclusive", "text": "No gate was judged"}
    stopped = not_passed(verdicts)
    if not stopped:
        return {"value": "pass", "text": f"Accepted: all {len(verdicts)} gates passed"}
    has_failed = any(verdict.value == "fail" for verdict in verdicts)
    return {"value": "fail" if has_failed else "inconclusive", "text": f"Refused: {stopped}"}


def _headline(evaluation: Evaluation) -> list[dict[str, str]]:
    """The three or four numbers that a reader wants first."""
    metric = HEADLINE_METRIC[evaluation.task]
    found = plots.estimate_of(evaluation.overall, metric)
    tiles = []
    if found is not None:
        tiles.append({"name": _name(metric), "value": number(found.value), "note": interval(found)})
    for opponent in evaluation.opponents:
        for change in evaluation.differences(evaluation.overall, opponent):
            if change.metric == metric:
                note = f"{signed(change.low)} to {signed(change.high)}, paired"
                told = {"name": f"against the {opponent}", "value": signed(change.value)}
                tiles.append({**told, "note": note})
    rows, split = evaluation.overall.num_rows, evaluation.split
    asked = "golden items" if evaluation.golden else f"{split} rows"
    tiles.append({"name": asked, "value": f"{rows:,}", "note": _slices_note(evaluation)})
    latency = evaluation.latency
    if latency is None:
        return tiles
    note = f"median {latency.p50_ms:.2f} ms, p99 {latency.p99_ms:.2f} ms, one row"
    return [*tiles, {"name": "latency p95", "value": f"{latency.p95_ms:.2f} ms", "note": note}]


def _asked(evaluation: Evaluation) -> str:
    """What the numbers are of, in words."""
    num_rows = f"{evaluation.overall.num_rows:,}"
    if evaluation.golden is not None:
        return (
            f"{num_rows} items of the golden set, which were searched for in the training rows "
            "(see Golden set)"
        )
    return f"{num_rows} {evaluation.split} rows that neither training nor tuning has seen"


def _slices_note(evaluation: Evaluation) -> str:
    columns = dict.fromkeys(s.slice.partition("=")[0] for s in evaluation.slices)
    if not columns:
        return "no slices declared"
    num_slices = len(evaluation.slices)
    return f"{num_slices} slice{'s' if num_slices > 1 else ''} of {', '.join(columns)}"


def _opponents(evaluation: Evaluation) -> list[str]:
    """Those that there are differences to."""
    return [
        opponent
        for opponent in evaluation.opponents
        if evaluation.differences(evaluation.overall, opponent)
    ]


def _metric_rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    metrics, overall = metrics_in(evaluation), evaluation.overall
    changes = [
        {d.metric: d for d in evaluation.differences(overall, opponent)}
        for opponent in _opponents(evaluation)
    ]
    return [
        {
            "name": _name(e.metric),
            "meaning": metrics[e.metric].meaning,
            "better": {True: "higher", False: "lower", None: "–"}[
                metrics[e.metric].higher_is_better
            ],
            "value": number(e.value),
            "interval": interval(e),
            "changes": [_change(of.get(e.metric), metrics[e.metric]) for of in changes],
        }
        for e in overall.estimates
    ]


def _change(difference: Difference | None, metric: Metric) -> dict[str, str]:
    """The change against an opponent, and whether it is one for the better beyond doubt."""
    if difference is None:
        return {"change": "", "change_interval": "", "change_class": ""}
    better = metric.higher_is_better
    clear = difference.low > 0 or difference.high < 0
    good = clear and better is not None and (difference.value > 0) == better
    bad = clear and better is not None and not good
    return {
        "change": signed(difference.value),
        "change_interval": f"{signed(difference.low)} to {signed(difference.high)}",
        "change_class": "good" if good else "bad" if bad else "",
    }


def _answering(evaluation: Evaluation) -> str:
    """How items were answered in words, as one sentence; empty where they were not."""
    how = evaluation.answering
    if how is None:
        return ""
    if how.temperature is None:
        said = "Each item was answered once, by the likeliest token each time"
    else:
        said = (
            f"Each item was answered {how.samples_per_item} times, sampled at temperature "
            f"{how.temperature:g} and top p {how.top_p:g} with seed {how.seed}; an item counts once"
        )
    by = f", and items with the same {how.cluster_by} are one cluster" if how.cluster_by else ""
    return f"{said}{by}. Answers are cut after {how.max_tokens:,} tokens."


def _judge(evaluation: Evaluation) -> dict[str, Any] | None:
    """What a judge said and how it errs, a row for each share; None where there was none."""
    judged = evaluation.judged
    if judged is None:
        return None
    name = _name(judged.metric)
    num_answers = evaluation.costs[0].num_answers if evaluation.costs else 0
    models = [
        ("tuned", judged.raw, judged.corrected, judged.num_unread),
        ("untuned", judged.raw_untuned, judged.corrected_untuned, judged.num_unread_untuned),
        ("champion", judged.raw_champion, judged.corrected_champion, judged.num_unread_champion),
    ]
    rows = []
    for model, raw, corrected, num_unread in models:
        if raw is not None and corrected is not None:
            unread = f"{num_unread:,} of {num_answers:,} answers"
            uncorrected = "as the judge says it, uncorrected"
            rows.append(_judged_row(f"called right, {model}", uncorrected, raw, "items", unread))
            title = f"{name}, {model}"
            rows.append(_judged_row(title, "the same, corrected", corrected, "items", unread))
    unread = f"{judged.num_unread_anchors:,} of {judged.num_anchors:,} anchors"
    for title, kind, share in (
        ("sensitivity", "right", judged.sensitivity),
        ("specificity", "wrong", judged.specificity),
    ):
        meaning = f"{kind} anchors that it calls {kind}"
        rows.append(_judged_row(title, meaning, share, "anchors", unread))
    return {"name": name, "rows": rows}


def _judged_row(
    title: str, meaning: str, share: Estimate, counted: str, unread: str
) -> dict[str, str]:
    return {
        "name": title,
        "meaning": meaning,
        "of": f"{share.num_rows:,} {counted}",
        "value": number(share.value),
        "interval": interval(share),
        "unread": unread,
    }


def _pictures(evaluation: Evaluation, schema: BundleSchema) -> list[dict[str, str]]:
    curves = {c.name: c for c in evaluation.curves}
    found = []
    if "roc" in curves:
        rate = plots.estimate_of(evaluation.overall, "label_rate")
        chance = (rate.value or 0.0) if rate is not None else 0.0
        found.append(("ROC", plots.roc_plot(curves)))
        found.append(("Precision and recall", plots.precision_recall_plot(curves, chance)))
    if "calibration" in curves:
        found.append(("Calibration, 15 equal-mass groups", plots.calibration_plot(curves)))
    if "scores_negative" in curves:
        found.append(("Predicted probabilities", plots.score_plot(curves, schema.classes)))
    if "confusion" in curves:
        found.append(("Confusion", plots.confusion_plot(curves["confusion"], schema.classes)))
    if "predicted_vs_actual" in curves:
        found.append(("Predicted and actual", plots.actual_plot(curves["predicted_vs_actual"])))
    return [{"title": title, "svg": svg} for title, svg in found]


def _forest(evaluation: Evaluation) -> str:
    slices = evaluation.slices[:_MAX_FOREST_ROWS]
    metric = HEADLINE_METRIC[evaluation.task]
    return plots.forest_plot(slices, evaluation.overall, metric, _name(metric)) if slices else ""


def _slice_changes(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Slices by their change against the first opponent, worst first; the ten worst are shown."""
    metric = HEADLINE_METRIC[evaluation.task]
    told = metrics_in(evaluation)[metric]
    sign = 1 if told.higher_is_better else -1
    pairs = [
        (s, d)
        for s in evaluation.slices
        for opponent in _opponents(evaluation)[:1]
        for d in evaluation.differences(s, opponent)
        if d.metric == metric
    ]
    pairs.sort(key=lambda pair: sign * pair[1].value)
    return [
        {"slice": s.slice.replace("=", " = ", 1), "rows": f"{s.num_rows:,}", **_change(d, told)}
        for s, d in pairs[:10]
    ]


def _label(evaluation: Evaluation) -> str:
    if not evaluation.label_shares:
        return ""
    return plots.label_plot(evaluation.label_shares, evaluation.task != "regression")


def _name(metric: str) -> str:
    tries = re.fullmatch(r"(.+)_pass_(at|all)_(\d+)", metric)
    if tries is not None:
        sign = "@" if tries[2] == "at" else "^"
        return f"{_name(tries[1])} pass{sign}{tries[3]}"
    return {"auc": "AUC", "mae": "MAE", "rmse": "RMSE", "r2": "R²"}.get(
        metric, metric.replace("_", " ")
    )


def number(value: float | None) -> str:
    return "undefined" if value is None else _plain(value).replace("-", "−")


def _plain(value: float, sign: str = "-") -> str:
    """Four decimals, of numbers that are no share fewer."""
    return f"{value:{sign}.{4 if abs(value) < 10 else 2}f}"


def signed(value: float) -> str:
    return _plain(value, "+").replace("-", "−")


def interval(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return "too few rows for an interval"
    return f"{number(estimate.low)} to {number(estimate.high)}"
