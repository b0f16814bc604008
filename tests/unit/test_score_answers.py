"""What a row is asked and what is kept of its answer, without any engine."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from test_families_llm import END, Letters, text_of

from rayapp.config.operations import AnswersConfig
from rayapp.errors import DataError, Refused
from rayapp.schemas.data import Column
from rayapp.schemas.model import BundleSchema, Feature, LanguageSchema
from rayapp.score.answers import (
    ANSWER_SCHEMA,
    Answer,
    Limits,
    Question,
    Reply,
    answer_of,
    answer_table,
    in_row_order,
    questions_of,
    unasked,
)
from rayapp.score.inputs import digest_of, hashes_of, need_inputs
from rayapp.score.language import bundle_of
from rayapp.score.table import come_to, commit_scored, count_scored, scored_by

LIMITS = Limits(context=30, output=8)
FIELDS = ("a", "b")
QUESTION = Question([1, 2, 3], max_tokens=8)
SCHEMA = BundleSchema(
    name="reader",
    family="llm",
    task="text",
    label="answer",
    classes=(),
    inputs=(
        Column(name="text", type="string"),
        Column(name="size", type="integer", nullable=True, minimum=0),
    ),
    features=(),
    language=LanguageSchema(
        base_name="base",
        base_digest="0" * 64,
        method="lora",
        system=None,
        prompt="{text} {double}",
        features=(
            Feature(name="text", expression="text"),
            Feature(name="double", expression="size * 2"),
        ),
        fields=FIELDS,
    ),
)


def asked(*rows: tuple[str | None, int | None]) -> list[Question]:
    texts, sizes = zip(*rows, strict=True)
    table = pa.table({"text": pa.array(texts, pa.string()), "size": pa.array(sizes, pa.int64())})
    return questions_of(Letters(), SCHEMA, LIMITS, table)


def test_a_row_becomes_the_tokens_that_training_made_of_it() -> None:
    one, empty = asked(("hi", 21), ("hi", None))
    assert text_of(one.tokens) == "u>hi 42$\na>"
    assert text_of(empty.tokens) == "u>hi $\na>"
    assert (one.error, one.max_tokens) == (None, LIMITS.output)


def test_rows_that_cannot_be_asked_say_why_and_others_are() -> None:
    good, null, negative, long, tight = asked(
        ("hi", 1), (None, 1), ("hi", -1), ("x" * 30, 1), ("x" * 18, 1)
    )
    assert good.error is None
    assert null.error is not None
    assert null.error.startswith("text: missing_value")
    assert negative.error == "size: range, -1 is not at least 0"
    assert long.error == (
        "the prompt has 38 tokens, the context takes 30 of prompt and answer together"
    )
    assert tight.error is None
    assert tight.max_tokens == 30 - len(tight.tokens) == 4
    assert unasked(long) == Answer(None, None, long.error, 38, 0)


@pytest.mark.parametrize(
    ("reply", "fields", "error"),
    [
        (Reply(' {"b": 2, "a": "é"}\n', 7, END, ""), '{"b":2,"a":"é"}', None),
        (Reply('{"a": 1}', 7, END, ""), '{"a":1}', "the answer has no b"),
        (Reply('{"a": NaN, "b": 1}', 7, END, ""), None, "the answer is not a JSON object"),
        (Reply("[1]", 7, END, ""), None, "the answer is not a JSON object"),
        (Reply("I do not know", 7, END, ""), None, "the answer is not a JSON object"),
        (Reply('{"a": 1, "b": 2}', 8, 65, ""), None, "the answer was cut after 8 tokens"),
        (Reply('{"a": 1, "b": 2}', 8, END, ""), '{"a":1,"b":2}', None),
    ],
)
def test_an_answer_is_kept_with_what_is_wrong_with_it(
    reply: Reply, fields: str | None, error: str | None
) -> None:
    found = answer_of(QUESTION, reply, END, FIELDS)
    assert found == Answer(reply.text.strip(), fields, error, 3, reply.num_tokens)


def test_plain_text_has_no_fields_and_a_failure_no_answer() -> None:
    plain = answer_of(QUESTION, Reply("yes ", 2, END, ""), END, ())
    assert plain == Answer("yes", None, None, 3, 2)
    failed = answer_of(QUESTION, Reply("", 0, None, "ValueError: no"), END, FIELDS)
    assert failed == Answer(None, None, "ValueError: no", 3, 0)


@given(st.permutations(range(9)), st.sets(st.integers(0, 8)), st.integers(1, 4))
def test_answers_come_in_the_order_of_rows(order: list[int], known: set[int], size: int) -> None:
    line = {row: Answer(str(row), None, None, 1, 1) for row in range(9)}
    rest = [row for row in order if row not in known]

    def found() -> Iterator[dict[int, Answer]]:
        for begin in range(0, len(rest), size):
            yield {row: line[row] for row in rest[begin : begin + size]}

    parts = list(in_row_order({row: line[row] for row in known}, found(), 9))
    assert all(parts)
    assert [one.answer for part in parts for one in part] == [str(row) for row in range(9)]


def answers(begin: int, end: int, digest: str = "d") -> pa.Table:
    found = [Answer(f"{n}", None, "cut" if n % 2 else None, 3, 2) for n in range(begin, end)]
    return answer_table([f"r{n}" for n in range(begin, end)], found, "release", digest)


def test_rows_are_committed_once_however_often_a_job_is_killed(tmp_path: Path) -> None:
    uri, application = str(tmp_path / "answers"), scored_by("release", "d")
    assert come_to(uri, application, ANSWER_SCHEMA) == 0
    for before, after in pairwise([0, 2, 5, 6]):
        for _ in range(2):  # the second time is a commit whose success was not seen
            commit_scored(uri, answers(before, after), application, before=before, after=after)
        assert come_to(uri, application, ANSWER_SCHEMA) == after
    rows = DeltaTable(uri).to_pyarrow_dataset().to_table().sort_by("_row_id")
    assert rows.column("_row_id").to_pylist() == [f"r{n}" for n in range(6)]
    counted = count_scored(uri, "release", "d")
    assert counted == {
        "num_rows": 6,
        "num_errors": 3,
        "num_prompt_tokens": 18,
        "num_output_tokens": 12,
    }
    other = scored_by("release", "e")
    commit_scored(uri, answers(0, 2, "e"), other, before=0, after=2)
    assert count_scored(uri, "release", "d") == counted


def test_a_job_beside_another_one_writes_nothing(tmp_path: Path) -> None:
    uri, application = str(tmp_path / "answers"), scored_by("release", "d")
    commit_scored(uri, answers(0, 3), application, before=0, after=3)
    with pytest.raises(Refused, match="another job has written 3 of these rows"):
        commit_scored(uri, answers(0, 5), application, before=0, after=5)
    assert DeltaTable(uri).to_pyarrow_dataset().count_rows() == 3


def test_a_table_of_other_things_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    uri, application = str(tmp_path / "scores"), scored_by("release", "d")
    scores = pa.table({"_row_id": ["a"], "scores": [[0.5]]})
    commit_scored(uri, scores, application, before=0, after=1)
    with pytest.raises(DataError, match="name another `output_table`"):
        come_to(uri, application, ANSWER_SCHEMA)


def test_a_digest_is_of_rows_in_any_order() -> None:
    rows = pa.table({"_row_id": ["a", "b"], "text": ["x", None]})
    turned = rows.take([1, 0])
    assert digest_of(hashes_of(rows)) == digest_of(hashes_of(turned))
    assert digest_of(hashes_of(rows)) != digest_of(hashes_of(rows.slice(1)))
    assert need_inputs(SCHEMA, ["other", "_row_id", "text"]) == ["_row_id", "text"]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"arguments": {"max_model_len": 5}}, "are set by other settings"),
        ({"accelerator": "gpu", "kv_cache_gib": 1}, "`kv_cache_gib` has no effect on GPUs"),
        ({"max_adapters": 4}, "Extra inputs are not permitted"),
        ({"commit_rows": 0}, "greater than or equal to 1"),
    ],
)
def test_what_has_no_effect_is_refused(settings: dict[str, object], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        AnswersConfig.model_validate(settings)


@pytest.mark.parametrize(
    ("accelerator", "needs"),
    [
        ("cpu", {"CPU": 2.0}),
        ("gpu", {"CPU": 2.0, "GPU": 1.0}),
        ("H100", {"CPU": 2.0, "GPU": 1.0, "accelerator_type:H100": 0.001}),
    ],
)
def test_what_an_engine_needs(accelerator: str, needs: dict[str, float]) -> None:
    assert bundle_of(AnswersConfig(accelerator=accelerator, num_cpus=2)) == needs
