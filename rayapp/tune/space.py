"""The search space of a sweep, checked against the family's settings before anything runs."""

import difflib
from typing import Any

from pydantic import ValidationError

from rayapp.config.sweep import (
    ChoiceSpace,
    Space,
    SweepConfig,
    UniformSpace,
)
from rayapp.config.training import LlmConfig, NeuralConfig, TabularConfig, TrainConfig
from rayapp.errors import ConfigError


def check_space(config: SweepConfig, training: TrainConfig) -> None:
    """Raises ConfigError that names the key and the value."""
    settings = training.family_config
    if isinstance(settings, LlmConfig):
        raise ConfigError(
            f"training {training.name!r} tunes a language model, which a sweep cannot search",
            "sweep a config of the tabular or neural family",
        )
    known = type(settings).model_fields
    for name, space in config.space.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise ConfigError(
                f"space.{name}: no setting of the {training.family} family",
                f"did you mean {near[0]!r}?" if near else f"settings are {sorted(known)}",
            )
        if isinstance(space, UniformSpace) and known[name].annotation is int:
            raise ConfigError(
                f"space.{name}: {name} is a whole number, kind {space.kind!r} gives fractions",
                "use kind: integer",
            )
        for value in _extremes(space):
            _check(settings, name, value)


def starting_point(config: SweepConfig, training: TrainConfig) -> dict[str, Any] | None:
    """The training config's own settings, if they lie inside the space: the trial to beat."""
    settings = training.family_config.model_dump()
    point = {name: settings[name] for name in config.space}
    inside = all(_is_inside(space, point[name]) for name, space in config.space.items())
    return point if inside else None


def _is_inside(space: Space, value: Any) -> bool:
    if isinstance(space, ChoiceSpace):
        return value in space.values
    return bool(space.low <= value <= space.high)


def _extremes(space: Space) -> tuple[str | int | float, ...]:
    return space.values if isinstance(space, ChoiceSpace) else (space.low, space.high)


def _check(settings: TabularConfig | NeuralConfig, name: str, value: str | float) -> None:
    try:
        type(settings).model_validate(settings.model_dump() | {name: value})
    except ValidationError as error:
        problem = error.errors()[0]
        raise ConfigError(
            f"space.{name}: {value!r} is not allowed: {problem['msg']}",
            "keep the space inside the setting's own limits",
        ) from None
