"""YAML → one frozen, typed object, or one message that names the file, the line and the nearest
key.

    load(TrainConfig, "configs/training/flight_delay_trees.yaml", ["tabular.num_rounds=50"])

An overlay (configs/environments/NAME.yaml, chosen by RAYAPP_ENVIRONMENT or `environment=NAME`) has
a section per kind of config (SECTIONS), which is merged under the same rules: it may set only keys
that exist. Relative paths inside a YAML file are relative to the directory the program runs in,
which for a Ray job is the submitted directory.
"""

import difflib
import re
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from rayapp.config.problems import Location, describe
from rayapp.errors import ConfigError

ENVIRONMENTS = Path("configs/environments")
SECTIONS = (
    "snapshot",
    "training",
    "sweep",
    "policy",
    "release",
    "golden_path",
    "score_batch",
    "monitor",
    "publish_features",
    "weights",
    "prompt",
)
"""What an overlay may speak of: the `section` of each config that is a file of its own."""


class Config(BaseModel):
    """The base of every config: frozen, and an unknown key is an error."""

    section: typing.ClassVar[str | None] = None
    """Its part of an overlay; None where no overlay reaches it."""
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


ConfigT = typing.TypeVar("ConfigT", bound=Config)
ModelT = typing.TypeVar("ModelT", bound=BaseModel)


_KINDS: dict[type, str] = {type(None): "nothing", list: "a list", str: "one text"}


class _Loader(yaml.CSafeLoader):
    """SafeLoader that refuses duplicate keys; the stock one silently keeps the last."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: dict[Any, int] = {}
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        line = key_node.start_mark.line + 1
        if key in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"key {key!r} is already set on line {seen[key]}", key_node.start_mark
            )
        seen[key] = line
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
# YAML 1.2 booleans: a bare `on:` is a key and NO is a country, not True and False
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)


def load(
    cls: type[ConfigT],
    path: str | Path,
    overrides: Sequence[str] = (),
    environment: str | None = None,
) -> ConfigT:
    """Read `path`, lay the environment and the `key=value` overrides over it, and check the result.

    Raises ConfigError with every problem at once.
    """
    data, lines = read_yaml(path)
    places = {key: f"line {line}" for key, line in lines.items()}
    if environment is not None:
        overlay, its_places = _overlay(environment, cls)
        data, places = _merge(data, overlay), places | its_places
    for override in overrides:
        parsed, at = _parse_override(override)
        _refuse_into_list(data, at, override, path)
        told = f"override {override!r}"
        above = {at[:depth]: told for depth in range(1, len(at))}
        data, places = _merge(data, parsed), above | places | {at: told}
    return check(cls, data, path, places)


def check(cls: type[ModelT], data: Any, path: str | Path, places: Mapping[Location, str]) -> ModelT:
    """The object that `data` is, read from `path`. places: where each key stands. An unknown key is
    a problem, even where the class itself would take it. Raises ConfigError with every problem at
    once."""
    try:
        return cls.model_validate(data, extra="forbid")
    except ValidationError as error:
        problems = [describe(problem, cls, places) for problem in error.errors()]
        raise ConfigError(
            f"{path}: {listed(problems)}",
            "correct what is named and run the same command again",
        ) from None


def listed(problems: Sequence[str]) -> str:
    """How many, and one a line."""
    number = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
    return f"{number}\n  " + "\n  ".join(problems)


def read_yaml(path: str | Path) -> tuple[dict[str, Any], dict[Location, int]]:
    """The mapping in a YAML file, and the line of each of its keys. Raises ConfigError."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        near = _nearest_file(Path(path))
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror})",
            f"did you mean {near}?" if near else "check the path; configs live in configs/",
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 ({error.reason})", "save it as UTF-8") from None
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        lines = dict(_key_lines(node, (), ()))
        data = loader.construct_document(node) if node is not None else None
    except yaml.YAMLError as error:
        raise ConfigError(
            f"{path}: not valid YAML, {_place(error, text)}", "mend that line"
        ) from None
    finally:
        loader.dispose()
    if not isinstance(data, dict):
        raise ConfigError(
            f"{path}: must hold keys and values, holds {_KINDS.get(type(data), 'one value')}",
            "see configs/ and docs/reference/settings.md",
        )
    return data, lines


def place_of(path: str | Path, at: Location, value: Any) -> str:
    """`path: line N` where the file itself holds this value; `path` where an override set it."""
    data, lines = read_yaml(path)
    found: Any = data
    try:
        for part in at:
            found = found[part]
    except (KeyError, IndexError, TypeError):
        return str(path)
    return f"{path}: line {lines[at]}" if found == value else str(path)


def _place(error: yaml.YAMLError, text: str) -> str:
    """What is wrong and where, with the line itself and a mark below the column."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return str(error)  # a character that may not stand in a file at all
    mark = error.problem_mark
    lines = text.splitlines()
    line = lines[mark.line] if mark.line < len(lines) else ""
    is_tab = line[mark.column : mark.column + 1] == "\t" and "cannot start" in str(error.problem)
    problem = "a tab, YAML is indented with spaces" if is_tab else error.problem
    told = f"line {mark.line + 1}, column {mark.column + 1}: {problem}"
    if not is_tab and error.context and error.context_mark:
        told += f" ({error.context} that starts on line {error.context_mark.line + 1})"
    if line:
        told += f"\n    {line.expandtabs(1)}\n    {' ' * mark.column}^"
    return told


def _key_lines(
    node: yaml.Node | None, at: Location, around: tuple[yaml.Node, ...]
) -> list[tuple[Location, int]]:
    """The line of each key and item below a node. around: the nodes that it stands in."""
    if node in around:
        raise yaml.constructor.ConstructorError(
            None, None, "this alias is inside of what it stands for", node.start_mark
        )
    found: list[tuple[Location, int]] = []
    if isinstance(node, yaml.MappingNode):
        below = [(key.value, key, value) for key, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        below = [(index, value, value) for index, value in enumerate(node.value)]
    else:
        return found
    for name, marked, value in below:
        here = (*at, name)
        found.append((here, marked.start_mark.line + 1))
        found += _key_lines(value, here, (*around, node))
    return found


def _overlay(environment: str, cls: type[Config]) -> tuple[dict[str, Any], dict[Location, str]]:
    """The section of an environment file that is for this class, and where each of its keys is."""
    path = ENVIRONMENTS / f"{environment}.yaml"
    data, lines = read_yaml(path)
    for name, section in data.items():
        if name in SECTIONS and isinstance(section, dict):
            continue
        near = difflib.get_close_matches(str(name), SECTIONS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(
            f"{path}: line {lines[(str(name),)]}: {name!r} is no section of an environment"
            + (", it must hold keys" if name in SECTIONS else hint),
            f"sections are {', '.join(SECTIONS)}",
        )
    places = {at[1:]: f"{path} line {line}" for at, line in lines.items() if at[0] == cls.section}
    return data.get(cls.section or "", {}), places


def _parse_override(text: str) -> tuple[dict[str, Any], Location]:
    """What it sets, and where."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"override {text!r} is not of the form key=value", "example: seed=7")
    try:
        parsed: Any = yaml.load(value, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        raise ConfigError(
            f"override {text!r}: not valid YAML: {error}", "quote the value"
        ) from None
    at = tuple(key.split("."))
    for part in reversed(at):
        parsed = {part: parsed}
    return parsed, at


def _refuse_into_list(data: Any, at: Location, override: str, path: str | Path) -> None:
    for depth, part in enumerate(at):
        if isinstance(data, list):
            raise ConfigError(
                f"override {override!r}: `{'.'.join(map(str, at[:depth]))}` is a list, and no "
                "override reaches what is inside of one",
                f"edit {path}",
            )
        data = data.get(part) if isinstance(data, dict) else None


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def _nearest_file(path: Path) -> str | None:
    folder = path.parent if path.parent.is_dir() else Path("configs")
    files = {p.stem: str(p) for p in folder.rglob("*.yaml")} if folder.is_dir() else {}
    near = difflib.get_close_matches(path.stem, files, n=1, cutoff=0.7)
    return files[near[0]] if near else None
