"""The model card: readable by Hugging Face, and every number from the evidence."""

from pathlib import Path

import pytest
from huggingface_hub import ModelCard, ModelCardData
from released import CARD, ENDPOINT, PASSED, UNDECIDED, make_evaluation, make_run, make_snapshot

from rayapp.register.card import render_card
from rayapp.schemas.data import Snapshot
from rayapp.schemas.model import Run
from rayapp.schemas.release import (
    AnswerCost,
    Answering,
    Contamination,
    Difference,
    Evaluation,
    GoldenRef,
    Verdict,
)
from rayapp.storage import Workspace


@pytest.fixture
def snapshot(tmp_path: Path) -> Snapshot:
    return make_snapshot(Workspace(str(tmp_path)))


@pytest.fixture
def run(tmp_path: Path, snapshot: Snapshot) -> Run:
    return make_run(Workspace(str(tmp_path)), snapshot, tmp_path)


def _card(run: Run, snapshot: Snapshot, evaluation: Evaluation, *verdicts: Verdict) -> str:
    return render_card(
        run=run,
        snapshot=snapshot,
        evaluation=evaluation,
        verdicts=verdicts,
        config=CARD,
        endpoint=ENDPOINT,
    )


def _metadata(card: str) -> ModelCardData:
    data = ModelCard(card).data
    assert isinstance(data, ModelCardData)
    return data


def _section(card: str, title: str) -> str:
    return card.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_hugging_face_reads_the_metadata(run: Run, snapshot: Snapshot) -> None:
    data = _metadata(_card(run, snapshot, make_evaluation(run), PASSED))
    assert data.license == "cc0-1.0"
    assert data.tags == [ENDPOINT, "tabular", "binary"]
    assert data.pipeline_tag == "tabular-classification"
    (result,) = data.eval_results or []
    assert (result.metric_type, result.metric_value) == ("auc", 0.7412)
    assert (result.dataset_split, result.dataset_revision) == ("test", run.snapshot_id)


def test_names_every_digest_that_it_rests_on(run: Run, snapshot: Snapshot) -> None:
    evaluation = make_evaluation(run)
    card = _card(run, snapshot, evaluation, PASSED)
    tables = [t.digest for t in (*snapshot.tables, snapshot.view)]
    files = [f.sha256 for f in run.bundle.files]
    whole = [evaluation.content_digest(), run.bundle.digest, run.code_digest, run.snapshot_id]
    assert [d for d in (*tables, *files, *whole) if d not in card] == []


def test_shows_value_interval_and_latency(run: Run, snapshot: Snapshot) -> None:
    section = _section(_card(run, snapshot, make_evaluation(run), PASSED), "Evaluation")
    assert "| auc | 0.7412 | [0.7312, 0.7512] | 95% | 200 |" in section
    assert "| log_loss | not defined |" in section
    assert "2.50 ms (95th percentile)" in section


def test_limitations_begin_with_the_worst_slice(run: Run, snapshot: Snapshot) -> None:
    weak = {"AS": 0.61, "UA": 0.70, "B6": 0.69, "EV": 0.68, "MQ": 0.67, "US": 0.66}
    evaluation = make_evaluation(run, AA=0.80, WN=0.738, OO=None, **weak)
    section = _section(_card(run, snapshot, evaluation, PASSED), "Limitations")
    assert section.index("carrier=AS") < section.index("carrier=B6")
    assert "auc 0.6100 [0.6000, 0.6200] on 50 rows, against 0.7412" in section
    assert not [name for name in ("AA", "WN", "UA", "OO") if f"carrier={name}" in section]
    assert "1 more of 9 slices are weaker" in section
    assert "1 of 9 slices have too few rows" in section


def test_limitations_name_a_gate_that_stayed_open(run: Run, snapshot: Snapshot) -> None:
    section = _section(_card(run, snapshot, make_evaluation(run), PASSED, UNDECIDED), "Limitations")
    assert "Gate `slices` is inconclusive" in section
    assert "useful" not in section


def test_a_bar_in_a_text_breaks_no_table(run: Run, snapshot: Snapshot) -> None:
    section = _section(_card(run, snapshot, make_evaluation(run), UNDECIDED), "Gates")
    assert r"carrier=AS \| few rows" in section


def test_compares_with_the_champion(run: Run, snapshot: Snapshot) -> None:
    evaluation = make_evaluation(run)
    difference = Difference(
        metric="auc", value=0.012, low=-0.001, high=0.025, num_rows=200, confidence=0.95
    )
    overall = evaluation.overall.model_copy(update={"differences": (difference,)})
    compared = evaluation.model_copy(update={"champion": "r" * 64, "overall": overall})
    card = _card(run, snapshot, compared, PASSED)
    assert f"Against champion `{'r' * 64}`" in card
    assert "| auc | +0.0120 | [-0.0010, +0.0250] | 95% |" in card


def test_compares_with_the_weights_beneath_too(run: Run, snapshot: Snapshot) -> None:
    evaluation = make_evaluation(run)
    difference = Difference(
        metric="auc", value=0.6, low=0.5, high=0.7, num_rows=200, confidence=0.95
    )
    overall = evaluation.overall.model_copy(update={"untuned_differences": (difference,)})
    changed = {"task": "text", "untuned_weights": "tiny (0123)", "overall": overall}
    card = _card(run, snapshot, evaluation.model_copy(update=changed), PASSED)
    assert "There was no champion to compare with." in card
    assert "Against untuned weights `tiny (0123)`" in card
    assert "| auc | +0.6000 | [+0.5000, +0.7000] | 95% |" in card


def test_ranks_a_regression_by_its_error(run: Run, snapshot: Snapshot) -> None:
    evaluation = make_evaluation(run, AA=0.80, AS=0.61)
    text = (
        evaluation.model_dump_json().replace('"auc"', '"rmse"').replace('"binary"', '"regression"')
    )
    regression = snapshot.model_copy(update={"task": "regression", "classes": ()})
    card = _card(run, regression, Evaluation.parse(text.encode()), PASSED)
    assert _metadata(card).pipeline_tag == "tabular-regression"
    section = _section(card, "Limitations")
    assert "carrier=AA" in section  # the larger error is the weaker slice
    assert "carrier=AS" not in section


def test_the_same_evidence_gives_the_same_bytes(run: Run, snapshot: Snapshot) -> None:
    evaluation = make_evaluation(run)
    assert _card(run, snapshot, evaluation, PASSED) == _card(run, snapshot, evaluation, PASSED)


def test_says_how_questions_were_answered_and_whose_they_are(run: Run, snapshot: Snapshot) -> None:
    golden = GoldenRef(
        name="toy",
        version="2026-11",
        owner="someone",
        sha256="5" * 64,
        num_items=51,
        contamination=Contamination(
            num_training_rows=7000,
            ngram_words=13,
            max_overlap=0.5,
            max_share=0.02,
            items=("item 9: a training row has the same text",),
        ),
    )
    how = Answering(
        max_tokens=8, samples_per_item=4, temperature=0.8, top_p=1, seed=7, cluster_by="document"
    )
    cost = AnswerCost(
        model="tuned",
        num_answers=200,
        num_prompt_tokens=1000,
        num_tokens=600,
        seconds=4,
        hardware="a CPU",
    )
    asked = {"golden": golden, "answering": how, "costs": (cost,)}
    section = _section(
        _card(run, snapshot, make_evaluation(run).model_copy(update=asked), PASSED), "Evaluation"
    )
    assert "of the golden set" in section
    assert "version 2026-11, of someone: 51 items" in section
    assert "item 9: a training row has the same text" in section
    assert "4 answers an item, sampled at temperature 0.8, top p 1, seed 7" in section
    assert "clustered by `document`" in section
    assert "| tuned | 200 | 1,000 | 600 | 20.0 | a CPU |" in section
