"""From a judge's verdicts to the corrected share of right answers, beside what it said itself.

Pure. Anchors and answers are taken to be judged alike; what may be said of a slice is not known
from anchors of all kinds, so the share is told over all rows alone.
"""

import math
from dataclasses import dataclass

from rayapp.config.judging import JudgeConfig
from rayapp.errors import JudgeRefused
from rayapp.evaluate.estimates import MIN_ROWS, effective_size, wilson
from rayapp.evaluate.items import Measured, clustered_error, least_error, ratio_of
from rayapp.evaluate.judge import (
    UNKNOWN,
    Anchors,
    Corrected,
    corrected_difference,
    corrected_share,
)
from rayapp.evaluate.judging import Verdicts
from rayapp.evaluate.statistics import Ints
from rayapp.schemas.prompt import Prompt
from rayapp.schemas.release import Contamination, Difference, Estimate, Judged


@dataclass(frozen=True)
class Judging:
    """A judge whose errors are measured, and what it said. who: as it is called in the report.
    num_anchors: that it was shown; num_unread_anchors: without a verdict."""

    config: JudgeConfig
    who: str
    prompt: Prompt
    anchors: Anchors
    num_anchors: int
    num_unread_anchors: int
    contamination: Contamination
    tuned: Verdicts
    untuned: Verdicts
    champion: Verdicts | None = None


@dataclass(frozen=True)
class Changes:
    """Of the corrected share; empty where there is none that could be told."""

    to_champion: tuple[Difference, ...]
    to_untuned: tuple[Difference, ...]


@dataclass(frozen=True)
class _Share:
    """Of answers called right: measured, with its error over clusters."""

    measured: Measured
    error: float
    num_clusters: int
    unread: float

    @classmethod
    def of(cls, verdicts: Verdicts, cluster_N: Ints) -> "_Share":
        measured = ratio_of(verdicts.right_N, verdicts.read_N)
        error, size = clustered_error(measured.influence_N, cluster_N)
        return cls(measured, error, size, verdicts.num_unread / verdicts.num_answers)


def judged_metric(
    judging: Judging, cluster_N: Ints, confidence: float
) -> tuple[Estimate, Changes, Judged]:
    """The corrected share, its changes, and all that is known of it. Raises JudgeRefused where not
    one answer of a model has a verdict."""
    config, anchors, champion = judging.config, judging.anchors, judging.champion
    for verdicts in (judging.tuned, judging.untuned, champion):
        if verdicts is not None and verdicts.num_unread == verdicts.num_answers:
            raise JudgeRefused(
                f"judge {config.metric}: not one of {verdicts.num_answers} answers has a verdict",
                "mend its prompt",
            )
    shares = {
        "": _Share.of(judging.tuned, cluster_N),
        "_untuned": _Share.of(judging.untuned, cluster_N),
        **({} if champion is None else {"_champion": _Share.of(champion, cluster_N)}),
    }
    told: dict[str, Estimate] = {}
    for whose, share in shares.items():
        told["corrected" + whose] = _corrected(
            config.metric, share, anchors, len(cluster_N), confidence
        )
        told["raw" + whose] = _raw(share, len(cluster_N), confidence)
    told |= {
        "sensitivity": _of_anchors(
            "sensitivity", anchors.called_right, anchors.num_right, confidence
        ),
        "specificity": _of_anchors(
            "specificity", anchors.called_wrong, anchors.num_wrong, confidence
        ),
    }
    judged = Judged(
        metric=config.metric,
        judge=judging.who,
        prompt_name=judging.prompt.name,
        prompt_digest=judging.prompt.content_digest(),
        right=config.verdict.right,
        wrong=config.verdict.wrong,
        take=config.verdict.take,
        max_tokens=config.max_tokens,
        anchors_sha256=config.anchors.sha256,
        anchors_owner=config.anchors.owner,
        num_anchors=judging.num_anchors,
        num_unread_anchors=judging.num_unread_anchors,
        contamination=judging.contamination,
        num_unread=judging.tuned.num_unread,
        num_unread_untuned=judging.untuned.num_unread,
        num_unread_champion=None if champion is None else champion.num_unread,
        **told,
    )
    changes = {
        whose: _difference(config.metric, shares[""], share, anchors, cluster_N, confidence)
        for whose, share in shares.items()
        if whose
    }
    return judged.corrected, Changes(changes.get("_champion", ()), changes["_untuned"]), judged


def _raw(share: _Share, num_rows: int, confidence: float) -> Estimate:
    value = share.measured.value
    bounds = None
    if share.num_clusters >= MIN_ROWS:
        bounds = wilson(value, share.error, share.num_clusters, confidence)
    return _estimate("called_right", value, bounds, num_rows, confidence)


def _of_anchors(name: str, count: int, of: int, confidence: float) -> Estimate:
    value = count / of
    error = math.sqrt(value * (1 - value) / of)
    return _estimate(name, value, wilson(value, error, of, confidence), of, confidence)


def _corrected(
    metric: str, share: _Share, anchors: Anchors, num_rows: int, confidence: float
) -> Estimate:
    value = share.measured.value
    size = effective_size(value, share.error, share.num_clusters)
    found = corrected_share(value * size, size, anchors, confidence)
    bounds = None
    if share.num_clusters >= MIN_ROWS and found.low is not None and found.high is not None:
        # of what has no verdict all may be right, or none
        bounds = found.low * (1 - share.unread), found.high * (1 - share.unread) + share.unread
    return _estimate(metric, found.value, bounds, num_rows, confidence)


def _difference(
    metric: str,
    tuned: _Share,
    other: _Share,
    anchors: Anchors,
    cluster_N: Ints,
    confidence: float,
) -> tuple[Difference, ...]:
    influence_N = tuned.measured.influence_N - other.measured.influence_N
    error, size = clustered_error(influence_N, cluster_N)
    found: Corrected = UNKNOWN
    if size >= MIN_ROWS:
        difference = tuned.measured.value - other.measured.value
        error = max(error, least_error(size, confidence))
        found = corrected_difference(difference, error, anchors, confidence)
    if found.value is None or found.low is None or found.high is None:
        return ()
    unread = tuned.unread + other.unread
    change = Difference(
        metric=metric,
        value=found.value,
        low=found.low - unread,
        high=found.high + unread,
        num_rows=len(cluster_N),
        confidence=confidence,
    )
    return (change,)


def _estimate(
    name: str,
    value: float | None,
    bounds: tuple[float, float] | None,
    num_rows: int,
    confidence: float,
) -> Estimate:
    low, high = (None, None) if bounds is None else bounds
    return Estimate(
        metric=name, value=value, low=low, high=high, num_rows=num_rows, confidence=confidence
    )
