"""What is wrong with a Serve config file is told before any job, with its line."""

from pathlib import Path
from typing import Any

import pytest
from ray.serve.schema import ServeDeploySchema

from rayapp.config.load import load
from rayapp.config.serving import ServeFile
from rayapp.errors import ConfigError
from rayapp.serve.config_file import check_serve_file
from rayapp.serve.deploy import tried_again, without_frames

GOOD = Path("configs/serving/gateway.yaml").read_text()
APPLICATION = {"name": "gateway", "import_path": "a:b"}


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("min_replicas: 1", "min_replica: 1", "line 12: min_replica: unknown key; did you mean"),
        ("min_replicas: 1", "min_replicas: 3", "line 12: `min_replicas` 3 is more than `max_rep"),
        ("predict:build", "predict:biuld", "has no 'biuld'\n  next: did you mean 'build'?"),
        ("predict:build", "predikt:build", "there is no module 'serve_apps.predikt'"),
        ("serve_apps.predict", "nowhere.at_all", "there is no module 'nowhere.at_all'"),
        ("predict:build", "predict", "line 10: import_path"),
        ("  port:", "  prot:", "line 5: http_options.prot: unknown key; did you mean 'port'"),
        ("route_prefix:", "route_prefx:", "line 9: applications.0.route_prefx: unknown key"),
        ("applications:", "aplications:", "did you mean 'applications'"),
    ],
)
def test_a_mistake_is_named_with_its_line(tmp_path: Path, old: str, new: str, says: str) -> None:
    path = tmp_path / "gateway.yaml"
    assert old in GOOD
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(ConfigError) as error:
        check_serve_file(load(ServeFile, path), str(path))
    assert says in str(error.value)


@pytest.mark.parametrize("module", ["serve_apps.predict:build", "ray.serve.llm:build_openai_app"])
def test_modules_of_the_project_and_of_packages_are_found(tmp_path: Path, module: str) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(GOOD.replace("serve_apps.predict:build", module))
    check_serve_file(load(ServeFile, path), str(path))


def test_a_file_has_the_keys_that_serve_knows() -> None:
    assert ServeFile.model_fields.keys() == ServeDeploySchema.model_fields.keys()


def _details(status: str, attempt: str | None = None) -> dict[str, Any]:
    runtime_env = {"env_vars": {"RAYAPP_DEPLOY_ATTEMPT": attempt}} if attempt else {}
    return {"gateway": {"status": status, "deployed_app_config": {"runtime_env": runtime_env}}}


@pytest.mark.parametrize(
    ("deployed", "attempt"),
    [
        ({}, None),
        (_details("RUNNING"), None),
        (_details("DEPLOY_FAILED"), "1"),
        (_details("DEPLOY_FAILED", "1"), "2"),
        (_details("RUNNING", "2"), "2"),  # or replicas would be started anew for nothing
        ({"gateway": {"status": "DEPLOY_FAILED", "deployed_app_config": None}}, "1"),
    ],
)
def test_only_what_failed_is_a_new_version(deployed: dict[str, Any], attempt: str | None) -> None:
    own = {"env_vars": {"OWN": "1"}, "pip": ["x"]}
    (bare,) = tried_again([APPLICATION], deployed)
    (with_own,) = tried_again([APPLICATION | {"runtime_env": own}], deployed)
    added = {"RAYAPP_DEPLOY_ATTEMPT": attempt} if attempt else {}
    assert bare.get("runtime_env", {}) == ({"env_vars": added} if attempt else {})
    assert with_own["runtime_env"] == own | {"env_vars": {"OWN": "1"} | added}


def test_of_a_traceback_only_the_exception_is_told() -> None:
    try:
        raise ConfigError("not so", "but so")
    except ConfigError:
        import traceback

        told = traceback.format_exc()
    said = "rayapp.errors.ConfigError: not so\n  next: but so"
    assert without_frames(f"The deployment failed. Error:\n{told}\n") == said
    assert without_frames("no frames") == "no frames"
