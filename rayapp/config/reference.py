"""Every setting of every config file as a page: names, types, limits, defaults and meanings.

python -m rayapp.config.reference > docs/reference/settings.md
"""

import re
import sys
import typing
from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from rayapp.config.golden import GoldenConfig
from rayapp.config.language import EngineConfig, LanguageConfig
from rayapp.config.load import Config
from rayapp.config.operations import (
    FeatureFeedConfig,
    GoldenPathConfig,
    MonitorConfig,
    ScoreConfig,
)
from rayapp.config.problems import models_in
from rayapp.config.prompts import PromptConfig
from rayapp.config.release import PolicyConfig, ReleaseConfig
from rayapp.config.routing import FlagsConfig
from rayapp.config.serving import ServingConfig
from rayapp.config.snapshot import SnapshotConfig
from rayapp.config.sweep import SweepConfig
from rayapp.config.training import TrainConfig
from rayapp.config.weights import WeightsConfig

FILES: dict[str, type[Config]] = {
    "configs/snapshots/": SnapshotConfig,
    "configs/training/": TrainConfig,
    "configs/sweeps/": SweepConfig,
    "configs/policies/": PolicyConfig,
    "configs/releases/": ReleaseConfig,
    "configs/golden/": GoldenConfig,
    "configs/golden_paths/": GoldenPathConfig,
    "configs/features/": FeatureFeedConfig,
    "configs/operations/ (score_batch)": ScoreConfig,
    "configs/operations/ (monitor)": MonitorConfig,
    "configs/serving/ (args of serve_apps.predict)": ServingConfig,
    "configs/serving/ (args of serve_apps.llm:build)": LanguageConfig,
    "configs/serving/ (args of serve_apps.llm:build_engine)": EngineConfig,
    "configs/flags/": FlagsConfig,
    "configs/weights/": WeightsConfig,
    "configs/prompts/": PromptConfig,
}
_LIMITS = {"ge": "≥ {}", "gt": "> {}", "le": "≤ {}", "lt": "< {}", "min_length": "at least {}"}
_HEAD = """# Every setting

Made from the code by `python -m rayapp.config.reference`. An unknown key is an error. A default of
**required** must be written; `key=value` after a command overrides a file, with dots for what is
nested (`workers.num_workers=2`); no override reaches what is inside a list, as `applications` of a
serving config is: edit the file. An overlay of `configs/environments/` has a section for each kind
of file: {sections}.
"""


def render_reference() -> str:
    sections = ", ".join(f"`{cls.section}`" for cls in FILES.values() if cls.section)
    parts = [_HEAD.format(sections=sections)]
    told: set[type[BaseModel]] = set()
    for place, cls in FILES.items():
        parts.append(f"## {place}\n\n{_table(cls)}")
        for model in _below(cls):
            if model not in told:
                told.add(model)
                parts.append(f"### {_title(model)}\n\n{_meaning(model)}{_table(model)}")
    return "\n".join(parts)


def _below(cls: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for field in cls.model_fields.values():
        for model in models_in(field.annotation):
            yield model
            yield from _below(model)


def _title(model: type[BaseModel]) -> str:
    """TrainWorkersConfig → train workers; a kind of something is named by its kind."""
    words = re.sub(r"(?<!^)(?=[A-Z])", " ", model.__name__.removesuffix("Config")).lower()
    kind = model.model_fields.get("kind")
    kinds = typing.get_args(kind.annotation) if kind is not None else ()
    return f"{words} (`kind: {' | '.join(kinds)}`)" if kinds else words


def _meaning(model: type[BaseModel]) -> str:
    text = " ".join((model.__doc__ or "").split())
    return f"{text}\n\n" if text else ""


def _table(cls: type[BaseModel]) -> str:
    rows = ["| key | value | default | meaning |", "|---|---|---|---|"]
    for name, field in cls.model_fields.items():
        meaning = " ".join((field.description or "").split())
        cells = (f"`{field.alias or name}`", _value(field), _default(field), meaning)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows) + "\n"


def _value(field: FieldInfo) -> str:
    limits = [
        shown.format(getattr(rule, name))
        for rule in field.metadata
        for name, shown in _LIMITS.items()
        if getattr(rule, name, None) is not None
    ]
    return ", ".join([_type(field.annotation), *limits])


def _type(annotation: Any) -> str:
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return " or ".join(f"`{value}`" for value in args)
    if origin is typing.Annotated:
        return _type(args[0])
    if origin in (typing.Union, UnionType):
        return " or ".join(_type(arg) for arg in args if arg is not NoneType)
    if origin is tuple:
        return f"list of {_type(args[0])}"
    if origin is not None:
        return f"{{name: {_type(args[-1])}}}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return _title(annotation)
    names = {"str": "text", "int": "whole number", "float": "number", "bool": "true or false"}
    shown = getattr(annotation, "__name__", str(annotation))
    return names.get(shown, shown)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is None:
        return "none"
    if isinstance(value, BaseModel):
        return "its defaults"
    if isinstance(value, tuple):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


if __name__ == "__main__":
    sys.stdout.write(render_reference())
