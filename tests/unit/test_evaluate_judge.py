"""A judge by config: its errors are measured on anchors and taken out of what it says, and one
that says nothing is refused."""

import hashlib
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from judge_case import ANCHORS, JUDGE, PROMPT, ErringJudge, cases, judge_config
from pydantic import ValidationError

from rayapp.config.judging import AnchorsConfig, VerdictConfig
from rayapp.config.release import EvaluationConfig, PolicyConfig
from rayapp.data.anchors import AnchorRows, anchor_objects, anchor_table
from rayapp.errors import ConfigError, ContaminationRefused, DataError, JudgeRefused
from rayapp.evaluate.contamination import find_contamination, refuse_share
from rayapp.evaluate.declared import declared_metrics
from rayapp.evaluate.gates import check_policy, decide
from rayapp.evaluate.judge import Anchors
from rayapp.evaluate.judged import Judging
from rayapp.evaluate.judging import (
    Case,
    Read,
    Verdicts,
    check_judge,
    count_anchors,
    read_verdict,
    refuse_coin,
    refuse_unread,
    verdicts_of,
)
from rayapp.evaluate.report import render
from rayapp.evaluate.text import decoding_of, evaluate_answers
from rayapp.families.llm.answer import CHAMPION, SAID, TUNED, UNTUNED
from rayapp.flows.judging import refuse_few
from rayapp.schemas.data import Column
from rayapp.schemas.model import BundleSchema, Feature, LanguageSchema
from rayapp.schemas.prompt import Prompt
from rayapp.schemas.release import Contamination, Difference, Estimate, Evaluation

NOTHING = Contamination(
    num_training_rows=700, ngram_words=None, max_overlap=None, max_share=0, items=()
)
LANGUAGE = LanguageSchema(
    base_name="tiny",
    base_digest="0" * 64,
    method="lora",
    system=None,
    prompt="{x}",
    features=(Feature(name="x", expression="x"),),
    fields=(),
)
NUM_ITEMS, TRUTH, BASE_TRUTH, CHAMPION_TRUTH = 600, 0.8, 0.3, 0.95


def said(text: str) -> dict[str, Any]:
    answer = {"texts": [text], "num_tokens": [1], "right_nats": 1.0, "right_tokens": 1}
    took = {"prompt_tokens": 5, "seconds": 0.1, "hardware": "a CPU"}
    return answer | took | {"nats": [0.5]}


def evaluated(
    judge: ErringJudge, num_anchors: int = 400, has_champion: bool = False, **settings: Any
) -> Evaluation:
    """What a flow does, by hand: 80% of the tuned model's answers are right, 30% of the weights'
    beneath it, 95% of a champion's."""
    judge_settings = JUDGE | settings
    config = EvaluationConfig.model_validate({"judge": judge_settings, "slices": ["kind"]})
    assert config.judge is not None
    known = cases(num_anchors, 0.5, "anchor")
    read = verdicts_of(known, PROMPT, judge, config.judge.verdict)
    is_right = [case.expected == case.answered for case in known]
    truths = {TUNED: TRUTH, UNTUNED: BASE_TRUTH} | (
        {CHAMPION: CHAMPION_TRUTH} if has_champion else {}
    )
    asked = {name: cases(NUM_ITEMS, truth, "item") for name, truth in truths.items()}
    found = {
        name: Verdicts.of_samples(
            verdicts_of(some, PROMPT, judge, config.judge.verdict).verdicts, 1
        )
        for name, some in asked.items()
    }
    table = pa.table(
        {
            "y": ["yes"] * NUM_ITEMS,
            "kind": [f"k{i % 2}" for i in range(NUM_ITEMS)],
            **{n: pa.array([said(c.answered) for c in some], SAID) for n, some in asked.items()},
        }
    )
    return evaluate_answers(
        answered=table,
        label="y",
        language=LANGUAGE,
        config=config,
        decoding=decoding_of(None, 8),
        run_id="r",
        snapshot_id="s",
        split="test",
        bundle_digest="b",
        champion_release="c" * 64 if has_champion else None,
        judging=Judging(
            config=config.judge,
            who="weights tiny (000000000000)",
            prompt=PROMPT,
            anchors=count_anchors(is_right, read),
            num_anchors=num_anchors,
            num_unread_anchors=read.num_unread,
            contamination=NOTHING,
            tuned=found[TUNED],
            untuned=found[UNTUNED],
            champion=found.get(CHAMPION),
        ),
    )


def covers(estimate: Estimate | Difference, truth: float) -> bool:
    assert estimate.low is not None
    assert estimate.high is not None
    return estimate.low <= truth <= estimate.high


def corrected(found: Evaluation) -> Estimate:
    return next(e for e in found.overall.estimates if e.metric == "judged_right")


def test_the_corrected_interval_has_the_truth_and_the_raw_one_has_not() -> None:
    found = evaluated(ErringJudge(0.85, 0.75))
    judged = found.judged
    assert judged is not None
    assert covers(judged.sensitivity, 0.85)
    assert covers(judged.specificity, 0.75)
    assert covers(corrected(found), TRUTH)
    assert not covers(judged.raw, TRUTH)
    assert covers(judged.corrected_untuned, BASE_TRUTH)
    assert not covers(judged.raw_untuned, BASE_TRUTH)
    change = next(d for d in found.overall.untuned_differences if d.metric == "judged_right")
    assert covers(change, TRUTH - BASE_TRUTH)
    raw_change = judged.raw.value - judged.raw_untuned.value  # type: ignore[operator]
    assert not covers(change, raw_change)
    assert judged.corrected == corrected(found)
    assert all("judged_right" not in {e.metric for e in s.estimates} for s in found.slices)
    assert Evaluation.parse(found.canonical()).with_measured(found.measured) == found


def test_gates_judge_the_corrected_share() -> None:
    found = evaluated(ErringJudge(0.85, 0.75))
    declared = declared_metrics(EvaluationConfig.model_validate({"judge": JUDGE}), "text")

    def verdict(**gate: Any) -> str:
        policy = PolicyConfig.model_validate({"gates": {"g": {"metric": "judged_right", **gate}}})
        check_policy(policy, "text", ["kind"], declared)
        return decide(found, policy)[0].value

    assert verdict(kind="floor", limit=0.7) == "pass"
    assert verdict(kind="floor", limit=0.95) == "fail"
    assert verdict(kind="untuned", margin=0) == "pass"
    with pytest.raises(ConfigError, match="told of all rows alone"):
        verdict(kind="slices", margin=0.1)
    with pytest.raises(ConfigError, match="told of all rows alone"):
        verdict(kind="gap", column="kind", limit=0.1)


def test_the_champion_is_judged_too() -> None:
    found = evaluated(ErringJudge(0.85, 0.75), has_champion=True)
    judged = found.judged
    assert judged is not None
    assert judged.corrected_champion is not None
    assert covers(judged.corrected_champion, CHAMPION_TRUTH)
    change = next(d for d in found.overall.differences if d.metric == "judged_right")
    assert covers(change, TRUTH - CHAMPION_TRUTH)
    gate = {"kind": "champion", "metric": "judged_right", "margin": 0.02}
    policy = PolicyConfig.model_validate({"gates": {"g": gate}})
    assert decide(found, policy)[0].value == "fail"
    assert Evaluation.parse(found.canonical()).with_measured(found.measured) == found
    assert b"champion" not in evaluated(ErringJudge(0.85, 0.75)).judged.canonical()  # type: ignore[union-attr]


def test_few_anchors_make_a_wide_interval() -> None:
    wide, narrow = (corrected(evaluated(ErringJudge(0.85, 0.75), n)) for n in (80, 2000))
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)  # type: ignore[operator]


def test_what_has_no_verdict_is_neither_right_nor_wrong() -> None:
    found = evaluated(ErringJudge(1, 1, silent=0.04))
    judged = found.judged
    assert judged is not None
    assert 10 < judged.num_unread < 40
    assert judged.num_unread_anchors > 0
    whole = evaluated(ErringJudge(1, 1))
    unread = judged.num_unread / NUM_ITEMS
    assert judged.raw.value == pytest.approx(TRUTH, abs=0.02)  # of those with a verdict
    assert corrected(found).low == pytest.approx(
        corrected(whole).low * (1 - unread),  # type: ignore[operator]
        abs=0.02,
    )
    assert covers(corrected(found), TRUTH * (1 - unread))
    assert covers(corrected(found), TRUTH * (1 - unread) + unread)


@pytest.mark.parametrize(
    ("text", "take", "verdict"),
    [
        ("RIGHT", "whole", True),
        (" “Wrong.” \n", "whole", False),
        ("right, as far as I see", "whole", None),
        ("not right", "whole", None),
        ("RIGHT WRONG", "whole", None),
        ("", "whole", None),
        ("It is the same.\nRIGHT", "whole", None),
        ("It is the same.\n\n**RIGHT**\n", "last_line", True),
        ("RIGHT\nbut then again", "last_line", None),
        ("", "last_line", None),
    ],
)
def test_words_are_read_strictly(text: str, take: str, verdict: bool | None) -> None:
    words = VerdictConfig.model_validate({"right": "RIGHT", "wrong": "WRONG", "take": take})
    assert read_verdict(text, words) is verdict


def test_equal_chats_are_asked_once() -> None:
    judge = ErringJudge(1, 1)
    same = [Case({"x": "q"}, "yes", "yes")] * 5 + [Case({"x": "q"}, "yes", "no")]
    found = verdicts_of(same, PROMPT, judge, judge_config().verdict)
    assert found.verdicts == (True,) * 5 + (False,)
    assert judge.num_asked == 2


def test_a_judge_that_guesses_is_refused() -> None:
    known = cases(400, 0.5, "anchor")
    is_right = [case.expected == case.answered for case in known]
    read = verdicts_of(known, PROMPT, ErringJudge(0.5, 0.5), judge_config().verdict)
    with pytest.raises(JudgeRefused, match="it may be guessing") as error:
        refuse_coin("judged_right", count_anchors(is_right, read), 0.95)
    assert "of 200 right anchors right" in str(error.value)
    refuse_coin("judged_right", Anchors(200, 150, 200, 120), 0.95)
    with pytest.raises(JudgeRefused):  # perhaps better than a coin: these anchors cannot tell
        refuse_coin("judged_right", Anchors(10, 6, 10, 6), 0.95)
    with pytest.raises(JudgeRefused):  # certainly worse
        refuse_coin("judged_right", Anchors(200, 20, 200, 20), 0.95)


def test_a_judge_without_verdicts_is_refused() -> None:
    config = judge_config(max_unread_share=0.1)
    refuse_unread("anchors", Read((True,) * 9 + (None,), "perhaps"), config)
    with pytest.raises(JudgeRefused) as error:
        refuse_unread("anchors", Read((True,) * 8 + (None,) * 2, "perhaps"), config)
    for text in ("2 of 10 anchors have no verdict", "at most 10.0%", "said 'perhaps'", "'RIGHT'"):
        assert text in str(error.value)


def anchors_file(folder: Path, rows: Sequence[Any], **settings: Any) -> AnchorsConfig:
    text = "".join(f"{json.dumps(row)}\n" for row in rows)
    (folder / "anchors.jsonl").write_text(text)
    digest = hashlib.sha256(text.encode()).hexdigest()
    given = {"path": str(folder / "anchors.jsonl"), "sha256": digest, "min_of_each": 10}
    return AnchorsConfig.model_validate(ANCHORS | given | settings)


def labelled(num_each: int) -> list[dict[str, Any]]:
    both = [(i, is_right) for i in range(num_each) for is_right in (True, False)]
    return [
        {"x": f"question {i}", "y": "yes", "answered": "yes" if r else "no", "is_right": r}
        for i, r in both
    ]


def test_too_few_anchors_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="9 that are right can be used, min_of_each is 10"):
        anchor_objects(anchors_file(tmp_path, labelled(9)))
    one_kind = [row for row in labelled(40) if row["is_right"]]
    with pytest.raises(DataError, match="0 that are wrong can be used"):
        anchor_objects(anchors_file(tmp_path, one_kind))
    # enough in the file, too few with a verdict
    config = judge_config(anchors=ANCHORS | {"min_of_each": 30})
    with pytest.raises(DataError, match="29 that are wrong can be used, min_of_each is 30"):
        refuse_few(config, Anchors(40, 38, 29, 20))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"is_right": "yes"}, "anchor 21 has 'is_right' 'yes'"),
        ({"answered": None}, "anchor 21 has no text 'answered'"),
        ({"x": "question 0", "answered": "yes"}, "anchor 21 is anchor 1 again"),
    ],
)
def test_what_is_no_anchor_is_named(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    wrong = {"x": "new", "y": "yes", "answered": "no", "is_right": False} | change
    with pytest.raises(DataError, match=says):
        anchor_objects(anchors_file(tmp_path, [*labelled(10), wrong]))


def test_other_anchors_are_refused(tmp_path: Path) -> None:
    config = anchors_file(tmp_path, labelled(10))
    (tmp_path / "anchors.jsonl").write_text("{}\n")
    with pytest.raises(ConfigError, match=r"anchors of evaluation\.judge.*not the sha256"):
        anchor_objects(config)


VIEW = (Column(name="x", type="string"), Column(name="y", type="string", known_at="outcome"))


class Blocks:
    """Stands in for a dataset of Ray's, of one block."""

    def __init__(self, block: pa.Table) -> None:
        self.block = block

    def map_batches(self, step: Callable[[pa.Table], pa.Table], **_: Any) -> "Blocks":
        return Blocks(step(self.block))

    def iter_rows(self) -> Any:
        return iter(self.block.to_pylist())


def test_anchors_that_were_learned_are_refused(tmp_path: Path) -> None:
    config = anchors_file(tmp_path, labelled(12), contamination={"max_overlap": None})
    found = anchor_table(anchor_objects(config), VIEW[:1], VIEW, "y", (), True)
    training = [Blocks(pa.table({"x": ["Question 3?", "another"]}))]
    features = (Feature(name="x", expression="x"),)
    dirt, is_clean = find_contamination(found.rows, features, training, config.contamination)
    assert is_clean.count(False) == 2
    with pytest.raises(ContaminationRefused, match="2 of 24 items occur in the 2 training rows"):
        refuse_share("anchors", dirt, len(is_clean))
    kept = found.take(is_clean)
    assert (len(kept.rows), len(kept.answered), len(kept.is_right)) == (22, 22, 22)
    assert "question 3" not in kept.rows.column("x").to_pylist()


def test_anchors_need_the_right_answer_only_where_the_judge_sees_it(tmp_path: Path) -> None:
    rows = [{k: v for k, v in row.items() if k != "y"} | {"rater": 7} for row in labelled(10)]
    objects = anchor_objects(anchors_file(tmp_path, rows))

    def table(needs_label: bool, fields: Sequence[str] = ()) -> AnchorRows:
        return anchor_table(objects, VIEW[:1], VIEW, "y", fields, needs_label)

    assert table(False).rows.column_names == ["x", "y"]
    assert len(table(False, ("a", "b")).rows) == 20
    with pytest.raises(DataError, match=r"anchors of evaluation\.judge: item 1 has no 'y'"):
        table(True)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"weights": None}, "either `weights` of the workspace, or `served`"),
        ({"served": {"url": "http://h/v1", "model": "m"}}, "either `weights`"),
        ({"weights": None, "served": {"url": "http://me:secret@h/v1", "model": "m"}}, "url"),
        ({"weights": None, "served": {"url": "h/v1", "model": "m"}}, "url"),
        ({"weights": None, "served": {"url": "http://h", "model": "m", "key": "sk-1"}}, "key"),
        ({"weights": None, "served": {"url": "http://h", "model": "m", "key_env": "sk-1"}}, "key"),
        ({"prompt": "Is it right?"}, "no path of a YAML file"),
        ({"anchors": ANCHORS | {"min_of_each": 3}}, "greater than or equal to 10"),
        ({"max_unread_share": 0.6}, "less than 0.5"),
    ],
)
def test_a_judge_that_cannot_be_is_no_config(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        judge_config(**settings)


@pytest.mark.parametrize(
    ("user", "features", "verdict", "says"),
    [
        ("{x} {expected}", ["x"], {}, "does not show {answered}"),
        ("{answered} {z}", ["x"], {}, "shows {z}, which a judge is not told"),
        ("{answered}", ["answered"], {}, "'answered' is a feature"),
        ("{answered}", ["x"], {"wrong": "right!"}, "cannot be told apart"),
        ("{answered}", ["x"], {"wrong": "?"}, "cannot be told apart"),
    ],
)
def test_a_judge_that_could_judge_nothing_is_refused_before_any_compute(
    user: str, features: list[str], verdict: dict[str, str], says: str
) -> None:
    config = judge_config(verdict={"right": "RIGHT", "wrong": "WRONG"} | verdict)
    with pytest.raises(ConfigError) as error:
        check_judge(config, Prompt(name="p", system=None, user=user), features)
    assert says in str(error.value)
    check_judge(judge_config(), PROMPT, ["x"])


def test_its_metric_has_a_name_of_its_own() -> None:
    config = EvaluationConfig.model_validate({"judge": JUDGE | {"metric": "exact_match"}})
    with pytest.raises(ConfigError, match="'exact_match' is a metric already"):
        declared_metrics(config, "text")
    config = EvaluationConfig.model_validate({"judge": JUDGE})
    with pytest.raises(ConfigError, match=r"evaluation\.judge has no effect with task binary"):
        declared_metrics(config, "binary")
    settings = {"judge": JUDGE, "samples": {"per_item": 2, "tries": [2]}}
    config = EvaluationConfig.model_validate(settings)
    assert set(declared_metrics(config, "text")) > {"judged_right", "exact_match_pass_at_2"}


def test_the_report_shows_both_shares_and_the_errors() -> None:
    found = evaluated(ErringJudge(0.85, 0.75, silent=0.02))
    schema = BundleSchema(
        name="t",
        family="llm",
        task="text",
        label="y",
        classes=(),
        inputs=(Column(name="x", type="string"),),
        features=(),
        language=LANGUAGE,
    )
    html = render(found, (), "t", datetime(2026, 1, 1, tzinfo=UTC), schema, {})
    judged = found.judged
    assert judged is not None
    for share in (judged.raw, judged.corrected, judged.sensitivity, judged.specificity):
        assert f"{share.value:.4f}" in html
    for text in ("weights tiny", "judged right", "is_it_right", f"{judged.num_unread} of 600"):
        assert text in html
