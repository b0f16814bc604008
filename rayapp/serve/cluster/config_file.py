"""A Ray Serve config file (configs/serving/), held against Serve's own schema, our applications'
arguments, and the modules that it names, before any job."""

import ast
import difflib
import importlib.util
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

from ray.serve.schema import ServeDeploySchema

from rayapp.config.language import EngineConfig, LanguageConfig
from rayapp.config.load import Config, check, read_yaml
from rayapp.config.problems import Location
from rayapp.config.serving import ServeFile, ServingConfig
from rayapp.config.tenants import PeriodConfig
from rayapp.errors import ConfigError

Ours = ServingConfig | LanguageConfig | EngineConfig
BUILDERS: Mapping[tuple[str, str], type[Ours]] = {
    ("serve_apps.predict", "build"): ServingConfig,
    ("serve_apps.llm", "build"): LanguageConfig,
    ("serve_apps.llm", "build_engine"): EngineConfig,
}
"""Our applications, by module and attribute, and what their arguments are."""
_SCOPES = (
    *(ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda),
    *(ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp),
)


def check_serve_file(file: ServeFile, path: str) -> None:
    """path: where `file` was read from. Raises ConfigError."""
    places = {at: f"line {line}" for at, line in read_yaml(path)[1].items()}
    check(ServeDeploySchema, file.model_dump(exclude_unset=True), path, places)
    functions = "grpc_servicer_functions"
    for function in file.grpc_options.get(functions, ()):
        _check_import(function, path, places.get(("grpc_options", functions)), functions)
    for number, application in enumerate(file.applications):
        at: Location = ("applications", number)
        place = places.get((*at, "import_path"))
        _check_import(str(application["import_path"]), path, place, "import_path")
        cls = _class_of(application)
        if cls is not None:
            own = {key[3:]: place for key, place in places.items() if key[:3] == (*at, "args")}
            check(cls, application.get("args") or {}, path, own)
    configs = own_configs(file)
    _check_engines(configs, path)
    _check_budgets(configs, path)


def own_configs(file: ServeFile) -> dict[str, Ours]:
    """The arguments of those applications that are ours, by their names."""
    found = {a["name"]: _own_config(a) for a in file.applications}
    return {name: config for name, config in found.items() if config is not None}


def _own_config(application: Mapping[str, Any]) -> Ours | None:
    """The arguments of an application that is ours."""
    cls = _class_of(application)
    return None if cls is None else cls.model_validate(application.get("args") or {})


def _check_engines(configs: Mapping[str, Ours], path: str) -> None:
    """A gateway counts and checks by what it is told of an engine, so that must be what it is."""
    engines = {name: c for name, c in configs.items() if isinstance(c, EngineConfig)}
    gateways = {name: c for name, c in configs.items() if isinstance(c, LanguageConfig)}
    for name, gateway in gateways.items():
        for engine, config in gateway.engines.items():
            if engine == gateway.inline:
                continue
            if engine not in engines:
                raise ConfigError(
                    f"{path}: {name}: there is no application {engine!r} that is an engine, only "
                    f"{sorted(engines)}",
                    "add it: import_path serve_apps.llm:build_engine",
                )
            if config != engines[engine]:
                raise ConfigError(
                    f"{path}: {name}: `engines` has other settings for {engine} than its "
                    f"application: {_differing(config, engines[engine])}",
                    "write them once, with a YAML anchor",
                )
    used = {e for gateway in gateways.values() for e in gateway.engines if e != gateway.inline}
    for engine in sorted(engines.keys() - used):
        raise ConfigError(
            f"{path}: engine {engine!r} has no effect: no gateway names it",
            "name it in `engines` of one, or take it out",
        )


def _check_budgets(configs: Mapping[str, Ours], path: str) -> None:
    """A tenant has one account in dollars and one in tokens a period, from which all gateways of a
    workspace borrow: by two limits one gateway would refuse it for what it has spent at the
    other."""
    for key in ("budgets", "token_budgets"):
        budgets: list[tuple[str, PeriodConfig, str | None]] = [
            (name, budget, config.workspace)
            for name, config in configs.items()
            if (budget := getattr(config, key, None)) is not None
        ]
        for (one, first, here), (other, second, there) in combinations(budgets, 2):
            if here == there and first.period == second.period and first != second:
                raise ConfigError(
                    f"{path}: `{key}` of {one} and {other} differ ({_differing(first, second)}), "
                    f"and a tenant has one account a {first.period} for both",
                    "write them once, with a YAML anchor",
                )


def _differing(one: Config, other: Config) -> str:
    names = [n for n in type(one).model_fields if getattr(one, n) != getattr(other, n)]
    return ", ".join(names)


def needs_vllm(application: Mapping[str, Any]) -> bool:
    """Whether it is one of ours that does."""
    return _class_of(application) in (LanguageConfig, EngineConfig)


def _class_of(application: Mapping[str, Any]) -> type[Ours] | None:
    """None for an application that is not ours."""
    return BUILDERS.get(_parted(str(application["import_path"])))


def _parted(import_path: str) -> tuple[str, str]:
    """Module and attribute. Serve takes `module:attribute` and `module.attribute` alike."""
    module, _, attribute = import_path.replace(":", ".").rpartition(".")
    return module, attribute


def _check_import(import_path: str, path: str, place: str | None, key: str) -> None:
    """Serve imports `module:attribute` on the cluster; a module of this project can be looked into
    here. Anything that is not found out without running it is left to Serve."""
    module, attribute = _parted(import_path)
    where = f"{path}: {place}: {key}" if place else f"{path}: {key}"
    found = Path(*module.split("."))
    files = [f for f in (found.with_suffix(".py"), found / "__init__.py") if f.is_file()]
    if not files:
        if found.parent.is_dir() or importlib.util.find_spec(module.partition(".")[0]) is None:
            raise ConfigError(f"{where}: there is no module {module!r}", "name MODULE:FUNCTION")
        return
    names = _names_in(ast.parse(files[0].read_bytes()))
    if attribute not in names and "*" not in names:
        near = difflib.get_close_matches(attribute, names, n=1)
        raise ConfigError(
            f"{where}: {files[0]} has no {attribute!r}",
            f"did you mean {near[0]!r}?" if near else "name MODULE:FUNCTION",
        )


def _names_in(module: ast.Module) -> set[str]:
    """What stands at the top of a module; "*" where that is decided elsewhere."""
    names: set[str] = set()
    waiting: list[ast.AST] = list(module.body)
    while waiting:
        node = waiting.pop()
        if not isinstance(node, _SCOPES):
            waiting += ast.iter_child_nodes(node)
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                names.add("*" if node.name == "__getattr__" else node.name)
            case ast.Import() | ast.ImportFrom():
                names |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
            case ast.Name(ctx=ast.Store()):
                names.add(node.id)
    return names
