"""Golden sets: read as rows are, fixed by their digest, and held against what was trained on."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from gate_case import evaluation_of, part_of
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from rayapp.config.golden import ContaminationConfig, GoldenConfig
from rayapp.config.load import load
from rayapp.config.release import AnswerWorkersConfig, EvaluationConfig, ReleaseConfig
from rayapp.data.golden import golden_columns, golden_rows, golden_table
from rayapp.errors import ConfigError, ContaminationRefused, DataError, TamperedError
from rayapp.evaluate.contamination import find_contamination, refuse_contaminated, trace_of
from rayapp.evaluate.declared import declared_metrics
from rayapp.evaluate.workers import reserving
from rayapp.flows.kept import require_version
from rayapp.ledger import Ledger
from rayapp.schemas.data import Column
from rayapp.schemas.model import Feature
from rayapp.schemas.operations import EventKind
from rayapp.schemas.release import Contamination, GoldenRef
from rayapp.storage import Workspace, commit_bytes

FEATURES = (Feature(name="said", expression="said"),)
VIEW = (
    Column(name="said", type="string"),
    Column(name="number", type="integer", nullable=True),
    Column(name="answer", type="string", known_at="outcome"),
)


def golden_of(**settings: Any) -> GoldenConfig:
    values = {
        "name": "toy",
        "version": "1",
        "owner": "someone",
        "path": "set.jsonl",
        "sha256": "0" * 64,
        "min_items": 1,
    }
    return GoldenConfig.model_validate(values | settings)


def config_of(folder: Path, rows: Sequence[Any], **settings: Any) -> GoldenConfig:
    text = "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows)
    (folder / "set.jsonl").write_text(text)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return golden_of(path=str(folder / "set.jsonl"), sha256=digest, **settings)


def table_of(config: GoldenConfig, fields: Sequence[str] = ()) -> pa.Table:
    return golden_table(golden_rows(config), VIEW[:1], VIEW, "answer", fields)


def test_items_are_rows_as_the_view_has_them(tmp_path: Path) -> None:
    rows = [
        {"said": "up", "answer": {"b": None, "a": "1"}, "number": 3, "topic": "t"},
        {"said": "down", "answer": '{"a": "2", "b": 1}'},
    ]
    config = config_of(tmp_path, rows)
    assert table_of(config, ("a", "b")).to_pylist() == [
        {"said": "up", "number": 3, "topic": "t", "answer": '{"a":"1","b":null}'},
        {"said": "down", "number": None, "topic": None, "answer": '{"a":"2","b":1}'},
    ]
    types = {c.name: c.type for c in golden_columns(golden_rows(config), VIEW)}
    assert types == {"said": "string", "answer": "string", "number": "integer", "topic": "string"}


def test_another_file_is_not_the_set(tmp_path: Path) -> None:
    config = config_of(tmp_path, [{"said": "up", "answer": "rises"}])
    (tmp_path / "set.jsonl").write_text('{"said": "up", "answer": "falls"}\n')
    with pytest.raises(ConfigError, match="give the new one a new version"):
        golden_rows(config)


@pytest.mark.parametrize(
    ("rows", "fields", "says"),
    [
        (['{"said": "up"'], (), "line 1 is no JSON object"),
        (["[1]"], (), "line 1 is no JSON object"),
        ([{"said": "up", "answer": "x"}, {"answer": "x"}], (), "item 2 has no 'said'"),
        ([{"said": "up"}], (), "item 1 has no 'answer'"),
        ([{"said": "up", "answer": {"a": 1}}], ("a", "b"), "an object of a, b"),
        ([{"said": "up", "answer": "x"}], ("a",), "an object of a"),
        (
            [{"said": "up", "answer": "x", "number": "three"}],
            (),
            "'number' must be of type int",
        ),
        ([{"said": 5, "answer": "x"}], (), "'said' must be of type string"),
    ],
)
def test_what_is_no_item_is_named(
    rows: list[Any], fields: tuple[str, ...], says: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError) as error:
        table_of(config_of(tmp_path, rows), fields)
    assert says in str(error.value)


def test_too_few_items_are_refused(tmp_path: Path) -> None:
    config = config_of(tmp_path, [{"said": "up", "answer": "x"}], min_items=2)
    with pytest.raises(DataError, match="1 items, min_items is 2"):
        golden_rows(config)


class Blocks:
    """Stands in for a dataset of Ray's: steps run here, a block at a time."""

    def __init__(self, blocks: Sequence[pa.Table]) -> None:
        self.blocks = list(blocks)

    def map_batches(self, step: Callable[[pa.Table], pa.Table], **_: Any) -> "Blocks":
        return Blocks([step(block) for block in self.blocks])

    def iter_rows(self) -> Any:
        return iter(row for block in self.blocks for row in block.to_pylist())


def said(*texts: str) -> pa.Table:
    return pa.table({"said": pa.array(texts, pa.string())})


def found_in(
    items: Sequence[str], training: Sequence[str], block: int = 2, **settings: Any
) -> tuple[Contamination, list[bool]]:
    blocks = [said(*training[i : i + block]) for i in range(0, len(training), block)]
    config = ContaminationConfig.model_validate(settings)
    return find_contamination(said(*items), FEATURES, [Blocks(blocks)], config)


WORDS = [f"w{i}" for i in range(40)]
LONG = " ".join(WORDS[:20])


def test_a_planted_item_is_found_however_it_is_written() -> None:
    training = ["What is the capital of France?", "Name a river.", LONG]
    items = ["WHAT is the capital  of France", "Name a lake.", f"and {LONG} then"]
    found, is_clean = found_in(items, training)
    assert is_clean == [False, True, False]
    assert found.num_training_rows == 3
    assert found.items == (
        "item 1: a training row has the same text",
        "item 3: 80% of its runs of 13 words are in training rows",
    )
    with pytest.raises(ContaminationRefused) as error:
        refuse_contaminated(golden_of(), found, len(items))
    assert "2 of 3 items occur in the 3 training rows" in str(error.value)
    assert "item 1: a training row has the same text" in str(error.value)


def test_a_limit_lets_some_through() -> None:
    found, _ = found_in(["a b", "c d"], ["a b"], max_share=0.5)
    refuse_contaminated(golden_of(), found, 2)
    with pytest.raises(DataError, match="1 items are not contaminated, min_items is 2"):
        refuse_contaminated(golden_of(min_items=2), found, 2)
    strict, _ = found_in(["a b", "c d"], ["a b"], max_share=0.4)
    with pytest.raises(ContaminationRefused, match="at most 40% may"):
        refuse_contaminated(golden_of(), strict, 2)


def test_texts_that_are_alike_by_nature_are_compared_as_wholes() -> None:
    alike = f"{LONG} 1"
    assert found_in([alike], [f"{LONG} 2"])[1] == [False]
    assert found_in([alike], [f"{LONG} 2"], max_overlap=None)[1] == [True]
    assert found_in([alike], [alike], max_overlap=None)[1] == [False]
    with pytest.raises(ValidationError, match="no effect"):
        ContaminationConfig.model_validate({"max_overlap": None, "ngram_words": 5})


@given(
    st.lists(st.lists(st.sampled_from(WORDS[:4]), max_size=9).map(" ".join), max_size=9),
    st.lists(
        st.lists(st.sampled_from(WORDS[:4]), max_size=9).map(" ".join), min_size=1, max_size=5
    ),
    st.integers(1, 9),
)
def test_how_rows_are_cut_decides_nothing(
    training: list[str], items: list[str], block: int
) -> None:
    whole = found_in(items, training, 100, ngram_words=3, max_overlap=0.3)
    assert found_in(items, training, block, ngram_words=3, max_overlap=0.3) == whole
    assert all(whole[1][i] is False for i, item in enumerate(items) if item in training)


def test_runs_are_of_whole_words() -> None:
    assert trace_of("a b", 3).runs == frozenset()
    assert trace_of("a b", None).runs == frozenset()
    assert trace_of("A-b  c", 2).words == "a b c"


def test_workers_are_of_answers_and_an_overlay_may_reach_every_release() -> None:
    config = EvaluationConfig.model_validate({"workers": {"num_workers": 4}})
    with pytest.raises(ConfigError, match=r"evaluation\.workers has no effect with task binary"):
        declared_metrics(config, "binary")
    for path in ("user_agent_lora", "flight_delay_trees"):
        release = load(ReleaseConfig, f"configs/releases/{path}.yaml", environment="gpu")
        assert release.evaluation.workers.each_needs == {"CPU": 2, "GPU": 1}
    assert declared_metrics(release.evaluation, "binary") == {}


def test_what_answers_is_reserved() -> None:
    """A GPU that nobody reserved may be an engine's."""
    plain = reserving(AnswerWorkersConfig(), {})
    assert (plain["num_cpus"], plain["compute"].min_size, "num_gpus" in plain) == (2, 1, False)
    wanted = AnswerWorkersConfig(num_workers=3, use_gpu=True, accelerator_type="H100")
    found = reserving(wanted, {"py_executable": "python"})
    assert (found["num_gpus"], found["accelerator_type"]) == (1, "H100")
    assert (found["compute"].min_size, found["compute"].max_size) == (3, 3)
    assert found["runtime_env"] == {"py_executable": "python"}


def test_scores_have_no_golden_set() -> None:
    config = EvaluationConfig(golden="configs/golden/toy.yaml")
    with pytest.raises(ConfigError, match=r"evaluation\.golden has no effect with task binary"):
        declared_metrics(config, "binary")


def asked(workspace: Workspace, ledger: Ledger, run_id: str, golden: GoldenRef | None) -> Path:
    """An evaluation that asked it, as the ledger has it; returns its file."""
    made = evaluation_of(part_of()).model_copy(update={"run_id": run_id, "golden": golden})
    uri = f"{workspace.artifact('evaluations', made.content_digest())}/evaluation.json"
    commit_bytes(uri, made.canonical())
    payload = {"evaluation_uri": uri, "evaluation_digest": made.content_digest()}
    ledger.append(EventKind.EVALUATION_MADE, run_id, payload)
    return Path(uri)


def test_one_version_is_one_set(tmp_path: Path) -> None:
    workspace = Workspace(str(tmp_path))
    workspace.local.mkdir(exist_ok=True)
    ledger = Ledger.of(workspace, "tester")
    found = Contamination(
        num_training_rows=1, ngram_words=None, max_overlap=None, max_share=0, items=()
    )
    ref = GoldenRef(
        name="toy",
        version="1",
        owner="someone",
        sha256="5" * 64,
        num_items=2,
        contamination=found,
    )
    asked(workspace, ledger, "run-1", None)
    file = asked(workspace, ledger, "run-2", ref)
    require_version(ledger, golden_of(sha256="5" * 64))
    require_version(ledger, golden_of(sha256="6" * 64, version="2"))
    require_version(ledger, golden_of(sha256="6" * 64, name="other"))
    with pytest.raises(ConfigError, match="the evaluation of run-2 asked one with 555555555555"):
        require_version(ledger, golden_of(sha256="6" * 64))
    file.write_bytes(file.read_bytes().replace(b"5555", b"6666"))
    with pytest.raises(TamperedError):
        require_version(ledger, golden_of(sha256="6" * 64))
    file.unlink()
    require_version(ledger, golden_of(sha256="6" * 64))
