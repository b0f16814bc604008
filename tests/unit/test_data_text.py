"""Rows of text: JSON lines as a source, and answers in words as labels."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from rayapp.config.load import load
from rayapp.config.snapshot import LabelConfig, SnapshotConfig, SourceConfig
from rayapp.data.block import part_row
from rayapp.data.contract import Contract, load_contract
from rayapp.data.labels import encode_label
from rayapp.data.leakage import refuse_outcome_features, resolve_features
from rayapp.data.parts import cut_source, read_part
from rayapp.data.plan import plan_view
from rayapp.errors import ConfigError, DataError, LeakageRefused
from rayapp.schemas.data import Column

CONTRACT = """
apiVersion: v3.1.0
kind: DataContract
id: t
version: 1.0.0
status: active
schema:
  - name: t
    logicalType: object
    properties:
      - {name: text, physicalName: what was said, logicalType: string, required: true}
      - {name: count, logicalType: integer}
      - {name: share, logicalType: number}
      - {name: is_new, logicalType: boolean}
"""
ROWS: list[Any] = [
    {"what was said": 'a "quoted" {brace}', "count": 1, "share": 0.5, "is_new": True, "other": [1]},
    {"what was said": "Zürich", "count": None, "is_new": False},
    {"what was said": "NA", "count": 3.0, "share": 2e-7},
]


@pytest.fixture
def contract(tmp_path: Path) -> Contract:
    (tmp_path / "t.odcs.yaml").write_text(CONTRACT)
    return load_contract(tmp_path / "t.odcs.yaml")


def _write(path: Path, lines: list[str]) -> SourceConfig:
    data = ("\n".join(lines) + "\n").encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return SourceConfig(uri=str(path), format="jsonl")


@pytest.mark.parametrize("name", ["t.jsonl", "t.jsonl.gz"])
@pytest.mark.parametrize("num_blocks", [1, 2, 50])
def test_json_lines_become_typed_rows(
    tmp_path: Path, contract: Contract, name: str, num_blocks: int
) -> None:
    source = _write(tmp_path / name, [json.dumps(row, ensure_ascii=False) for row in ROWS * 5])
    parts = cut_source(source, contract, num_blocks)
    reads = [read_part(part, source, contract.columns) for part in parts]
    table = pa.concat_tables([read.parsed.table for read in reads])
    assert table.to_pydict() == {
        "text": ['a "quoted" {brace}', "Zürich", None] * 5,
        "count": [1, None, 3] * 5,
        "share": [0.5, None, 2e-7] * 5,
        "is_new": [True, False, None] * 5,
    }
    assert parts[0].header == ("text", "count", "share", "is_new", "other")


def test_a_line_that_is_no_object_costs_itself(tmp_path: Path, contract: Contract) -> None:
    good = json.dumps(ROWS[0])
    source = _write(tmp_path / "t.jsonl", [good, "[1]", '{"what was said": "cut', "", good])
    (part,) = cut_source(source, contract, 1)
    read = read_part(part, source, contract.columns)
    assert read.parsed.table.num_rows == 2
    assert read.misshapen == ("[1]", '{"what was said": "cut')


def test_a_file_without_objects_is_refused(tmp_path: Path, contract: Contract) -> None:
    source = _write(tmp_path / "t.jsonl", ["a,b", "1,2"])
    with pytest.raises(DataError, match="no JSON object"):
        cut_source(source, contract, 1)


def test_a_part_survives_its_way_through_a_dataset(tmp_path: Path, contract: Contract) -> None:
    source = _write(tmp_path / "t.jsonl", [json.dumps(row) for row in ROWS])
    (part,) = cut_source(source, contract, 1)
    row = pa.Table.from_pylist([part_row(0, part)]).to_pylist()[0]
    assert tuple(row["keys"]) == part.keys
    assert part.keys[0] == "what was said"


def test_the_answer_is_a_json_object_of_its_fields() -> None:
    table = pa.table({"b": ["x", None], "a": [1, 2], "c": [True, False]})
    label, classes = encode_label("text", LabelConfig(name="y", fields=("b", "a", "c")), table)
    assert label.to_pylist() == ['{"b":"x","a":1,"c":true}', '{"b":null,"a":2,"c":false}']
    assert classes == ()


def test_the_answer_may_be_a_column() -> None:
    table = pa.table({"b": ["x", None]})
    label, _ = encode_label("text", LabelConfig(name="y", expression="b"), table)
    assert label.to_pylist() == ["x", None]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"name": "y"}, "either"),
        ({"name": "y", "expression": "a", "fields": ["a"]}, "either"),
    ],
)
def test_a_label_has_one_source(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        LabelConfig.model_validate(given)


def _user_agent() -> tuple[SnapshotConfig, tuple[Column, ...]]:
    config = load(SnapshotConfig, "configs/snapshots/user_agent.yaml")
    columns = {n: load_contract(t.contract).columns for n, t in config.tables.items()}
    return config, plan_view(config, columns)


def test_fields_of_an_answer_are_outcomes() -> None:
    config, planned = _user_agent()
    label = config.view.label
    known = {c.name: c.known_at for c in planned}
    assert known == dict.fromkeys((*label.fields, label.name), "outcome") | {
        "useragent": "prediction"
    }
    refuse_outcome_features(resolve_features(["useragent"]), planned, label.name)
    with pytest.raises(LeakageRefused):
        refuse_outcome_features(resolve_features(["os"]), planned, label.name)


def test_fields_are_of_text_and_must_exist() -> None:
    config, _ = _user_agent()
    plain = config.model_dump(mode="json")
    with pytest.raises(ValueError, match="set `expression`"):
        SnapshotConfig.model_validate(plain | {"task": "multiclass"})
    plain["view"]["label"]["fields"] = ["brauser"]
    mistaken = SnapshotConfig.model_validate(plain)
    columns = {n: load_contract(t.contract).columns for n, t in config.tables.items()}
    with pytest.raises(ConfigError, match="did you mean 'browser'"):
        plan_view(mistaken, columns)
