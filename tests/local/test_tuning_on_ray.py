"""Fine-tuning through Ray Data and Ray Train: a killed worker, the bundle, and answers from it."""

import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray.data
from test_train import ListTracker, kill_the_worker
from toy_snapshot import toy_snapshot

from rayapp.config.load import load
from rayapp.config.release import AnswerWorkersConfig, EvaluationConfig, PolicyConfig
from rayapp.config.training import TrainConfig
from rayapp.errors import DataError, UserError
from rayapp.evaluate.gates import decide
from rayapp.evaluate.replies import replies_of
from rayapp.evaluate.text import answer_rows, decoding_of, evaluate_answers
from rayapp.families.base import Base
from rayapp.families.bundle import described
from rayapp.families.llm.answer import Tuned
from rayapp.llm.environment import tuning_env
from rayapp.schemas.data import Column, Snapshot
from rayapp.schemas.language import WeightsRef
from rayapp.schemas.model import Feature
from rayapp.schemas.prompt import Prompt
from rayapp.schemas.release import Evaluation
from rayapp.storage import digest_folder, folder_digest
from rayapp.train.fit import FitResult, fit

pytestmark = [pytest.mark.usefixtures("ray_local"), pytest.mark.slow]
WORDS = [*(f"w{i}" for i in range(20)), "up", "down", "rises", "falls"]
FEATURES = (Feature(name="said", expression="said"),)
COLUMNS = (
    Column(name="said", type="string"),
    Column(name="answer", type="string", known_at="outcome"),
)
NUM_STEPS = 60
GREEDY = EvaluationConfig()


def rows(num_rows: int) -> pa.Table:
    generator = np.random.default_rng(7)
    is_up = generator.integers(2, size=num_rows)
    said = [" ".join([*generator.choice(WORDS[:20], 4), "up" if up else "down"]) for up in is_up]
    return pa.table({"said": said, "answer": ["rises" if up else "falls" for up in is_up]})


def config(**changes: Any) -> TrainConfig:
    llm: dict[str, Any] = {
        "base_model": "tiny",
        "prompt": "unused",
        "sequence_tokens": 32,
        "num_steps": NUM_STEPS,
        "batch_size": 4,
        "learning_rate": 0.02,
    }
    base = {"name": "toy", "snapshot": "unused", "family": "llm", "features": ("said",)}
    return TrainConfig.model_validate(base | {"checkpoint_every": 20, "llm": llm | changes})


def snapshot() -> Snapshot:
    return toy_snapshot(COLUMNS, "answer").model_copy(update={"task": "text", "classes": ()})


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    try:
        environment = tuning_env(os.environ)
    except UserError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("tiny") / "model"
    python = environment.get("py_executable", sys.executable)
    program = Path(__file__).with_name("tiny_model.py")
    subprocess.run([python, program, folder, *WORDS], check=True, capture_output=True)
    files = digest_folder(folder)
    weights = WeightsRef(
        name="tiny",
        uri=str(folder),
        digest=folder_digest(files),
        files=files,
        task="generate",
        source="made here",
        source_sha256=None,
        license="none",
        architecture="LlamaForCausalLM",
        num_parameters=0,
        max_context_tokens=128,
    )
    return Base(weights, environment, Prompt(name="said", system=None, user="{said}"))


def run(
    base: Base, folder: Path, run_id: str, table: pa.Table | None = None, **changes: Any
) -> tuple[FitResult, list[str]]:
    table, lines = rows(300) if table is None else table, list[str]()
    result = fit(
        config=config(**changes),
        snapshot=snapshot(),
        features=FEATURES,
        train=ray.data.from_arrow(table.slice(0, 240)),
        tune=ray.data.from_arrow(table.slice(240)),
        storage_uri=str(folder / "storage"),
        run_id=run_id,
        tracker=ListTracker(),
        bundle_folder=folder / run_id,
        on_progress=lines.append,
        base=base,
    )
    return result, lines


@dataclass
class Killed:
    folder: Path
    result: FitResult
    lines: list[str]
    num_killed: int


@pytest.fixture(scope="module")
def killed(ray_local: object, base: Base, tmp_path_factory: pytest.TempPathFactory) -> Killed:
    folder = tmp_path_factory.mktemp("killed")
    pids: list[int] = []
    killer = threading.Thread(target=kill_the_worker, args=(folder / "storage" / "r1", pids))
    killer.start()
    result, lines = run(base, folder, "r1")
    killer.join(timeout=10)
    return Killed(folder, result, lines, len(pids))


def test_a_killed_worker_resumes_to_the_adapter_of_a_whole_run(killed: Killed, base: Base) -> None:
    assert killed.num_killed == 1
    assert [s.step for s in killed.result.history][-1] == NUM_STEPS
    run(base, killed.folder, "whole")
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        one, other = (killed.folder / r / "model" / name for r in ("r1", "whole"))
        assert one.read_bytes() == other.read_bytes()


def test_the_bundle_says_how_it_is_asked(killed: Killed, base: Base) -> None:
    schema, profile = described(killed.folder / "r1")
    assert schema.language is not None
    assert (schema.language.base_name, schema.language.base_digest) == ("tiny", base.weights.digest)
    assert [c.name for c in schema.inputs] == ["said"]
    assert {c.name for c in profile.columns} == {"prompt_tokens", "answer_tokens"}
    assert profile.num_rows == killed.result.num_rows == 240
    assert any("240 rows in" in line for line in killed.lines)


def tuned_in(folder: Path, base: Base) -> Tuned:
    schema, _ = described(folder)
    assert schema.language is not None
    files = {p.name: p.read_bytes() for p in (folder / "model").iterdir() if p.is_file()}
    return Tuned(base.weights, schema.language, files)


def held_out(
    base: Base,
    folder: Path,
    evaluation: EvaluationConfig = GREEDY,
    champion: Path | None = None,
    workers: AnswerWorkersConfig | None = None,
) -> Evaluation:
    """The bundle on rows that no run of these tests has seen, whose answers are right. The models
    take every CPU that there is, so what reads the rows must not wait for one beside them."""
    tuned = tuned_in(folder, base)
    pq.write_table(rows(400).slice(300), folder / "held_out.parquet")
    dataset = ray.data.read_parquet(str(folder / "held_out.parquet"))
    workers = workers or AnswerWorkersConfig(cpus_per_worker=ray.cluster_resources()["CPU"])
    told = list[int]()
    decoding = decoding_of(evaluation.samples, 4)
    answered = answer_rows(
        dataset,
        tuned,
        None if champion is None else tuned_in(champion, base),
        "answer",
        decoding,
        workers,
        base.runtime_env,
        told.append,
    )
    assert told[-1] == 100
    return evaluate_answers(
        answered=answered,
        label="answer",
        language=tuned.language,
        config=evaluation,
        decoding=decoding,
        run_id="r1",
        snapshot_id="s",
        split="test",
        bundle_digest="b",
        champion_release=None if champion is None else "c" * 64,
    )


def test_weights_as_they_are_reply_to_chats_in_their_order(base: Base) -> None:
    """As a judge is asked. What leaves no room for a reply gets none."""
    texts = [*(f"w{i} up" for i in range(18)), " ".join(["w1"] * 130), "w3 up"]
    chats = [[{"role": "user", "content": text}] for text in texts]
    workers, told = AnswerWorkersConfig(num_workers=2, cpus_per_worker=1), list[int]()
    found = replies_of(chats, base.weights, 3, workers, base.runtime_env, told.append)
    assert (len(found), told[-1]) == (20, 20)
    assert found[18] == ""
    assert found[19] == found[3] != ""


def verdicts(found: Evaluation) -> dict[str, str]:
    policy = load(PolicyConfig, "configs/policies/user_agent.yaml")
    return {verdict.gate: verdict.value for verdict in decide(found, policy)}


def test_what_it_learned_is_in_its_answers(killed: Killed, base: Base) -> None:
    assert killed.result.metrics["exact_match"] == 1
    found = held_out(base, killed.folder / "r1")
    exact = {one.metric: one for one in found.overall.estimates}["exact_match"]
    assert exact.value == 1
    assert {d.metric: d for d in found.overall.untuned_differences}["exact_match"].low > 0.5
    before: dict[str, Any] = {one.metric: one.value for one in found.untuned}
    assert before["exact_match"] < 0.5
    assert 0 <= before["calibration_error"] <= 1
    assert set(verdicts(found).values()) == {"pass"}
    of: dict[str, Any] = {e.metric: e for e in found.overall.estimates}
    # as the fit itself measured it, on other rows: the right answer, and the token that ends it
    assert of["answer_loss"].value == pytest.approx(killed.result.metrics["answer_loss"], abs=0.02)
    assert of["answer_tokens"].value == 2
    assert 1 <= of["perplexity"].low <= np.exp(of["answer_loss"].high)
    tuned, untuned = found.costs
    assert (tuned.num_answers, tuned.num_tokens) == (100, 200)
    assert untuned.seconds is not None
    assert untuned.seconds > 0


def test_samples_are_drawn_anew_and_alike_by_the_same_seed(killed: Killed, base: Base) -> None:
    """However many workers answer."""
    samples = {"per_item": 3, "tries": [1, 3], "temperature": 1.5}
    config = EvaluationConfig.model_validate({"samples": samples})
    one, other = (
        held_out(
            base,
            killed.folder / "r1",
            config,
            workers=AnswerWorkersConfig(num_workers=n, cpus_per_worker=1),
        )
        for n in (1, 2)
    )
    assert one.overall == other.overall
    of: dict[str, Any] = {e.metric: e.value for e in one.overall.estimates}
    assert of["exact_match_pass_all_3"] <= of["exact_match"] <= of["exact_match_pass_at_3"]
    base_loss = {d.metric: d for d in one.overall.untuned_differences}["answer_loss"]
    assert base_loss.high < 0


def test_an_adapter_of_shuffled_targets_is_refused(
    killed: Killed, base: Base, tmp_path: Path
) -> None:
    """Beside a champion that has learned, of the same weights."""
    table = rows(300)
    order = np.random.default_rng(5).permutation(300)
    shuffled = table.set_column(1, "answer", table.column("answer").take(pa.array(order)))
    run(base, tmp_path, "shuffled", shuffled)
    found = verdicts(held_out(base, tmp_path / "shuffled", champion=killed.folder / "r1"))
    assert found["reads_most_of_them"] != "pass"
    assert found["not_worse_than_champion"] == "fail"


def test_rows_that_fit_nowhere_are_refused(base: Base, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no row that fits into 8 tokens"):
        run(base, tmp_path, "r1", sequence_tokens=8)
