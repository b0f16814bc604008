"""Rows that a report shows: which they are, and what is left out of them."""

from datetime import UTC, datetime

import pyarrow as pa
import pytest
from gate_case import evaluation_of, part_of

from rayapp.config.release import EvaluationConfig
from rayapp.errors import ConfigError
from rayapp.evaluate.declared import declared_metrics
from rayapp.evaluate.report import render
from rayapp.evaluate.shown import shown_rows
from rayapp.families.llm.answer import TUNED
from rayapp.flows.language import shown_of
from rayapp.schemas.model import BundleSchema, Feature, LanguageSchema
from rayapp.schemas.release import Evaluation, ShownRow

LANGUAGE = LanguageSchema(
    base_name="tiny",
    base_digest="0" * 64,
    method="lora",
    system=None,
    prompt="{x}",
    features=(Feature(name="x", expression="x"),),
    fields=(),
)


def answered(asked: list[str], given: list[str]) -> pa.Table:
    """Of rows whose right answer is what is asked, in capitals."""
    said = [{"texts": [text, "another sample"]} for text in given]
    return pa.table({"x": asked, "y": [text.upper() for text in asked], TUNED: said})


def shown(table: pa.Table) -> tuple[ShownRow, ...]:
    return shown_rows(table, "y", LANGUAGE, lambda text: text)


ASKED = [f"row {n}" for n in range(40)]
HALF_RIGHT = [text.upper() if n % 2 else "?" for n, text in enumerate(ASKED)]


def test_what_is_asked_decides_which_rows_are_shown() -> None:
    found = shown(answered(ASKED, HALF_RIGHT))
    assert [row.is_right for row in found] == [True] * 5 + [False] * 5
    assert all(row.given == (row.wanted if row.is_right else "?") for row in found)
    assert shown(answered(ASKED[::-1], HALF_RIGHT[::-1])) == found
    other_words = [given.replace("?", "unknown") for given in HALF_RIGHT]
    again = shown(answered(ASKED, other_words))
    assert [row.asked for row in again] == [row.asked for row in found]


def test_of_few_all_are_shown() -> None:
    assert [row.is_right for row in shown(answered(["a", "b"], ["A", "B"]))] == [True, True]


def test_several_features_are_named() -> None:
    features = (*LANGUAGE.features, Feature(name="z", expression="y"))
    several = LANGUAGE.model_copy(update={"features": features})
    (row,) = shown_rows(answered(["a"], ["A"]), "y", several, lambda text: text)
    assert row.asked == "x: a\nz: A"


def test_what_is_redacted_is_so_before_it_is_cut() -> None:
    """Half an address would not be known for one."""
    address = "someone@example.org"
    table = answered(["x " * 195 + address], [f"ask {address}"])
    (row,) = shown_of(table, "y", LANGUAGE, "contacts")
    assert row.asked == "x " * 195 + "[email]"
    assert row.given == "ask [email]"
    (row,) = shown_of(table, "y", LANGUAGE, "nothing")
    assert row.asked == "x " * 195 + "someone@ex …"
    assert row.given == f"ask {address}"
    assert shown_of(table, "y", LANGUAGE, "text") == ()


def test_the_report_shows_them_as_text() -> None:
    rows = shown(answered(["<script>alert(1)</script>"], ["?"]))
    schema = BundleSchema(
        name="t", family="neural", task="binary", label="y", classes=(), inputs=(), features=()
    )
    found = evaluation_of(part_of()).model_copy(update={"shown": rows})
    html = render(found, (), "t", datetime(2026, 1, 1, tzinfo=UTC), schema, {})
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "<h2>Rows</h2>" in html
    assert "<script" not in html
    assert Evaluation.parse(found.canonical()).with_measured(found.measured) == found
    assert b"shown" not in evaluation_of(part_of()).canonical()


def test_scores_have_no_rows_to_show() -> None:
    config = EvaluationConfig(redacts="nothing")
    with pytest.raises(ConfigError, match=r"evaluation\.redacts has no effect with task binary"):
        declared_metrics(config, "binary")
