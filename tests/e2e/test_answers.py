"""Batch answers of a language model's release: a job that is killed goes on where it was."""

import json
from pathlib import Path

import pytest
import yaml
from adapters import release_adapter
from deltalake import DeltaTable
from deltalake.exceptions import TableNotFoundError
from shells import Shell, job_driver
from use_cases import write_text_rows
from waiting import AT_ONCE_S, until

# two engines start, beside whatever else a machine does
pytestmark = [pytest.mark.timeout(1800), pytest.mark.slow]
MODEL, ENDPOINT = "smollm2-135m-instruct", "notes"
NUM_ROWS, LONG, WAIT_S = 24, 5, 600
WEIGHTS = "configs/weights/smollm2_135m_instruct.yaml"
CONFIG = "configs/operations/notes_score.yaml"
SCORE = {
    "endpoint": ENDPOINT,
    "snapshot": "configs/snapshots/notes.yaml",
    "output_table": "answers/notes",
    "language": {
        "num_cpus": 1,
        "kv_cache_gib": 1,
        "max_context_tokens": 128,
        "arguments": {"dtype": "float32", "enforce_eager": True, "max_num_seqs": 2},
        "max_output_tokens": 12,
        "batch_rows": 3,
        "commit_rows": 3,
    },
}


@pytest.fixture(scope="module")
def user(shell: Shell, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """In a project with rows and a released adapter for them."""
    folder = tmp_path_factory.mktemp("notes") / "project"
    texts = [f"What comes after {n}?" for n in range(NUM_ROWS)]
    texts[LONG] = "far too long " * 100
    snapshot = write_text_rows(folder, texts)
    (folder / CONFIG).parent.mkdir()
    (folder / CONFIG).write_text(yaml.safe_dump(SCORE))
    user = shell.in_folder(folder)
    for there, config in ((shell, WEIGHTS), (user, snapshot)):
        done = there.rayapp("submit", config, timeout_s=600)
        assert done.returncode == 0, done.stdout + done.stderr
    release_adapter(shell, MODEL, ENDPOINT, seed=1, reads="text")
    return user


def _num_rows(uri: str) -> int:
    try:
        return int(DeltaTable(uri).to_pyarrow_dataset().count_rows())
    except TableNotFoundError:
        return 0


def test_a_killed_job_goes_on_and_each_row_is_there_once(user: Shell) -> None:
    uri = user.workspace.table("answers/notes")
    first = user.start("submit", CONFIG)
    until(lambda: _num_rows(uri) > 0 or first.poll() is not None, wait_s=WAIT_S, every_s=AT_ONCE_S)
    assert first.poll() is None, first.communicate()[0]
    job_driver(user, "jobs.score_batch").kill()
    told, _ = first.communicate(timeout=WAIT_S)
    assert first.returncode not in (0, 2, 3), told
    before = _num_rows(uri)
    assert 0 < before < NUM_ROWS

    again = user.rayapp("submit", CONFIG, timeout_s=WAIT_S)
    assert again.returncode == 0, again.stdout + again.stderr
    assert f"{before} of {NUM_ROWS} rows were there already" in again.stdout
    lines = DeltaTable(uri).to_pyarrow_dataset().to_table().sort_by("_row_id").to_pylist()
    assert len({line["_row_id"] for line in lines}) == len(lines) == NUM_ROWS
    (long,) = [line for line in lines if line["answer"] is None]
    assert "the context takes 128 of prompt and answer together" in long["error"]
    for line in lines:
        if line is not long:
            assert line["num_prompt_tokens"] > 10
            is_cut = line["error"] == "the answer was cut after 12 tokens"
            assert is_cut or line["error"] is None
            assert 1 <= line["num_output_tokens"] <= 12


def test_a_third_time_nothing_is_left_to_do(user: Shell) -> None:
    done = user.rayapp("submit", CONFIG, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(done.stdout)["figures"]
    assert (figures["num_rows"], figures["num_rows_before"]) == (NUM_ROWS, NUM_ROWS)
    assert figures["num_errors"] >= 1
    assert Path(figures["table"]).is_dir()
