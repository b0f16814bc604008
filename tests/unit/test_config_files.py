"""Every YAML in configs/ loads as its folder's class; a mistake in one is found at once."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from rayapp.cli.job_choice import CONFIG_OF_JOB, JOBS_OF_FOLDER, choose_job
from rayapp.config.golden import GoldenConfig
from rayapp.config.language import LanguageConfig
from rayapp.config.load import SECTIONS, Config, load
from rayapp.config.prompts import PromptConfig
from rayapp.config.release import PolicyConfig
from rayapp.config.routing import FlagsConfig
from rayapp.config.serving import ServeFile, ServingConfig
from rayapp.data.contract import load_contract
from rayapp.errors import ConfigError
from rayapp.serve.cluster.config_file import own_configs

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
ENVIRONMENTS = sorted(p.stem for p in (CONFIGS / "environments").glob("*.yaml"))
CLASSES: tuple[type[Config], ...] = (
    PromptConfig,
    *CONFIG_OF_JOB.values(),
    PolicyConfig,
    ServingConfig,
    LanguageConfig,
)

NAMED: dict[str, type[Config]] = {"policies": PolicyConfig, "golden": GoldenConfig}
"""By their folder: configs that others name, and no job runs."""


def _files(*folders: str) -> list[str]:
    found = [p for folder in folders for p in sorted((CONFIGS / folder).glob("*.yaml"))]
    return [p.relative_to(ROOT).as_posix() for p in found]


@pytest.fixture(autouse=True)
def _in_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def _class_of(path: str) -> type[Config]:
    if Path(path).parent.name in NAMED:
        return NAMED[Path(path).parent.name]
    return CONFIG_OF_JOB[choose_job(path, yaml.safe_load(Path(path).read_text()), None)]


@pytest.mark.parametrize("path", _files(*JOBS_OF_FOLDER, *NAMED))
def test_loads_as_its_folders_class(path: str) -> None:
    load(_class_of(path), path)


@pytest.mark.parametrize("path", _files("contracts"))
def test_contract_loads(path: str) -> None:
    load_contract(path)


@pytest.mark.parametrize("path", _files("serving"))
def test_serving_arguments_load(path: str) -> None:
    assert own_configs(load(ServeFile, path))


@pytest.mark.parametrize("path", _files("prompts"))
def test_prompts_pass_their_tests(path: str) -> None:
    assert load(PromptConfig, path).tests


@pytest.mark.parametrize("path", _files("flags"))
def test_flags_load(path: str) -> None:
    assert load(FlagsConfig, path).flags


def test_every_folder_has_a_class() -> None:
    known = {*JOBS_OF_FOLDER, *NAMED, *("contracts", "flags", "environments", "prompts")}
    assert {p.name for p in CONFIGS.iterdir() if p.is_dir()} <= known


def test_every_path_in_a_config_exists() -> None:
    for path in _files(*JOBS_OF_FOLDER):
        for value in _strings(yaml.safe_load(Path(path).read_text())):
            if value.startswith("configs/"):
                assert Path(value).is_file(), f"{path} names {value}"


def _strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [s for part in value.values() for s in _strings(part)]
    if isinstance(value, list):
        return [s for part in value for s in _strings(part)]
    return [value] if isinstance(value, str) else []


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_every_key_of_an_environment_has_an_effect(name: str) -> None:
    overlay = yaml.safe_load((CONFIGS / f"environments/{name}.yaml").read_text())
    fields = {cls.section: cls.model_fields for cls in CLASSES}
    for section, keys in overlay.items():
        assert keys.keys() <= fields[section].keys()


def test_each_section_of_an_environment_is_one_config() -> None:
    assert sorted(cls.section for cls in set(CLASSES) if cls.section) == sorted(SECTIONS)


@pytest.mark.parametrize("name", ENVIRONMENTS)
@pytest.mark.parametrize("path", _files(*JOBS_OF_FOLDER))
def test_every_config_loads_in_every_environment(name: str, path: str) -> None:
    load(_class_of(path), path, environment=name)


def test_gpu_environment_asks_for_gpu_workers_and_changes_nothing_else() -> None:
    for path in _files("training"):
        cls = CONFIG_OF_JOB["train"]
        before, after = (
            load(cls, path).model_dump(),
            load(cls, path, environment="gpu").model_dump(),
        )
        assert after["workers"].pop("use_gpu") != before["workers"].pop("use_gpu")
        assert before == after


@pytest.mark.parametrize("path", _files(*JOBS_OF_FOLDER, *NAMED))
def test_an_unknown_key_is_named_with_its_line_and_the_nearest_one(
    path: str, tmp_path: Path
) -> None:
    cls = _class_of(path)
    text = Path(path).read_text()
    key = next(k for k in yaml.safe_load(text) if k in cls.model_fields)
    typo = tmp_path / "typo.yaml"
    typo.write_text(f"{key}x: 1\n{text}")
    with pytest.raises(ConfigError) as caught:
        load(cls, typo)
    assert f"line 1: {key}x: unknown key; did you mean {key!r}?" in caught.value.what
