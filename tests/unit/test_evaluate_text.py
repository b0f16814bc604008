"""Answers in words: how one is scored, and what gates say of a model that learned and one that did
not."""

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from rayapp.config.load import load
from rayapp.config.release import EvaluationConfig, PolicyConfig
from rayapp.errors import ConfigError, DataError
from rayapp.evaluate.declared import metrics_in
from rayapp.evaluate.gates import check_policy, decide
from rayapp.evaluate.graders import score_answer
from rayapp.evaluate.metrics import Metric
from rayapp.evaluate.report import render
from rayapp.evaluate.text import decoding_of, evaluate_answers
from rayapp.families.llm.answer import CHAMPION, SAID, TUNED, UNTUNED
from rayapp.schemas.data import Column
from rayapp.schemas.model import BundleSchema, Feature, LanguageSchema
from rayapp.schemas.release import Contamination, Estimate, Evaluation, GoldenRef, Verdict

FIELDS = ("a", "b")
LANGUAGE = LanguageSchema(
    base_name="tiny",
    base_digest="0" * 64,
    method="lora",
    system=None,
    prompt="{x}",
    features=(Feature(name="x", expression="x"),),
    fields=FIELDS,
)
SCHEMA = BundleSchema(
    name="t",
    family="llm",
    task="text",
    label="y",
    classes=(),
    inputs=(Column(name="x", type="string"),),
    features=(),
    language=LANGUAGE,
)
RIGHT = '{"a":"1","b":null}'


@pytest.mark.parametrize(
    ("answer", "exact", "f1"),
    [
        (RIGHT, 1.0, 1.0),
        ('{ "b": null, "a": "1" }', 1.0, 1.0),
        ('{"a":"1","b":"2"}', 0.0, 0.5),
        ('{"a":"1"}', 0.0, 2 / 3),
        ('{"a":"1","b":null,"c":3}', 0.0, 0.8),
        ('{"a":1,"b":null}', 0.0, 0.5),
        ('{"a":"1","b":null} and more', 0.0, 0.0),
        ('["a"]', 0.0, 0.0),
        ('{"a":"1","b":NaN}', 0.0, 0.0),
        ("{" * 2000, 0.0, 0.0),
        ("", 0.0, 0.0),
    ],
)
def test_objects_are_compared_as_a_caller_reads_them(answer: str, exact: float, f1: float) -> None:
    assert score_answer(RIGHT, answer, FIELDS) == pytest.approx((exact, f1))


def test_an_expected_answer_that_no_caller_could_read_is_told() -> None:
    with pytest.raises(DataError, match="is no JSON object with fields"):
        score_answer('{"a":NaN}', "?", FIELDS)


def test_plain_text_is_right_or_not() -> None:
    assert score_answer("yes", " yes\n", ()) == (1.0, 1.0)
    assert score_answer("yes", "Yes", ()) == (0.0, 0.0)


Answer = str | list[str]
"""Of one row: the answer, or its samples."""


def said(answer: Answer, right_nats: float, right_tokens: int = 10) -> dict[str, Any]:
    texts = [answer] if isinstance(answer, str) else answer
    return {
        "texts": texts,
        "num_tokens": [len(text) for text in texts],
        "nats": [0.5] * len(texts),
        "right_nats": right_nats,
        "right_tokens": right_tokens,
        "prompt_tokens": 5,
        "seconds": 0.5,
        "hardware": "a CPU",
    }


def evaluation(
    tuned: Sequence[Answer],
    untuned: Sequence[Answer],
    expected: list[str],
    champion: Sequence[dict[str, Any]] | None = None,
    **settings: Any,
) -> Evaluation:
    """champion: what it said of each row, where there is one."""
    config = EvaluationConfig.model_validate({"slices": ["kind"], **settings})
    table = pa.table(
        {
            "y": expected,
            TUNED: pa.array([said(a, 2.0 + i % 2) for i, a in enumerate(tuned)], SAID),
            UNTUNED: pa.array([said(a, 5.0) for a in untuned], SAID),
            "kind": [f"k{i % 2}" for i in range(len(expected))],
            "document": [i // 2 for i in range(len(expected))],
        }
    )
    if champion is not None:
        table = table.append_column(CHAMPION, pa.array(champion, SAID))
    return evaluate_answers(
        answered=table,
        label="y",
        language=LANGUAGE,
        config=config,
        decoding=decoding_of(config.samples, 8),
        golden=GOLDEN if config.golden else None,
        run_id="r",
        snapshot_id="s",
        split="test",
        bundle_digest="b",
        champion_release=None if champion is None else "c" * 64,
    )


GOLDEN = GoldenRef(
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


def page_of(found: Evaluation, verdicts: Sequence[Verdict] = ()) -> str:
    return render(found, verdicts, "t", datetime(2026, 1, 1, tzinfo=UTC), SCHEMA, {})


def answers(num_rows: int) -> list[str]:
    return [json.dumps({"a": str(i), "b": None}) for i in range(num_rows)]


POLICY = load(PolicyConfig, "configs/policies/user_agent.yaml")


def verdicts(found: Evaluation) -> dict[str, str]:
    return {verdict.gate: verdict.value for verdict in decide(found, POLICY)}


def test_the_weights_beneath_are_measured_on_the_same_rows() -> None:
    expected = answers(200)
    found = evaluation(expected, [a if i % 4 else "?" for i, a in enumerate(expected)], expected)
    untuned = {one.metric: one for one in found.untuned}
    assert {*untuned} == {one.metric for one in found.overall.estimates}
    exact = untuned["exact_match"]
    assert exact.value == 0.75
    assert exact.low is not None
    assert exact.low < 0.75
    assert untuned["calibration_error"].value == pytest.approx(0.75 - np.exp(-0.5), abs=1e-4)


def test_one_that_learned_passes() -> None:
    expected = answers(200)
    tuned = [a if i % 10 else "?" for i, a in enumerate(expected)]
    found = evaluation(tuned, ["?"] * 200, expected)
    (exact,) = [one for one in found.overall.estimates if one.metric == "exact_match"]
    assert exact.value == pytest.approx(0.9)
    assert exact.low is not None
    assert exact.high is not None
    assert exact.low < 0.9 < exact.high
    (difference,) = [d for d in found.overall.untuned_differences if d.metric == "exact_match"]
    # the mean of independent rows: √(p(1−p)/(n−1)), times Student's quantile of 199
    half = 1.97196 * np.sqrt(0.9 * 0.1 / 199)
    assert (difference.low, difference.high) == pytest.approx((0.9 - half, 0.9 + half), abs=1e-5)
    assert [s.slice for s in found.slices] == ["kind=k0", "kind=k1"]
    assert set(verdicts(found).values()) == {"pass"}


def test_one_that_learned_shuffled_targets_is_refused() -> None:
    expected = answers(200)
    found = evaluation([*expected[1:], expected[0]], ["?"] * 200, expected)
    assert verdicts(found)["reads_most_of_them"] == "fail"
    assert verdicts(found)["fields_are_right"] == "fail"


def right_in(share: float, num_rows: int = 200, first: int = 0) -> list[str]:
    """Answers of which a share is right, from the row `first` on."""
    num_right = round(share * num_rows)
    return [
        a if (i - first) % num_rows < num_right else "?" for i, a in enumerate(answers(num_rows))
    ]


def of_champion(texts: Sequence[str], right_tokens: int = 10) -> list[dict[str, Any]]:
    return [said(text, 2.0, right_tokens) for text in texts]


def decided(found: Evaluation, **gate: Any) -> Verdict:
    return decide(found, PolicyConfig.model_validate({"gates": {"g": gate}}))[0]


def test_better_than_its_base_and_worse_than_the_champion_is_refused() -> None:
    """The weights beneath read a tenth, the champion nine tenths: six tenths is a step back."""
    expected = answers(200)
    champion = of_champion(right_in(0.9))
    found = evaluation(right_in(0.6), right_in(0.1), expected, champion)
    assert found.champion == "c" * 64
    verdict = {v.gate: v for v in decide(found, POLICY)}
    assert verdict["better_than_untuned"].value == "pass"
    assert verdict["not_worse_than_champion"].value == "fail"
    assert "0.3000 worse than that of the champion" in verdict["not_worse_than_champion"].reason
    slices = decided(found, kind="slices", metric="exact_match", margin=0.05, min_rows=10)
    assert slices.value == "fail"
    assert [cost.model for cost in found.costs] == ["tuned", "untuned", "champion"]
    (untuned,) = [e for e in found.untuned if e.metric == "exact_match"]
    assert untuned.value == 0.1  # what gateways choose by is still that of the weights beneath
    assert Evaluation.parse(found.canonical()).with_measured(found.measured) == found


def test_as_good_as_the_champion_passes() -> None:
    expected = answers(600)
    champion = of_champion(right_in(0.9, 600, first=5))
    found = evaluation(right_in(0.9, 600), right_in(0.1, 600), expected, champion)
    assert set(verdicts(found).values()) == {"pass"}


def test_without_a_champion_there_is_nothing_to_be_worse_than() -> None:
    found = evaluation(right_in(0.9), right_in(0.1), answers(200))
    assert found.champion is None
    assert found.untuned_weights == f"tiny ({'0' * 12})"
    verdict = decided(found, kind="champion", metric="exact_match", margin=0)
    assert (verdict.value, verdict.reason) == (
        "pass",
        "no champion yet, nothing to be worse than",
    )


def test_losses_by_token_are_compared_where_tokens_are_the_same() -> None:
    """A champion of other base weights may spell the right answer with other tokens."""
    expected = answers(200)
    gates = {"loss": "answer_loss", "right": "exact_match"}
    for right_tokens, loss in ((10, "pass"), (7, "inconclusive")):
        champion = of_champion(right_in(0.9), right_tokens)
        found = evaluation(right_in(0.9), right_in(0.1), expected, champion)
        of = {
            name: decided(found, kind="champion", metric=metric, margin=0.1)
            for name, metric in gates.items()
        }
        assert (of["loss"].value, of["right"].value) == (loss, "pass")
        untuned = decided(found, kind="untuned", metric="answer_loss", margin=0)
        assert untuned.value == "pass"
    assert "the champion spells the right answers otherwise" in of["loss"].reason


def test_an_evaluation_from_before_champions_answered_is_read_as_it_was_meant() -> None:
    new = evaluation(right_in(0.9), right_in(0.1), answers(200))
    changes = new.overall.untuned_differences
    overall = new.overall.model_copy(update={"differences": changes, "untuned_differences": ()})
    old = new.model_copy(
        update={
            "champion": "tiny, untuned (0)",
            "untuned_weights": None,
            "overall": overall,
            "slices": (),
        }
    )
    for name in (b"untuned_weights", b"untuned_differences"):
        assert name not in old.canonical()
    assert old.opponents == {"untuned weights": "tiny, untuned (0)"}
    assert decided(old, kind="untuned", metric="exact_match", margin=0).value == "pass"
    verdict = decided(old, kind="champion", metric="exact_match", margin=0)
    assert verdict.value == "inconclusive"  # no champion has answered


def test_scores_have_no_weights_beneath_them() -> None:
    policy = {"gates": {"g": {"kind": "untuned", "metric": "auc", "margin": 0}}}
    with pytest.raises(ConfigError, match="a model of task binary has none"):
        check_policy(PolicyConfig.model_validate(policy), "binary", ())


def test_a_gate_on_latency_is_refused_before_any_answer() -> None:
    policy = PolicyConfig.model_validate({"gates": {"quick": {"kind": "latency", "p95_ms": 100}}})
    with pytest.raises(ConfigError, match="gate 'quick' judges latency, which is not measured"):
        check_policy(policy, "text", ())
    check_policy(policy, "binary", ())


def test_no_better_than_its_base_is_no_pass() -> None:
    expected = answers(200)
    mixed = [a if i % 10 else "?" for i, a in enumerate(expected)]
    others = [a if (i + 1) % 10 else "?" for i, a in enumerate(expected)]
    assert verdicts(evaluation(mixed, others, expected))["better_than_untuned"] == "inconclusive"


@pytest.mark.parametrize("num_rows", [40, 2000])
def test_the_very_same_answers_are_no_better(num_rows: int) -> None:
    """No item differs, which says little of those that were not asked."""
    expected = answers(num_rows)
    verdict = decide(evaluation(expected, expected, expected), POLICY)[2]
    assert (verdict.gate, verdict.value) == ("better_than_untuned", "inconclusive")
    assert "as good as that of the untuned weights, ± 0." in verdict.reason
    assert "none of the interval may be worse; exactly at the limit" in verdict.reason


def test_rows_for_a_difference_of_nothing_are_at_most_so_many() -> None:
    """Its interval shrinks faster than with their root, and at so many it has long been clear."""
    gate = {"kind": "champion", "metric": "exact_match", "margin": 0.02}

    def of(num_rows: int) -> Verdict:
        expected = answers(num_rows)
        return decided(evaluation(expected, expected, expected, of_champion(expected)), **gate)

    verdict = of(40)
    assert "; at most about 818 such rows would tell" in verdict.reason
    assert of(200).value == "pass"


def test_few_rows_are_no_evidence() -> None:
    expected = answers(20)
    found = evaluation(expected, ["?"] * 20, expected, of_champion(["?"] * 20))
    assert set(verdicts(found).values()) == {"inconclusive"}


def test_gates_know_the_metrics_of_text() -> None:
    check_policy(POLICY, "text", ())


def test_a_grader_is_a_metric_that_gates_and_slices_have() -> None:
    expected = answers(100)
    graders = {"reads_a": {"kind": "exact", "field": "a"}, "brief": {"kind": "length", "max": 25}}
    tuned = [a.replace("null", "1") for a in expected]  # b is wrong everywhere, a is right
    found = evaluation(tuned, ["?" * 26] * 100, expected, graders=graders)
    values = {e.metric: e.value for e in found.overall.estimates}
    assert (values["exact_match"], values["reads_a"], values["brief"]) == (0, 1, 1)
    assert {e.metric for e in found.slices[0].estimates} == values.keys()

    def verdict(**gate: Any) -> str:
        policy = PolicyConfig.model_validate({"gates": {"g": {"metric": "reads_a", **gate}}})
        return decide(found, policy)[0].value

    assert verdict(kind="floor", limit=0.9) == "pass"
    assert verdict(kind="untuned", margin=0) == "pass"
    worse = evaluation(["?" * 26] * 100, tuned, expected, graders=graders)
    policy = PolicyConfig.model_validate(
        {"gates": {"g": {"kind": "untuned", "metric": "reads_a", "margin": 0.1}}}
    )
    assert decide(worse, policy)[0].value == "fail"
    assert Evaluation.parse(found.canonical()).with_measured(found.measured) == found
    assert b'"metrics"' not in evaluation(tuned, tuned, expected).canonical()


def estimates_of(found: Evaluation) -> dict[str, Estimate]:
    return {e.metric: e for e in found.overall.estimates}


def width(estimate: Estimate) -> float:
    assert estimate.low is not None
    assert estimate.high is not None
    return estimate.high - estimate.low


def test_loss_is_over_tokens_and_perplexity_is_e_to_it() -> None:
    expected = answers(100)
    found = evaluation(expected, expected, expected)
    loss, perplexity = (estimates_of(found)[n] for n in ("answer_loss", "perplexity"))
    assert loss.value == pytest.approx(0.25)  # 2 and 3 nats by turns, of 10 tokens each
    assert perplexity.value == pytest.approx(np.exp(0.25))
    assert loss.low is not None
    assert loss.high is not None
    assert (perplexity.low, perplexity.high) == pytest.approx(np.exp([loss.low, loss.high]))
    assert loss.low == pytest.approx(0.25 - 1.98422 * 0.05 / np.sqrt(99), abs=1e-5)
    paired = {d.metric: d for d in found.overall.untuned_differences}["answer_loss"]
    assert paired.value == pytest.approx(0.25 - 0.5)
    policy = PolicyConfig.model_validate(
        {"gates": {"g": {"kind": "ceiling", "metric": "perplexity", "limit": 1.2}}}
    )
    assert decide(found, policy)[0].value == "fail"
    assert estimates_of(found)["answer_tokens"].value == np.mean([len(a) for a in expected])


SAMPLES = {"per_item": 4, "tries": [1, 2, 4], "success": ["exact_match", "reads_a"]}
READS_A = {"reads_a": {"kind": "exact", "field": "a"}}


def test_samples_of_an_item_are_several_tries_at_one_item() -> None:
    expected = answers(60)
    tuned = [[a, a, "?", "?"] if i % 2 else [a, "?", "?", "?"] for i, a in enumerate(expected)]
    found = evaluation(tuned, [["?"] * 4] * 60, expected, samples=SAMPLES, graders=READS_A)
    of = estimates_of(found)
    assert of["exact_match"].value == pytest.approx(3 / 8)
    assert of["exact_match_pass_at_1"].value == pytest.approx(3 / 8)
    assert of["exact_match_pass_at_2"].value == pytest.approx((1 / 2 + 5 / 6) / 2)
    assert of["exact_match_pass_all_2"].value == pytest.approx((0 + 1 / 6) / 2)
    assert of["exact_match_pass_at_4"].value == 1
    assert of["reads_a_pass_at_4"].value == 1
    assert "exact_match_pass_all_1" not in of
    assert of["exact_match"].num_rows == 60  # items, however many answers
    assert found.answering is not None
    assert (found.answering.samples_per_item, found.answering.temperature) == (4, 0.8)
    assert [c.num_answers for c in found.costs] == [240, 240]
    for kind, limit, verdict in (("floor", 0.9, "pass"), ("floor", 0.2, "fail")):
        metric = f"exact_match_pass_{'at' if verdict == 'pass' else 'all'}_4"
        gate = {"kind": kind, "metric": metric, "limit": limit}
        policy = PolicyConfig.model_validate({"gates": {"g": gate}})
        check_policy(policy, "text", (), found_metrics(found))
        assert decide(found, policy)[0].value == verdict


def found_metrics(found: Evaluation) -> dict[str, Metric]:
    return {m.name: metrics_in(found)[m.name] for m in found.metrics}


def test_rows_of_one_document_count_as_one() -> None:
    expected = answers(120)
    tuned = [a if i // 2 % 2 else "?" for i, a in enumerate(expected)]  # by document, all or none
    alone = estimates_of(evaluation(tuned, ["?"] * 120, expected))["exact_match"]
    found = evaluation(tuned, ["?"] * 120, expected, cluster_by="document")
    together = estimates_of(found)["exact_match"]
    assert together.value == alone.value == 0.5
    assert width(together) == pytest.approx(width(alone) * np.sqrt(2), rel=0.02)
    few = evaluation(
        expected[:50], ["?"] * 50, expected[:50], of_champion(["?"] * 50), cluster_by="document"
    )
    assert set(verdicts(few).values()) == {"inconclusive"}  # 25 documents


def test_the_report_shows_it() -> None:
    samples = {"per_item": 2, "tries": [2]}
    pairs = [[a, "?"] for a in answers(50)]
    champion = [said(pair, 2.0) for pair in pairs]
    found = evaluation(pairs, [["?", "?"]] * 50, answers(50), champion, samples=samples, golden="x")
    assert Evaluation.parse(found.canonical()).with_measured(found.measured) == found
    assert BundleSchema.parse(SCHEMA.canonical()) == SCHEMA
    html = page_of(found, decide(found, POLICY))
    assert "exact match" in html.lower().replace("_", " ")
    assert "Latency" not in html
    for text in ("2026-11", "item 9: a training row has the same text", "7,000 rows", "5" * 64):
        assert text in html
    for text in ("exact match pass@2", "exact match pass^2", "sampled at temperature 0.8", "a CPU"):
        assert text in html
    for opponent, name in (("champion", "c" * 64), ("untuned weights", "tiny (000000000000)")):
        for text in (f"against the {opponent}", f"change to the {opponent}", name):
            assert text in html
    champion = of_champion(right_in(0.9, 80))
    beside = evaluation(answers(80), ["?"] * 80, answers(80), champion)
    html = page_of(beside)
    assert "Slices against the champion" in html
    alone = evaluation(answers(80), ["?"] * 80, answers(80))
    html = page_of(alone)
    assert "Slices against the untuned weights" in html
    assert "champion" not in html


def test_metrics_beside_two_opponents_need_no_more_than_the_page_is_wide() -> None:
    """Six columns fit; with one more for the interval of each change, none could be read."""
    html = page_of(evaluation(answers(80), ["?"] * 80, answers(80), of_champion(right_in(0.9, 80))))
    table = html.partition('<div class="wide metrics">')[2].partition("</table>")[0]
    assert len(re.findall(r"<th[ >]", table)) == 6
    assert '+0.1000<span class="interval">+0.0328 to +0.1672</span>' in table


def test_a_schema_without_language_is_written_as_before() -> None:
    schema = BundleSchema(
        name="t", family="neural", task="binary", label="y", classes=(), inputs=(), features=()
    )
    assert b"language" not in schema.canonical()
    assert BundleSchema.parse(schema.canonical()) == schema
