"""What is wrong with a Serve config file is told before any job, with its line."""

import ast
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema, gRPCOptionsSchema

from rayapp.config.load import load
from rayapp.config.serving import ServeFile, ServingConfig
from rayapp.errors import ConfigError, UserError
from rayapp.serve.cluster.config_file import (
    BUILDERS,
    _names_in,
    check_serve_file,
    own_configs,
)
from rayapp.serve.cluster.deploy import grpc_options, tried_again, without_frames

GOOD = Path("configs/serving/gateway.yaml").read_text()
FUNCTION = "rayapp.serve.cluster.grpc_ingress:add_to_server"
GRPC = f"grpc_options:\n  port: 9000\n  grpc_servicer_functions: [{FUNCTION}]\napplications:"
APPLICATION = {"name": "gateway", "import_path": "a:b"}


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("min_replicas: 1", "min_replica: 1", "line 12: min_replica: unknown key; did you mean"),
        ("min_replicas: 1", "min_replicas: 3", "line 12: `min_replicas` 3 is more than `max_rep"),
        ("predict:build", "predict:biuld", "has no 'biuld'\n  next: did you mean 'build'?"),
        ("predict:build", "predict:read_pointers", "has no 'read_pointers'"),  # in a function
        ("predict:build", "predikt:build", "there is no module 'serve_apps.predikt'"),
        ("serve_apps.predict", "nowhere.at_all", "there is no module 'nowhere.at_all'"),
        ("predict:build", "predict", "line 10: import_path"),
        ("  port:", "  prot:", "line 5: http_options.prot: unknown key; did you mean 'port'"),
        ("route_prefix:", "route_prefx:", "line 9: applications.0.route_prefx: unknown key"),
        ("applications:", "aplications:", "did you mean 'applications'"),
        ("applications:", GRPC.replace("add_", "ad_"), "line 9: grpc_servicer_functions: rayapp/"),
        ("applications:", GRPC.replace("_ingress:", ":"), "no module 'rayapp.serve.cluster.grpc'"),
        ("applications:", GRPC.replace("port", "prot"), "line 8: grpc_options.prot: unknown key"),
        ("applications:", "grpc_options: {port: 9000}\napplications:", "have no effect without"),
    ],
)
def test_a_mistake_is_named_with_its_line(tmp_path: Path, old: str, new: str, says: str) -> None:
    path = tmp_path / "gateway.yaml"
    assert old in GOOD
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(ConfigError) as error:
        check_serve_file(load(ServeFile, path), str(path))
    assert says in str(error.value)


def test_a_dot_in_the_place_of_the_colon_is_the_same_application(tmp_path: Path) -> None:
    """Serve takes either."""
    path = tmp_path / "gateway.yaml"
    dotted = GOOD.replace("predict:build", "predict.build")
    path.write_text(dotted)
    file = load(ServeFile, path)
    check_serve_file(file, str(path))
    (application,) = file.applications
    known = ServingConfig.model_validate(application["args"])
    assert own_configs(file) == {application["name"]: known}
    path.write_text(dotted.replace("min_replicas: 1", "min_replica: 1"))
    with pytest.raises(ConfigError, match="line 12: min_replica: unknown key"):
        check_serve_file(load(ServeFile, path), str(path))


def test_what_stands_at_the_top_of_a_module() -> None:
    source = """
import a.b
from c import d as e
try:
    import f
except ImportError:
    f = None
if f:
    (g, h), i = (1, 2), 3
with open("x") as j:
    k: int = 1
def l(m):
    n = [o for o in m]
class P:
    q = 1
r = [s for s in range(3)]
t = lambda u: (v := u)
"""
    names = _names_in(ast.parse(source))
    assert names == {"a", "e", "f", "g", "h", "i", "j", "k", "l", "P", "r", "t"}
    assert "*" in _names_in(ast.parse("from a import *"))
    assert "*" in _names_in(ast.parse("def __getattr__(name): ..."))


@pytest.mark.parametrize("module", ["serve_apps.predict:build", "ray.serve.llm:build_openai_app"])
def test_modules_of_the_project_and_of_packages_are_found(tmp_path: Path, module: str) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(GOOD.replace("serve_apps.predict:build", module))
    check_serve_file(load(ServeFile, path), str(path))


def test_grpc_is_a_matter_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(GOOD.replace("applications:", GRPC))
    check_serve_file(load(ServeFile, path), str(path))


def test_grpc_options_are_kept_while_serve_runs() -> None:
    wanted: dict[str, Any] = {"port": 9000, "grpc_servicer_functions": [FUNCTION]}
    none = grpc_options({}, {"RAYAPP_GRPC_PORT": "9001"}, None)
    made = gRPCOptionsSchema(**wanted).model_dump()
    assert none == gRPCOptionsSchema().model_dump()
    assert grpc_options(wanted, {}, made) == made
    assert grpc_options({}, {}, none) == none
    for other, environ, running in (
        (wanted, {}, none),
        ({}, {}, made),
        (wanted, {"RAYAPP_GRPC_PORT": "9001"}, made),
    ):
        with pytest.raises(UserError, match="serve shutdown"):
            grpc_options(other, environ, running)


def test_a_file_has_the_keys_that_serve_knows() -> None:
    assert ServeFile.model_fields.keys() == ServeDeploySchema.model_fields.keys()


def test_a_file_says_what_the_args_of_our_applications_are() -> None:
    for config in BUILDERS.values():
        assert config.__name__ in (ServeFile.__doc__ or "")


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


LANGUAGE = """
applications:
  - name: small
    route_prefix: null
    import_path: serve_apps.llm:build_engine
    args: &small
      weights: tiny
      max_replicas: 2
  - name: llm
    route_prefix: /v1
    import_path: serve_apps.llm:build
    args:
      engines: {small: *small}
      models: {chat: {engine: small}}
"""


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("{small: *small}", "{small: {weights: tiny}}", "settings for small than its application"),
        ("{small: *small}", "{small: {weights: tiny}}", "max_replicas"),
        ("- name: small", "- name: other", "there is no application 'small' that is an engine"),
        ("build_engine", "build", "weights: unknown key"),
    ],
)
def test_a_gateway_is_told_of_engines_what_they_are(
    tmp_path: Path, old: str, new: str, says: str
) -> None:
    path = tmp_path / "llm.yaml"
    path.write_text(LANGUAGE)
    check_serve_file(load(ServeFile, path), str(path))
    assert old in LANGUAGE
    path.write_text(LANGUAGE.replace(old, new))
    with pytest.raises(ConfigError) as error:
        check_serve_file(load(ServeFile, path), str(path))
    assert says in str(error.value)


def test_an_engine_that_no_gateway_asks_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "llm.yaml"
    path.write_text(LANGUAGE[: LANGUAGE.index("  - name: llm")])
    with pytest.raises(ConfigError, match="engine 'small' has no effect: no gateway names it"):
        check_serve_file(load(ServeFile, path), str(path))


def test_an_engine_in_the_gateways_replicas_is_no_application(tmp_path: Path) -> None:
    path = tmp_path / "llm.yaml"
    small = LANGUAGE.index("  - name: small"), LANGUAGE.index("  - name: llm")
    alone = LANGUAGE[: small[0]] + LANGUAGE[small[1] :]
    inline = "engines: {small: {weights: tiny}}\n      inline: small"
    path.write_text(alone.replace("engines: {small: *small}", inline))
    check_serve_file(load(ServeFile, path), str(path))
    both = LANGUAGE.replace("engines: {small: *small}", inline)
    path.write_text(both.replace("      max_replicas: 2\n", ""))
    with pytest.raises(ConfigError, match="engine 'small' has no effect: no gateway names it"):
        check_serve_file(load(ServeFile, path), str(path))


def test_gateways_of_one_account_have_one_budget(tmp_path: Path) -> None:
    """By two limits one would refuse a tenant for what it spent at the other."""
    data = yaml.safe_load(Path("configs/serving/llm.yaml").read_text())
    rows, texts = data["applications"][0]["args"], data["applications"][-1]["args"]
    file = tmp_path / "serving.yaml"

    def checked(of_rows: dict[str, Any], of_texts: dict[str, Any]) -> None:
        rows.update(budgets=of_rows, usd_per_1000_rows=1)
        texts["budgets"] = of_texts
        file.write_text(yaml.safe_dump(data))
        check_serve_file(load(ServeFile, str(file)), str(file))

    checked({"default_usd": 5}, {"default_usd": 5})
    checked({"default_usd": 5}, {"default_usd": 1, "period": "day"})  # accounts of their own
    says = (
        r"`budgets` of gateway and llm differ \(default_usd\), and a tenant has one account a month"
    )
    with pytest.raises(ConfigError, match=says):
        checked({"default_usd": 5}, {"default_usd": 1})


def test_gateways_of_one_account_have_one_budget_of_tokens(tmp_path: Path) -> None:
    data = yaml.safe_load(LANGUAGE)
    first = data["applications"][1]
    second = {**first, "name": "other", "route_prefix": "/other", "args": dict(first["args"])}
    data["applications"].append(second)
    file = tmp_path / "serving.yaml"

    def checked(of_first: dict[str, Any], of_second: dict[str, Any]) -> None:
        first["args"]["token_budgets"], second["args"]["token_budgets"] = of_first, of_second
        file.write_text(yaml.safe_dump(data))
        check_serve_file(load(ServeFile, str(file)), str(file))

    large, small = {"default_tokens": 2_000_000}, {"default_tokens": 100_000}
    checked(large, large)
    checked(large, small | {"period": "day"})
    says = (
        r"`token_budgets` of llm and other differ \(default_tokens\), and a tenant has one account"
    )
    with pytest.raises(ConfigError, match=says):
        checked(large, small)
