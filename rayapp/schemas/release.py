"""Nouns of evaluation and release: estimates, verdicts, the manifest."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

from rayapp.schemas.data import ContractRef, Task
from rayapp.schemas.model import BundleRef
from rayapp.schemas.record import GrownRecord, Record, canonical_json

VerdictValue = Literal["pass", "fail", "inconclusive"]

HIGHER_IS_BETTER: dict[str, bool] = {
    **dict.fromkeys(("auc", "average_precision", "accuracy", "r2"), True),
    **dict.fromkeys(("log_loss", "brier", "calibration_error", "mae", "rmse"), False),
}
"""Metrics by which one release is better than another (evaluate.metrics says what they mean)."""


HIGHER_IS_BETTER_IN_WORDS: dict[str, bool] = {
    **dict.fromkeys(("exact_match", "field_f1"), True),
    **dict.fromkeys(("answer_loss", "perplexity", "calibration_error"), False),
}
"""The same of answers in words; an evaluation says it of those that its config declares."""


class Estimate(Record):
    """A metric with its interval. value is None where the rows do not define it (one class
    only)."""

    metric: str
    value: float | None
    low: float | None
    high: float | None
    num_rows: int
    confidence: float


class Difference(Record):
    """candidate − opponent on the same rows, in the metric's own unit, paired."""

    metric: str
    value: float
    low: float
    high: float
    num_rows: int
    confidence: float


class SliceEvaluation(GrownRecord):
    """slice is "" for all rows, else "column=value". differences: to the champion;
    untuned_differences: of text, to the weights that it was tuned from."""

    ADDED = ("untuned_differences",)

    slice: str
    num_rows: int
    estimates: tuple[Estimate, ...]
    differences: tuple[Difference, ...] = ()
    untuned_differences: tuple[Difference, ...] = ()


class Curve(Record):
    """Points of one plot; x and y have the same length. For a calibration curve weight is rows."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    weight: tuple[float, ...] = ()


class LabelShare(Record):
    """The share of the positive class (or the mean of the label) in one period of the data."""

    period: str
    split: str
    value: float
    num_rows: int


class Latency(Record):
    """Milliseconds for one row through the loaded bundle, in this process, after a warm-up."""

    p50_ms: float
    p95_ms: float
    p99_ms: float
    num_calls: int


class DeclaredMetric(Record):
    """A metric that an evaluation's own config declares, as a grader does. higher_is_better: None
    where neither direction is."""

    name: str
    meaning: str
    higher_is_better: bool | None
    unit: str


class Answering(Record):
    """How the items of an evaluation were answered in words. temperature None: by the likeliest
    tokens, once. cluster_by: what items that depend on each other have in common."""

    max_tokens: int
    samples_per_item: int
    temperature: float | None
    top_p: float | None
    seed: int | None
    cluster_by: str | None


Answerer = Literal["tuned", "untuned", "champion"]
"""Who answered: the candidate, the weights that it was tuned from, or the endpoint's champion."""


class AnswerCost(Record):
    """What a model's answers took in this evaluation, on its hardware and many at a time: it is no
    engine's latency. seconds: of generating, summed over processes; with hardware it is measured
    (see Measured), and None where that was not kept."""

    model: Answerer
    num_answers: int
    num_prompt_tokens: int
    num_tokens: int
    seconds: float | None = None
    hardware: str | None = None

    @property
    def ms_per_answer(self) -> float | None:
        return None if self.seconds is None else 1000 * self.seconds / self.num_answers

    @property
    def tokens_per_s(self) -> float | None:
        return self.num_tokens / self.seconds if self.seconds else None


class AnswerTime(Record):
    """The seconds of an AnswerCost, and on what."""

    model: Answerer
    seconds: float
    hardware: str


class Measured(Record):
    """What an evaluation took on its machine, at its time. It is no result: the same evaluation has
    other numbers the next time, so it has a file and a digest of its own, sealed beside that of the
    results."""

    latency: Latency | None
    answers: tuple[AnswerTime, ...] = ()


class Contamination(Record):
    """Which items of a golden set occur in the rows that the model was trained or tuned on, and
    why; they are in no metric. ngram_words and max_overlap None: whole texts were compared."""

    num_training_rows: int
    ngram_words: int | None
    max_overlap: float | None
    max_share: float
    items: tuple[str, ...]


class GoldenRef(Record):
    """The golden set that an evaluation asked, by content. num_items: with those that are
    contaminated."""

    name: str
    version: str
    owner: str
    sha256: str
    num_items: int
    contamination: Contamination


class Judged(GrownRecord):
    """What a language model said of the answers, and how often it errs: `metric` is the share of
    right answers that follows from both. judge: who it was. prompt_digest: of what it was told.
    right, wrong, take: how its words were read.

    sensitivity, specificity: shares of the right and of the wrong anchors that it called so, of
    those that it gave a verdict on. raw: the shares of answers that it called right, uncorrected,
    which no gate can name; corrected: the same with its errors taken out. Of the champion where one
    was asked."""

    ADDED = ("raw_champion", "corrected_champion", "num_unread_champion")

    metric: str
    judge: str
    prompt_name: str
    prompt_digest: str
    right: str
    wrong: str
    take: str
    max_tokens: int
    anchors_sha256: str
    anchors_owner: str
    num_anchors: int
    num_unread_anchors: int
    contamination: Contamination
    sensitivity: Estimate
    specificity: Estimate
    raw: Estimate
    raw_untuned: Estimate
    corrected: Estimate
    corrected_untuned: Estimate
    num_unread: int
    num_unread_untuned: int
    raw_champion: Estimate | None = None
    corrected_champion: Estimate | None = None
    num_unread_champion: int | None = None


class ShownRow(Record):
    """A row that a report shows. wanted: the right answer; given: the candidate's. Texts are cut
    where they are long, and redacted as the evaluation's config says."""

    asked: str
    wanted: str
    given: str
    is_right: bool


CHAMPION, UNTUNED = "champion", "untuned weights"
"""What a candidate is compared with, in words."""


class Evaluation(GrownRecord):
    ADDED = (
        *("metrics", "answering", "costs", "golden", "untuned", "judged"),
        *("untuned_weights", "shown"),
    )

    run_id: str
    snapshot_id: str
    split: str
    task: Task
    bundle_digest: str
    champion: str | None
    """Release id the candidate was compared with, or None where there was no champion. Where
    answers in words have no `untuned_weights`, it is from before champions answered too: a name of
    the weights that the candidate was tuned from, which `differences` are to."""
    overall: SliceEvaluation
    slices: tuple[SliceEvaluation, ...]
    curves: tuple[Curve, ...]
    label_shares: tuple[LabelShare, ...]
    latency: Latency | None = None
    """Measured. None for text, whose latency is an engine's."""
    metrics: tuple[DeclaredMetric, ...] = ()
    """Those of its estimates that are in no table."""
    answering: Answering | None = None
    costs: tuple[AnswerCost, ...] = ()
    """Of answers in words."""
    golden: GoldenRef | None = None
    """What was asked, where it was no split of the snapshot."""
    untuned: tuple[Estimate, ...] = ()
    """Of text: the weights that it was tuned from, asked the same over all rows."""
    judged: Judged | None = None
    untuned_weights: str | None = None
    """Of text: what the weights are called that it was tuned from."""
    shown: tuple[ShownRow, ...] = ()
    """Of text: some of the rows."""

    @property
    def opponents(self) -> dict[str, str]:
        """Whom the candidate was compared with: in words → release id, or name of weights."""
        if self.task == "text" and self.untuned_weights is None:
            return {} if self.champion is None else {UNTUNED: self.champion}
        named = {CHAMPION: self.champion, UNTUNED: self.untuned_weights}
        return {who: name for who, name in named.items() if name is not None}

    def differences(self, part: SliceEvaluation, opponent: str) -> tuple[Difference, ...]:
        """Of all rows or a slice, to one of `opponents`; none where it is not one of them."""
        if opponent not in self.opponents:
            return ()
        is_own = opponent == CHAMPION or self.untuned_weights is None
        return part.differences if is_own else part.untuned_differences

    def canonical(self) -> bytes:
        """Of the results alone, without what is `measured`: an evaluation that is made again of the
        same bundle and rows has the digest that it had."""
        is_measured: dict[str, Any] = {
            "latency": True,
            "costs": {"__all__": {"seconds", "hardware"}},
        }
        return canonical_json(self.model_dump(mode="json", exclude=is_measured))

    @property
    def measured(self) -> Measured:
        times = [(c.model, c.seconds, c.hardware) for c in self.costs]
        return Measured(
            latency=self.latency,
            answers=tuple(
                AnswerTime(model=model, seconds=seconds, hardware=hardware)
                for model, seconds, hardware in times
                if seconds is not None and hardware is not None
            ),
        )

    def with_measured(self, measured: Measured) -> "Evaluation":
        times = {time.model: time for time in measured.answers}
        costs = tuple(
            cost.model_copy(update=times[cost.model].model_dump()) if cost.model in times else cost
            for cost in self.costs
        )
        return self.model_copy(update={"latency": measured.latency, "costs": costs})


class Verdict(Record):
    """One gate's answer. needs_rows is an estimate of how many rows would settle it."""

    gate: str
    value: VerdictValue
    reason: str
    needs_rows: int | None = None


def not_passed(verdicts: Sequence[Verdict]) -> str:
    """How many gates failed, and how many are inconclusive, in words; empty where all passed."""
    num_failed = sum(v.value == "fail" for v in verdicts)
    num_open = sum(v.value == "inconclusive" for v in verdicts)
    of = f" of {len(verdicts)} gates"
    found = [f"{num_failed}{of} failed"] if num_failed else []
    if num_open:
        is_or_are = "is" if num_open == 1 else "are"
        found.append(f"{num_open}{'' if found else of} {is_or_are} inconclusive")
    return " and ".join(found)


class Manifest(GrownRecord):
    """Everything a release is, by content. Its digest is the release id; any change makes another.

    Nothing in here was typed by hand: each field is copied from the artefact that it names.
    """

    ADDED = ("measured_digest", "measured_uri")

    endpoint: str
    created_at: datetime
    run_id: str
    bundle: BundleRef
    snapshot_id: str
    data_digests: dict[str, str]
    contracts: tuple[ContractRef, ...]
    config: dict[str, Any]
    code_digest: str
    environment_digest: str
    evaluation_digest: str
    evaluation_uri: str
    verdicts: tuple[Verdict, ...]
    policy_digest: str
    card_digest: str
    card_uri: str
    mlflow_run_id: str
    measured_digest: str | None = None
    """Of what the evaluation took, which is not of its results; a latency gate has judged it."""
    measured_uri: str | None = None


class SignedManifest(Record):
    """manifest plus an Ed25519 signature (RFC 8032) over its canonical bytes."""

    release_id: str
    manifest: Manifest
    key_id: str
    signature: str
