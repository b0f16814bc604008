"""Fine-tuning of a language model in one process: its loss, its checkpoints, its files.

transformers and peft are in an environment of their own, so one child process there computes it all
(tuning_case.py), on a Llama of two layers.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rayapp.errors import UserError
from rayapp.llm.environment import TUNING, runtime_env

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent
PROJECT = HERE.parents[1]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    try:
        python = runtime_env(os.environ, TUNING).get("py_executable", sys.executable)
    except UserError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("tuning")
    done = subprocess.run(
        [python, HERE / "tuning_case.py", folder],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(PROJECT), "HF_HUB_OFFLINE": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    facts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return facts


def test_packed_examples_do_not_see_each_other(found: dict[str, Any]) -> None:
    assert found["packing"]["together"] == pytest.approx(found["packing"]["apart"], rel=1e-6)


def test_the_loss_is_that_of_the_answer_alone(found: dict[str, Any]) -> None:
    packing = found["packing"]
    assert packing["first"] == pytest.approx(packing["first_by_transformers"], rel=1e-5)


def test_learns_and_reports(found: dict[str, Any]) -> None:
    fits = found["fits"]
    assert [step for step, is_kept in fits["steps"] if is_kept] == [10, 20, 30]
    assert fits["first"]["train_loss"] > 1
    assert fits["last"]["answer_loss"] < 0.1
    assert fits["last"]["exact_match"] == fits["last"]["token_accuracy"] == 1


def test_a_resumed_fit_equals_a_whole_one(found: dict[str, Any]) -> None:
    digests = found["fits"]["digests"]
    assert found["fits"]["resumed_steps"] == [20, 30]
    assert digests["resumed"] == digests["whole"]


def test_a_finished_fit_gives_its_last_checkpoint_again(found: dict[str, Any]) -> None:
    digests = found["fits"]["digests"]
    assert found["fits"]["again_steps"] == [30]
    assert digests["again"] == digests["whole"]


def test_the_same_seed_gives_the_same_adapter(found: dict[str, Any]) -> None:
    digests = found["fits"]["digests"]
    assert digests["other"] == digests["whole"]
    assert found["fits"]["same_history"]


def test_gradients_of_micro_batches_add_up(found: dict[str, Any]) -> None:
    assert found["accumulation"] < 1e-4


def test_others_read_its_files(found: dict[str, Any]) -> None:
    files = found["files"]
    assert files["merged_differs_by"] < 1e-4 < files["base_differs_by"]
    assert files["config"] == {"r": 16, "peft_type": "LORA", "base_model_name_or_path": "tiny"}
    names = set(found["fits"]["digests"]["whole"])
    assert {"adapter_model.safetensors", "adapter_config.json"} <= names
    assert {Path(name).suffix for name in names} <= {".safetensors", ".json"}


def test_full_fine_tuning_learns_and_resumes_too(found: dict[str, Any]) -> None:
    full = found["full"]
    assert full["last"]["exact_match"] == 1
    assert full["resumed"] == full["whole"]
    assert "model.safetensors" in full["whole"]


def test_whole_weights_are_learned_in_full_numbers(found: dict[str, Any]) -> None:
    """In bfloat16 itself a weight of 0.2 stays where it is unless a step is larger than 0.0005."""
    full = found["full_in_bfloat16"]
    assert full["dtype"] == "torch.float32"
    assert full["moved"] > 0.9
    assert full["last"]["exact_match"] == 1


def test_what_cannot_be_done_is_told(found: dict[str, Any]) -> None:
    assert "needs a GPU" in found["refused"]["qlora"]
    assert "yielded none" in found["refused"]["no rows"]
