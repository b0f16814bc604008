"""A judge of answers: who it is, how often it errs on anchors, and what it says of a model.

Its errors come first: a judge that says nothing is refused before any model has answered.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from rayapp.config.judging import JudgeConfig
from rayapp.config.prompts import PromptConfig
from rayapp.config.release import AnswerWorkersConfig, EvaluationConfig
from rayapp.data.anchors import WHAT, AnchorRows, anchor_objects, anchor_table, too_few
from rayapp.data.read import read_view
from rayapp.evaluate.contamination import find_contamination, refuse_share
from rayapp.evaluate.judge import Anchors
from rayapp.evaluate.judged import Judging
from rayapp.evaluate.judging import (
    EXPECTED,
    Case,
    Chat,
    Read,
    Verdicts,
    check_judge,
    count_anchors,
    refuse_coin,
    refuse_unread,
    verdicts_of,
)
from rayapp.evaluate.replies import replies_of
from rayapp.evaluate.served import ServedJudge, key_of
from rayapp.families.llm.answer import ANSWERERS
from rayapp.flows.room import ONE_CPU, telling_waits
from rayapp.flows.session import Session, now_and_then
from rayapp.flows.weights import find_weights
from rayapp.llm.environment import tuning_env
from rayapp.schemas.data import Snapshot
from rayapp.schemas.model import Feature, LanguageSchema, Run
from rayapp.schemas.prompt import Prompt
from rayapp.schemas.record import short
from rayapp.schemas.release import Contamination
from rayapp.transforms import feature_table


def judge_inputs(session: Session, config: JudgeConfig | None) -> Any:
    """What decides a judge's verdicts beside the release config itself: part of the key of an
    evaluation. Of a served model that is not known."""
    if config is None:
        return None
    prompt = session.load(PromptConfig, config.prompt).prompt
    weights = None if config.weights is None else find_weights(session.ledger, config.weights)
    return [prompt.content_digest(), None if weights is None else weights.digest]


@dataclass(frozen=True)
class MeasuredJudge:
    """A judge whose errors are known well enough. ask: it, with a word for what is asked."""

    session: Session
    config: JudgeConfig
    who: str
    prompt: Prompt
    ask: Callable[[Sequence[Chat]], Sequence[str]]
    features: tuple[Feature, ...]
    anchors: Anchors
    num_anchors: int
    num_unread_anchors: int
    contamination: Contamination

    def judge(self, answered: pa.Table, label: str) -> Judging:
        """Of every answer of each model. answered: the rows, with what each said of them. Raises
        JudgeRefused where too many answers have no verdict."""
        values = feature_table(self.features, answered).to_pylist()
        expected = answered.column(label).to_pylist()
        texts = {
            model: [said["texts"] for said in answered.column(column).to_pylist()]
            for model, column in ANSWERERS.items()
            if column in answered.column_names
        }
        cases = [
            Case(row, right, text)
            for said in texts.values()
            for row, right, samples in zip(values, expected, said, strict=True)
            for text in samples
        ]
        read = verdicts_of(cases, self.prompt, self.ask, self.config.verdict)
        num_each, per_item = len(cases) // len(texts), len(texts["tuned"][0])
        verdicts = {}
        for n, model in enumerate(texts):
            one = read.take(n * num_each, (n + 1) * num_each)
            refuse_unread(f"answers of the {model} model", one, self.config)
            self.session.say(
                f"judge {self.config.metric}: {one.verdicts.count(True):,} of {num_each:,} "
                f"{model} answers called right, {one.num_unread:,} without a verdict"
            )
            verdicts[model] = Verdicts.of_samples(one.verdicts, per_item)
        return Judging(
            config=self.config,
            who=self.who,
            prompt=self.prompt,
            anchors=self.anchors,
            num_anchors=self.num_anchors,
            num_unread_anchors=self.num_unread_anchors,
            contamination=self.contamination,
            tuned=verdicts["tuned"],
            untuned=verdicts["untuned"],
            champion=verdicts.get("champion"),
        )


def measure_judge(
    session: Session,
    evaluation: EvaluationConfig,
    language: LanguageSchema,
    run: Run,
    snapshot: Snapshot,
) -> MeasuredJudge | None:
    """None where none is configured. Raises DataError for too few anchors, ContaminationRefused for
    such as the model has learned from, JudgeRefused for a judge that says nothing."""
    config = evaluation.judge
    if config is None:
        return None
    prompt = session.load(PromptConfig, config.prompt).prompt
    check_judge(config, prompt, [feature.name for feature in language.features])
    who, ask = _judge(session, config, evaluation.workers)
    anchors, contamination = _anchors(session, config, prompt, run, snapshot)
    values = feature_table(language.features, anchors.rows).to_pylist()
    expected = anchors.rows.column(snapshot.label).to_pylist()
    answers = zip(values, expected, anchors.answered, strict=True)
    cases = [Case(row, right, text) for row, right, text in answers]
    read = verdicts_of(cases, prompt, ask, config.verdict)
    counted = _counted(config, anchors, read, evaluation.confidence)
    session.say(
        f"judge {config.metric}: called {counted.called_right} of {counted.num_right} right "
        f"anchors right and {counted.called_wrong} of {counted.num_wrong} wrong ones wrong, "
        f"{read.num_unread} without a verdict"
    )
    return MeasuredJudge(
        session=session,
        config=config,
        who=who,
        prompt=prompt,
        ask=ask,
        features=language.features,
        anchors=counted,
        num_anchors=len(cases),
        num_unread_anchors=read.num_unread,
        contamination=contamination,
    )


def _counted(config: JudgeConfig, rows: AnchorRows, read: Read, confidence: float) -> Anchors:
    refuse_unread("anchors", read, config)
    counted = count_anchors(rows.is_right, read)
    refuse_few(config, counted)
    refuse_coin(config.metric, counted, confidence)
    return counted


def refuse_few(config: JudgeConfig, counted: Anchors) -> None:
    """Raises DataError where too few anchors of a kind have a verdict."""
    for count, is_right in ((counted.num_right, True), (counted.num_wrong, False)):
        if count < config.anchors.min_of_each:
            raise too_few(count, is_right, config.anchors.min_of_each)


def _anchors(
    session: Session, config: JudgeConfig, prompt: Prompt, run: Run, snapshot: Snapshot
) -> tuple[AnchorRows, Contamination]:
    """Those that the judged model has not learned from."""
    schema = run.bundle.bundle_schema
    assert schema.language is not None
    rows = anchor_table(
        anchor_objects(config.anchors),
        schema.inputs,
        snapshot.view.columns,
        snapshot.label,
        schema.language.fields,
        EXPECTED in prompt.places,
    )
    inputs = [column.name for column in schema.inputs]
    with telling_waits(session, ONE_CPU):
        found, is_clean = find_contamination(
            rows.rows,
            schema.language.features,
            [read_view(snapshot, split, inputs) for split in ("train", "tune")],
            config.anchors.contamination,
        )
    session.say(
        f"judge {config.metric}: {len(found.items)} of {len(is_clean):,} anchors occur in "
        f"{found.num_training_rows:,} training rows"
    )
    refuse_share(WHAT, found, len(is_clean))
    return rows.take(is_clean), found


def _judge(
    session: Session, config: JudgeConfig, workers: AnswerWorkersConfig
) -> tuple[str, Callable[[Sequence[Chat]], Sequence[str]]]:
    """What it is called, and how it is asked."""
    if config.served is not None:
        served = ServedJudge(
            config.served, key_of(config.served, session.environ), config.max_tokens
        )
        who = f"{config.served.model} at {config.served.url}"
        return who, lambda chats: served.replies(chats, _teller(session, config, len(chats)))
    assert config.weights is not None, "a judge is one of the two"
    weights = find_weights(session.ledger, config.weights)
    environment: Mapping[str, Any] = tuning_env(session.environ)

    def ask(chats: Sequence[Chat]) -> Sequence[str]:
        told = _teller(session, config, len(chats))
        with telling_waits(session, workers.each_needs, workers.num_workers):
            return replies_of(chats, weights, config.max_tokens, workers, environment, told)

    return f"weights {weights.name} ({short(weights.digest)})", ask


def _teller(session: Session, config: JudgeConfig, num_all: int) -> Callable[[int], None]:
    session.say(f"judge {config.metric}: asking for {num_all:,} verdicts")
    return now_and_then(
        lambda done: session.say(f"judge {config.metric}: {done:,} of {num_all:,} verdicts")
    )
