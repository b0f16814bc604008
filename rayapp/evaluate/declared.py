"""Metrics that a release config declares for answers in words, beside those of the table."""

from collections.abc import Mapping
from dataclasses import replace

from rayapp.config.judging import JudgeConfig
from rayapp.config.release import AnswerWorkersConfig, EvaluationConfig
from rayapp.errors import ConfigError
from rayapp.evaluate.graders import grade_of
from rayapp.evaluate.metrics import METRICS, Metric
from rayapp.evaluate.tries import names_of
from rayapp.schemas.data import Task
from rayapp.schemas.release import DeclaredMetric, Evaluation

GRADED = ("exact_match", "field_f1")
"""Metrics of the table that grade each answer."""
_MEANINGS = {
    "exact": "is the right one",
    "normalised": "is the right one but for case, white space and punctuation",
    "regex": "has the pattern {pattern!r}",
    "json_schema": "is JSON that the schema accepts",
    "numeric": "is the right number within its tolerance",
    "refusal": "refuses",
    "length": "has a length of {unit} within limits",
}


def declared_metrics(config: EvaluationConfig, task: Task) -> dict[str, Metric]:
    """By name. Raises ConfigError for what could not be measured, or has no effect with the
    task."""
    if task != "text":
        _refuse_for_scores(config, task)
        return {}
    found: dict[str, Metric] = {}
    for name, grader in config.graders.items():
        if name in METRICS:
            raise ConfigError(
                f"evaluation.graders: {name!r} is a metric already", "give the grader its own name"
            )
        grade_of(name, grader)
        settings = grader.model_dump()
        what = f"the answer's {settings['field']}" if settings.get("field") else "the answer"
        says = _MEANINGS[grader.kind].format(**settings)
        if settings.get("wanted") is False:
            says = "does not refuse"
        found[name] = _share(f"how often {what} {says}")
    tries = _of_tries(config, found)
    return found | tries | _of_judge(config.judge, {**METRICS, **found, **tries})


def _of_judge(judge: JudgeConfig | None, known: Mapping[str, Metric]) -> dict[str, Metric]:
    if judge is None:
        return {}
    if judge.metric in known:
        raise ConfigError(
            f"evaluation.judge.metric: {judge.metric!r} is a metric already",
            "give the judge's its own name",
        )
    meaning = "share of right answers as a judge sees it, its errors on anchors taken out"
    return {judge.metric: replace(_share(meaning), is_of_all_rows=True)}


def _of_tries(config: EvaluationConfig, graders: Mapping[str, Metric]) -> dict[str, Metric]:
    samples = config.samples
    if samples is None:
        return {}
    known = [*GRADED, *graders]
    found: dict[str, Metric] = {}
    for success in samples.success:
        if success not in known:
            raise ConfigError(
                f"evaluation.samples.success: {success!r} grades no answer",
                f"choose of {', '.join(known)}",
            )
        for k in samples.tries:
            names = names_of(success, k)
            for name, wanted in zip(names, ("at least one", "each"), strict=False):
                of = f"{wanted} of {k} sampled answers" if k > 1 else "a sampled answer"
                found[name] = _share(f"chance that {of} has {success} 1")
    twice = found.keys() & graders.keys()
    if twice:
        raise ConfigError(
            f"evaluation.graders: {min(twice)!r} is what samples are called by", "rename the grader"
        )
    return found


def _share(meaning: str) -> Metric:
    return Metric(meaning, ("text",), True, "share", is_share=True)


def _refuse_for_scores(config: EvaluationConfig, task: Task) -> None:
    names = ("graders", "golden", "samples", "cluster_by", "judge")
    set_of_text = [name for name in names if getattr(config, name)]
    if config.redacts != EvaluationConfig().redacts:
        set_of_text.append("redacts")
    # an overlay gives a GPU to whatever it reaches
    own = config.workers.model_copy(update={"use_gpu": False, "accelerator_type": None})
    if own != AnswerWorkersConfig():
        set_of_text.append("workers")
    if set_of_text:
        raise ConfigError(
            f"evaluation.{set_of_text[0]} has no effect with task {task}: it is for answers in "
            "words",
            "remove it, or release a model of task text",
        )


def as_records(metrics: Mapping[str, Metric]) -> tuple[DeclaredMetric, ...]:
    return tuple(
        DeclaredMetric(
            name=name,
            meaning=metric.meaning,
            higher_is_better=metric.higher_is_better,
            unit=metric.unit,
        )
        for name, metric in metrics.items()
    )


def metrics_in(evaluation: Evaluation) -> Mapping[str, Metric]:
    """Every metric that an evaluation can have, by name: the table's and its own. A judge's is no
    share here: its interval has the errors of its anchors too."""
    judged = None if evaluation.judged is None else evaluation.judged.metric
    own = {
        m.name: Metric(
            m.meaning,
            ("text",),
            m.higher_is_better,
            m.unit,
            is_share=m.unit == "share" and m.name != judged,
        )
        for m in evaluation.metrics
    }
    return {**METRICS, **own}
