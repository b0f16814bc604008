"""Weights from a folder; converting GGUF needs transformers and is tried end to end."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from rayapp.config.weights import WeightsConfig
from rayapp.errors import DataError, TamperedError, UserError
from rayapp.llm.environment import NAME, runtime_env, tuning_env
from rayapp.llm.weights import add_weights, local_tokenizer, local_weights
from rayapp.storage import Workspace, digest_file, folder_digest

FACTS = {"architectures": ["TinyForCausalLM"], "max_position_embeddings": 64}


def _model(folder: Path, config: object = FACTS) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    save_file({"a": np.zeros((2, 3), np.float32), "b": np.zeros(4)}, folder / "model.safetensors")
    return folder


def _config(folder: Path, **given: object) -> WeightsConfig:
    return WeightsConfig.model_validate(
        {"name": "tiny", "folder": str(folder), "license": "MIT", **given}
    )


def test_a_folder_is_kept_by_content(tmp_path: Path) -> None:
    source, workspace = _model(tmp_path / "model"), Workspace(str(tmp_path / "workspace"))
    (source / "notes.py").write_text("raise SystemExit")  # left out, not run
    ref = add_weights(_config(source), workspace)
    assert (ref.architecture, ref.num_parameters, ref.max_context_tokens) == (
        "TinyForCausalLM",
        10,
        64,
    )
    assert [file.path for file in ref.files] == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    assert folder_digest(ref.files) == ref.digest
    for file in ref.files:
        assert digest_file(Path(ref.uri, file.path)) == file.sha256
    assert add_weights(_config(source), workspace) == ref


def test_who_counts_tokens_needs_no_weights(tmp_path: Path) -> None:
    workspace = Workspace(str(tmp_path / "workspace"))
    ref = add_weights(_config(_model(tmp_path / "model")), workspace)
    Path(ref.uri, "model.safetensors").write_bytes(b"other")
    assert local_tokenizer(ref, workspace) == Path(ref.uri)
    with pytest.raises(TamperedError, match=r"model\.safetensors is not what was recorded"):
        local_weights(ref, workspace)
    Path(ref.uri, "tokenizer.json").write_text("[]")
    with pytest.raises(TamperedError, match=r"tokenizer\.json is not what was recorded"):
        local_tokenizer(ref, workspace)


def test_another_file_than_the_config_names_is_refused(tmp_path: Path) -> None:
    source, workspace = _model(tmp_path / "model"), Workspace(str(tmp_path / "workspace"))
    right = digest_file(source / "model.safetensors")
    assert add_weights(_config(source, sha256=right), workspace).source_sha256 == right
    with pytest.raises(TamperedError, match="sha256"):
        add_weights(_config(source, sha256="0" * 64), workspace)


def test_weights_that_run_code_are_refused(tmp_path: Path) -> None:
    source = _model(tmp_path / "model")
    (source / "model.safetensors").rename(source / "pytorch_model.bin")
    with pytest.raises(DataError, match=r"\.bin files, which run code"):
        add_weights(_config(source), Workspace(str(tmp_path / "workspace")))


@pytest.mark.parametrize(
    "config",
    [{}, {"architectures": []}, {"architectures": ["A"]}, {"architectures": None}, [1]],
)
def test_what_is_no_model_is_refused(tmp_path: Path, config: object) -> None:
    source = _model(tmp_path / "model", config)
    with pytest.raises(DataError, match="does not say what model it is"):
        add_weights(_config(source), Workspace(str(tmp_path / "workspace")))


def test_sources_that_are_not_there_say_what_to_do(tmp_path: Path) -> None:
    workspace = Workspace(str(tmp_path))
    with pytest.raises(UserError, match="there are no weights at"):
        add_weights(_config(tmp_path / "gone"), workspace)
    package = {"package": "no_such_package", "version": "1", "path": "m"}
    config = WeightsConfig.model_validate({"name": "t", "package": package, "license": "MIT"})
    with pytest.raises(UserError, match="scripts/setup llm"):
        add_weights(config, workspace)
    other = {"package": "numpy", "version": "0.1", "path": "m"}
    config = WeightsConfig.model_validate({"name": "t", "package": other, "license": "MIT"})
    with pytest.raises(UserError, match=r"the config names 0\.1"):
        add_weights(config, workspace)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "name one of `package` and `folder`"),
        ({"folder": "a.gguf", "dtype": "float32"}, "`sha256` of the GGUF file is needed"),
        ({"folder": "a.gguf", "sha256": "0" * 64}, "`dtype` goes with a GGUF file"),
        ({"folder": "a", "dtype": "float32"}, "`dtype` goes with a GGUF file"),
    ],
)
def test_settings_without_effect_or_missing(given: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WeightsConfig.model_validate({"name": "tiny", "license": "MIT", **given})


def test_the_environment_is_named_or_lies_beside(tmp_path: Path) -> None:
    python = tmp_path / NAME / "bin" / "python"
    with pytest.raises(UserError, match="scripts/setup llm"):
        runtime_env({"RAYAPP_LLM_VENV": str(tmp_path / NAME)})
    python.parent.mkdir(parents=True)
    python.touch()
    assert runtime_env({"RAYAPP_LLM_VENV": str(tmp_path / NAME)}) == {"py_executable": str(python)}


def test_threads_that_tune_and_evaluate_sleep_while_they_wait(tmp_path: Path) -> None:
    python = tmp_path / NAME / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    environ = {"RAYAPP_LLM_VENV": str(tmp_path / NAME)}
    asleep = {"py_executable": str(python), "env_vars": {"OMP_WAIT_POLICY": "PASSIVE"}}
    assert tuning_env(environ) == asleep
    told = tuning_env(environ | {"OMP_WAIT_POLICY": "ACTIVE"})
    assert told["env_vars"] == {"OMP_WAIT_POLICY": "ACTIVE"}
