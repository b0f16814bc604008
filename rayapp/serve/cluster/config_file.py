"""A Ray Serve config file (configs/serving/), held against Serve's own schema, our applications'
arguments, and the modules that it names, before any job."""

import ast
import difflib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray.serve.schema import ServeDeploySchema

from rayapp.config.language import LanguageConfig
from rayapp.config.load import Location, check, read_yaml
from rayapp.config.serving import GatewayConfig, ServeFile, ServingConfig
from rayapp.errors import ConfigError

BUILDERS: Mapping[tuple[str, str], type[GatewayConfig]] = {
    ("serve_apps.predict", "build"): ServingConfig,
    ("serve_apps.llm", "build"): LanguageConfig,
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


def own_configs(file: ServeFile) -> list[GatewayConfig]:
    """The arguments of those applications that are ours."""
    found = [(_class_of(application), application.get("args")) for application in file.applications]
    return [cls.model_validate(args or {}) for cls, args in found if cls is not None]


def is_language(application: Mapping[str, Any]) -> bool:
    """Whether it is one of ours that needs vLLM."""
    return _class_of(application) is LanguageConfig


def _class_of(application: Mapping[str, Any]) -> type[GatewayConfig] | None:
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
