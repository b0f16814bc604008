"""The model card: Markdown with Hugging Face metadata, every number copied from the evidence.

Nothing in it depends on the clock or the machine, so the same evidence gives the same bytes.
"""

import json
from collections.abc import Iterable, Sequence

from huggingface_hub import EvalResult, ModelCardData

from rayapp.config.release import CardConfig
from rayapp.schemas.data import Snapshot, TableVersion, Task
from rayapp.schemas.model import Run
from rayapp.schemas.release import Estimate, Evaluation, SliceEvaluation, Verdict

_MAX_WORST_SLICES = 5
_PIPELINES: dict[Task, str] = {
    "binary": "tabular-classification",
    "multiclass": "tabular-classification",
    "regression": "tabular-regression",
    "text": "text-generation",
}
_RANKED_BY: dict[Task, tuple[str, bool]] = {
    "binary": ("auc", True),
    "multiclass": ("auc", True),
    "regression": ("rmse", False),
    "text": ("exact_match", True),
}
"""The metric that slices are ranked by, and whether more of it is better."""


def render_card(
    run: Run,
    snapshot: Snapshot,
    evaluation: Evaluation,
    verdicts: Sequence[Verdict],
    config: CardConfig,
    endpoint: str,
) -> str:
    """A complete card that huggingface_hub.ModelCard reads. Ends with a line break."""
    sections = [
        f"# {endpoint}: {run.bundle.bundle_schema.name}",
        _details(run, config, endpoint),
        f"## Intended use\n\n{config.intended_use}",
        f"## Out of scope\n\n{config.out_of_scope}",
        _training_data(run, snapshot),
        _evaluation(evaluation),
        _gates(verdicts),
        _limitations(evaluation, verdicts),
        _reproduction(run, evaluation),
        _provenance(run, snapshot, evaluation),
    ]
    metadata = _metadata(run, snapshot, evaluation, config, endpoint)
    return f"---\n{metadata}\n---\n\n" + "\n\n".join(s.strip() for s in sections) + "\n"


def _metadata(
    run: Run,
    snapshot: Snapshot,
    evaluation: Evaluation,
    config: CardConfig,
    endpoint: str,
) -> str:
    pipeline = _PIPELINES[snapshot.task]
    results = [
        EvalResult(
            task_type=pipeline,
            dataset_type=snapshot.name,
            dataset_name=snapshot.name,
            dataset_split=evaluation.split,
            dataset_revision=evaluation.snapshot_id,
            metric_type=estimate.metric,
            metric_value=estimate.value,
        )
        for estimate in evaluation.overall.estimates
        if estimate.value is not None
    ]
    data = ModelCardData(
        license=config.license,
        library_name="rayapp",
        pipeline_tag=pipeline,
        tags=[endpoint, run.bundle.bundle_schema.family, snapshot.task],
        model_name=run.bundle.bundle_schema.name if results else None,
        eval_results=results or None,
    )
    return data.to_yaml()


def _details(run: Run, config: CardConfig, endpoint: str) -> str:
    schema = run.bundle.bundle_schema
    target = f"`{schema.label}`"
    if schema.classes:
        target += " (" + ", ".join(f"`{name}`" for name in schema.classes) + ")"
    facts = [
        ("Endpoint", f"`{endpoint}`"),
        ("Family", f"`{schema.family}`"),
        ("Task", f"{schema.task}, predicts {target}"),
        ("Owner", config.owner),
        ("License", config.license),
        ("Inputs", f"{len(schema.inputs)} columns, {len(schema.features)} features"),
    ]
    inputs = [
        (
            f"`{c.name}`",
            c.type,
            "may be empty" if c.nullable else "required",
            c.classification or "not stated",
        )
        for c in schema.inputs
    ]
    listed = _table(("Input", "Type", "Presence", "Classification"), inputs)
    return f"## Model details\n\n{_bullets(facts)}\n\n{listed}"


def _training_data(run: Run, snapshot: Snapshot) -> str:
    rows = [_table_row(table) for table in (*snapshot.tables, snapshot.view)]
    head = ("Table", "Version", "Rows", "Quarantined", "Contract", "Digest")
    splits = ", ".join(f"{split.name} {split.num_rows:,}" for split in snapshot.splits)
    order = "each row has its prediction time" if snapshot.time_column else "no prediction times"
    return (
        f"## Training data\n\nSnapshot `{snapshot.name}`, `{run.snapshot_id}` ({order}). "
        f"Rows per split: {splits}. Trained on {run.num_rows:,} rows.\n\n{_table(head, rows)}"
    )


def _table_row(table: TableVersion) -> tuple[str, ...]:
    contract = f"{table.contract.id} {table.contract.version}" if table.contract else "none"
    return (
        f"`{table.name}`",
        str(table.version),
        f"{table.num_rows:,}",
        f"{table.num_quarantined:,}",
        contract,
        f"`{table.digest}`",
    )


def _evaluation(evaluation: Evaluation) -> str:
    metrics = _table(
        ("Metric", "Value", "Interval", "Confidence", "Rows"),
        [
            (
                e.metric,
                _value(e),
                _interval(e),
                f"{e.confidence:.0%}",
                f"{e.num_rows:,}",
            )
            for e in evaluation.overall.estimates
        ],
    )
    latency = evaluation.latency
    asked = "the golden set" if evaluation.golden else f"split `{evaluation.split}`"
    rows = f"On {evaluation.overall.num_rows:,} rows of {asked}."
    speed = (
        ""
        if latency is None
        else (
            f"One row through the loaded bundle takes {latency.p50_ms:.2f} ms (median), "
            f"{latency.p95_ms:.2f} ms (95th percentile), {latency.p99_ms:.2f} ms (99th), "
            f"over {latency.num_calls:,} calls."
        )
    )
    in_words = (_golden(evaluation), _judge(evaluation), _answers(evaluation))
    said = ["## Evaluation", rows, metrics, speed, *in_words, _comparison(evaluation)]
    parts = [part for part in said if part]
    if evaluation.slices:
        parts.append(f"### Slices\n\n{_slices(evaluation)}")
    return "\n\n".join(parts)


def _golden(evaluation: Evaluation) -> str:
    golden = evaluation.golden
    if golden is None:
        return ""
    found = golden.contamination
    runs = f" and their runs of {found.ngram_words} words" if found.ngram_words else ""
    named = "".join(f"\n- {_one_line(item)}" for item in found.items)
    return (
        f"Golden set `{golden.name}`, version {golden.version}, of {golden.owner}: "
        f"{golden.num_items:,} items, SHA-256 `{golden.sha256}`. {found.num_training_rows:,} rows "
        f"of training and tuning were searched for the items' texts{runs}: {len(found.items)} of "
        f"them are contaminated, at most {found.max_share:.1%} may be; they are in no metric."
        + (f"\n{named}" if named else "")
    )


def _judge(evaluation: Evaluation) -> str:
    """Who judged, how often that errs, and what it said before it was corrected."""
    judged = evaluation.judged
    if judged is None:
        return ""
    shares = (
        ("called right by the judge, tuned", judged.raw),
        (f"`{judged.metric}`, tuned", judged.corrected),
        ("called right by the judge, untuned", judged.raw_untuned),
        (f"`{judged.metric}`, untuned", judged.corrected_untuned),
        ("called right by the judge, champion", judged.raw_champion),
        (f"`{judged.metric}`, champion", judged.corrected_champion),
        ("sensitivity", judged.sensitivity),
        ("specificity", judged.specificity),
    )
    rows = [
        (name, _value(e), _interval(e), f"{e.num_rows:,}") for name, e in shares if e is not None
    ]
    unread = [f"{judged.num_unread:,} tuned", f"{judged.num_unread_untuned:,} untuned"]
    if judged.num_unread_champion is not None:
        unread.append(f"{judged.num_unread_champion:,} of the champion's")
    return (
        f"`{judged.metric}` is what {judged.judge} says of the answers, told by prompt "
        f"`{judged.prompt_name}` (`{judged.prompt_digest}`), corrected by its errors on "
        f"{judged.num_anchors:,} anchors that {judged.anchors_owner} labelled (SHA-256 "
        f"`{judged.anchors_sha256}`). Without a verdict: {judged.num_unread_anchors:,} anchors; of "
        f"the answers {', '.join(unread)}.\n\n"
        f"{_table(('Judge', 'Share', 'Interval', 'Of'), rows)}"
    )


def _answers(evaluation: Evaluation) -> str:
    """How items were answered in words, and what that took."""
    how = evaluation.answering
    if how is None:
        return ""
    drawn = (
        "One answer an item, by the likeliest tokens"
        if how.temperature is None
        else f"{how.samples_per_item} answers an item, sampled at temperature {how.temperature:g}, "
        f"top p {how.top_p:g}, seed {how.seed}"
    )
    by = f"; errors are clustered by `{how.cluster_by}`" if how.cluster_by else ""
    rows = [
        (
            c.model,
            f"{c.num_answers:,}",
            f"{c.num_prompt_tokens:,}",
            f"{c.num_tokens:,}",
            "not kept" if c.ms_per_answer is None else f"{c.ms_per_answer:,.1f}",
            c.hardware or "not kept",
        )
        for c in evaluation.costs
    ]
    head = ("Model", "Answers", "Prompt tokens", "Answer tokens", "ms an answer", "Hardware")
    return (
        f"{drawn}, at most {how.max_tokens:,} tokens each{by}. The times are of this evaluation's "
        f"hardware, many answers at a time, not an engine's.\n\n{_table(head, rows)}"
    )


def _comparison(evaluation: Evaluation) -> str:
    parts = []
    if evaluation.champion is None:
        parts.append("There was no champion to compare with.")
    for opponent, name in evaluation.opponents.items():
        rows = [
            (
                d.metric,
                f"{d.value:+.4f}",
                f"[{d.low:+.4f}, {d.high:+.4f}]",
                f"{d.confidence:.0%}",
            )
            for d in evaluation.differences(evaluation.overall, opponent)
        ]
        head = ("Metric", f"Candidate − {opponent}", "Interval", "Confidence")
        parts.append(f"### Against {opponent} `{name}`\n\n{_table(head, rows)}")
    return "\n\n".join(parts)


def _slices(evaluation: Evaluation) -> str:
    metric, _ = _RANKED_BY[evaluation.task]
    rows = []
    for part in evaluation.slices:
        estimate = _estimate(part, metric)
        shown = (_value(estimate), _interval(estimate)) if estimate else ("not measured", "")
        rows.append((part.slice, f"{part.num_rows:,}", *shown))
    return _table(("Slice", "Rows", metric, "Interval"), rows)


def _gates(verdicts: Sequence[Verdict]) -> str:
    if not verdicts:
        return "## Gates\n\nNo gate was judged."
    rows = [(v.gate, v.value, v.reason) for v in verdicts]
    return f"## Gates\n\n{_table(('Gate', 'Verdict', 'Reason'), rows)}"


def _limitations(evaluation: Evaluation, verdicts: Sequence[Verdict]) -> str:
    """What the evaluation itself found: weak slices, what stayed open, what could not be told."""
    found = [f"Gate `{v.gate}` is {v.value}: {v.reason}." for v in verdicts if v.value != "pass"]
    found += _weak_slices(evaluation)
    undefined = [e.metric for e in evaluation.overall.estimates if e.value is None]
    if undefined:
        found.append(f"These rows do not define {', '.join(undefined)}.")
    if not evaluation.slices:
        found.append("No slice was evaluated: weak groups may be hidden by the average.")
    found = found or ["No gate stayed open and no slice is worse than all rows together."]
    return "## Limitations\n\n" + "\n".join(f"- {_one_line(line)}" for line in found)


def _weak_slices(evaluation: Evaluation) -> list[str]:
    """Worst first: slices whose whole interval is worse than the value over all rows; then how many
    there are besides, and of how many slices nothing can be told."""
    metric, more_is_better = _RANKED_BY[evaluation.task]
    whole = _estimate(evaluation.overall, metric)
    if whole is None or whole.value is None or not evaluation.slices:
        return []
    weak: list[tuple[float, str, Estimate]] = []
    num_untold = 0
    for part in evaluation.slices:
        found = _estimate(part, metric)
        if found is None or found.value is None or found.low is None or found.high is None:
            num_untold += 1
        elif found.high < whole.value if more_is_better else found.low > whole.value:
            weak.append((abs(found.value - whole.value), part.slice, found))
    weak.sort(reverse=True)
    said = [
        f"Slice `{name}` is weaker than all rows: {metric} {_value(e)} {_interval(e)} on "
        f"{e.num_rows:,} rows, against {_value(whole)}."
        for _, name, e in weak[:_MAX_WORST_SLICES]
    ]
    if len(weak) > _MAX_WORST_SLICES:
        more = len(weak) - _MAX_WORST_SLICES
        said.append(f"{more} more of {len(evaluation.slices)} slices are weaker: see Slices.")
    if num_untold:
        said.append(
            f"{num_untold} of {len(evaluation.slices)} slices have too few rows for an interval of "
            f"{metric}: how well they are served is not known."
        )
    return said


def _reproduction(run: Run, evaluation: Evaluation) -> str:
    settings = [(f"`{name}`", f"`{value}`") for name, value in _flat(run.config)]
    asked = "the golden set" if evaluation.golden else f"split `{evaluation.split}`"
    return (
        "## How to reproduce\n\n"
        f"Train run `{run.run_id}` again: snapshot `{run.snapshot_id}`, code `{run.code_digest}`, "
        f"environment `{run.environment_digest}` and the settings below; then evaluate it on "
        f"{asked}. Training took {run.cpu_s:,.0f} CPU-s.\n\n"
        f"{_table(('Setting', 'Value'), settings)}"
    )


def _provenance(run: Run, snapshot: Snapshot, evaluation: Evaluation) -> str:
    facts = [
        ("Run", f"`{run.run_id}`"),
        ("MLflow run", f"`{run.mlflow_run_id}`"),
        ("Bundle", f"`{run.bundle.digest}`"),
        ("Snapshot", f"`{run.snapshot_id}`"),
        ("Snapshot config", f"`{snapshot.config_digest}`"),
        ("Evaluation", f"`{evaluation.content_digest()}`"),
        ("Code", f"`{run.code_digest}`"),
        ("Environment", f"`{run.environment_digest}`"),
    ]
    files = [(f"`{f.path}`", f"{f.num_bytes:,}", f"`{f.sha256}`") for f in run.bundle.files]
    listed = _table(("Bundle file", "Bytes", "SHA-256"), files)
    return f"## Provenance\n\n{_bullets(facts)}\n\n{listed}"


def _estimate(part: SliceEvaluation, metric: str) -> Estimate | None:
    return next((e for e in part.estimates if e.metric == metric), None)


def _value(estimate: Estimate) -> str:
    return "not defined" if estimate.value is None else f"{estimate.value:.4f}"


def _interval(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return ""
    return f"[{estimate.low:.4f}, {estimate.high:.4f}]"


def _flat(settings: dict[str, object], prefix: str = "") -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for name, value in settings.items():
        if isinstance(value, dict):
            found += _flat(value, f"{prefix}{name}.")
        elif value is not None:
            plain = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            found.append((f"{prefix}{name}", plain))
    return found


def _bullets(facts: Iterable[tuple[str, str]]) -> str:
    return "\n".join(f"- {name}: {_one_line(value)}" for name, value in facts)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(c) for c in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return _one_line(text).replace("|", "\\|")


def _one_line(text: str) -> str:
    return " ".join(text.split())
