"""The report: one page for every task, complete in itself, and nothing from a YAML runs in it."""

import re
from datetime import UTC, datetime
from functools import lru_cache

import numpy as np
import pytest

from rayapp.evaluate.curves import (
    NUM_ACTUAL_GROUPS,
    curves,
    predicted_against_actual,
    roc,
    score_group,
)
from rayapp.evaluate.estimates import Influences, differences, estimates
from rayapp.evaluate.metrics import Statistics
from rayapp.evaluate.report import banner, render
from rayapp.evaluate.statistics import Floats, GroupSums, RankTable
from rayapp.schemas.data import Task
from rayapp.schemas.model import BundleSchema
from rayapp.schemas.release import (
    Curve,
    Evaluation,
    LabelShare,
    Latency,
    SliceEvaluation,
    Verdict,
    VerdictValue,
)

CLASSES: dict[Task, tuple[str, ...]] = {
    "binary": ("no", "yes"),
    "multiclass": ("low", "middle", "high"),
    "regression": (),
}


def _scored(task: Task, num_rows: int = 400) -> tuple[Floats, Floats, Floats]:
    """Labels, and the scores of a candidate and of a champion."""
    rng = np.random.default_rng(1)
    if task == "regression":
        y_N = rng.normal(size=num_rows)
        return y_N, (y_N + rng.normal(size=num_rows))[:, None], y_N[:, None] * 0.5
    size = len(CLASSES[task])
    y_N = rng.integers(0, size, num_rows).astype(np.float64)
    found = []
    for strength in (1.5, 0.8):
        weight_NK = np.exp(
            rng.normal(size=(num_rows, size)) + strength * np.eye(size)[y_N.astype(int)]
        )
        found.append(weight_NK / weight_NK.sum(axis=1, keepdims=True))
    return y_N, found[0], found[1]


def _evaluation(task: Task, has_champion: bool) -> Evaluation:
    y_N, own_NK, champion_NK = _scored(task)
    own, champion = (Statistics.from_batch(task, y_N, s) for s in (own_NK, champion_NK))
    theirs = champion.influences(y_N, champion_NK) if has_champion else None
    influences = Influences.from_batch(own.influences(y_N, own_NK), theirs)
    overall = SliceEvaluation(
        slice="",
        num_rows=400,
        estimates=estimates(own, influences, 0.95),
        differences=differences(own, champion, influences, 0.95) if has_champion else (),
    )
    plots: tuple[Curve, ...] = curves(own, champion if has_champion else None)
    if task == "regression":
        group_N = score_group(own, own_NK[:, 0])
        sums = GroupSums.from_batch(group_N, own_NK[:, 0], y_N, NUM_ACTUAL_GROUPS)
        plots = (predicted_against_actual(sums),)
    return Evaluation(
        run_id="run",
        snapshot_id="snapshot",
        split="test",
        task=task,
        bundle_digest="digest",
        champion="release" if has_champion else None,
        overall=overall,
        slices=(overall.model_copy(update={"slice": "place=<script>alert(1)</script>"}),),
        curves=plots,
        label_shares=(
            LabelShare(period="2013-01", split="train", value=0.2, num_rows=100),
            LabelShare(period="2013-02", split="test", value=0.3, num_rows=100),
        ),
        latency=Latency(p50_ms=1, p95_ms=2, p99_ms=3, num_calls=300),
    )


@lru_cache
def _page(task: Task, has_champion: bool, *values: VerdictValue) -> str:
    schema = BundleSchema(
        name="small",
        family="tabular",
        task=task,
        label="is_late",
        classes=CLASSES[task],
        inputs=(),
        features=(),
    )
    verdicts = [Verdict(gate=f"gate_{v}", value=v, reason=f"because {v}") for v in values]
    return render(
        _evaluation(task, has_champion),
        verdicts,
        "endpoint: <b>model</b>",
        datetime(2026, 1, 2, 3, 4, tzinfo=UTC),
        schema,
        {"run": "run-1"},
    )


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
@pytest.mark.parametrize("has_champion", [True, False])
def test_each_task_has_its_page(task: Task, has_champion: bool) -> None:
    page = _page(task, has_champion, "pass")
    for heading in ("Gates", "Metrics", "Behaviour", "Slices", "The label over time"):
        assert f"<h2>{heading}</h2>" in page
    assert ("<h2>Slices against the champion</h2>" in page) == has_champion
    assert page.count("<svg") >= 3


def test_the_page_is_complete_in_itself() -> None:
    page = _page("binary", True, "pass")
    fetched = re.findall(r'(?:src|href|url)\s*[=(]\s*["\']?([^"\')> ]+)', page)
    assert [f for f in fetched if not f.startswith("#")] == []
    assert "<script" not in page
    assert "<b>model</b>" not in page


def test_ids_in_the_pictures_are_unique() -> None:
    ids = re.findall(r'<(?:path|clipPath|use)[^>]* id="([^"]+)"', _page("binary", True, "pass"))
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (("pass", "pass"), "Accepted: all 2 gates passed"),
        (("pass", "fail"), "Refused: 1 of 2 gates failed"),
        (("fail", "fail", "inconclusive"), "Refused: 2 of 3 gates failed and 1 is inconclusive"),
        (("pass", "inconclusive"), "Refused: 1 of 2 gates is inconclusive"),
        ((), "No gate was judged"),
    ],
)
def test_the_banner_says_what_the_gates_said(values: tuple[VerdictValue, ...], text: str) -> None:
    verdicts = [Verdict(gate=f"gate_{v}", value=v, reason="") for v in values]
    assert banner(verdicts)["text"] == text


def test_the_page_has_the_banner_and_every_reason() -> None:
    page = _page("regression", False, "pass", "fail", "inconclusive")
    for text in ("Refused: 1 of 3 gates failed", "because pass", "because fail"):
        assert text in page


def test_the_same_evaluation_gives_the_same_bytes() -> None:
    assert _page.__wrapped__("binary", True, "pass") == _page("binary", True, "pass")


def test_a_roc_curve_has_its_ends_and_its_area() -> None:
    rng = np.random.default_rng(0)
    is_positive_N = rng.random(20_000) < 0.3
    score_N = 1 / (1 + np.exp(-rng.normal(size=20_000) - is_positive_N))
    curve = roc("roc", RankTable.from_batch(is_positive_N, score_N))
    assert (curve.x[0], curve.y[0], curve.x[-1], curve.y[-1]) == (0, 0, 1, 1)
    assert len(curve.x) <= 200
    values = Statistics.from_batch(
        "binary", is_positive_N.astype(np.float64), np.stack([1 - score_N, score_N], axis=1)
    ).values()
    assert np.trapezoid(curve.y, curve.x) == pytest.approx(values["auc"], abs=1e-3)
