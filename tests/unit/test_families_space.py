"""A sweep's space is refused before anything runs."""

import re

import pytest

from rayapp.config.sweep import SweepConfig
from rayapp.config.training import TrainConfig
from rayapp.errors import ConfigError
from rayapp.tune.space import check_space, starting_point

TRAINING = TrainConfig(name="t", snapshot="s", family="tabular", features=("a",))


def sweep_of(space: dict[str, dict[str, object]]) -> SweepConfig:
    return SweepConfig.model_validate({"training": "t", "space": space, "budget_s": 1})


def test_a_good_space_starts_at_the_configs_own_settings() -> None:
    config = sweep_of(
        {
            "max_depth": {"kind": "integer", "low": 3, "high": 9},
            "learning_rate": {"kind": "log_uniform", "low": 0.01, "high": 0.3},
            "subsample": {"kind": "choice", "values": [0.5, 0.8]},
        }
    )
    check_space(config, TRAINING)
    assert starting_point(config, TRAINING) == {
        "max_depth": 6,
        "learning_rate": 0.1,
        "subsample": 0.8,
    }


def test_settings_outside_the_space_are_no_starting_point() -> None:
    config = sweep_of({"subsample": {"kind": "choice", "values": [0.5, 0.6]}})
    assert starting_point(config, TRAINING) is None
    config = sweep_of({"max_depth": {"kind": "integer", "low": 7, "high": 9}})
    assert starting_point(config, TRAINING) is None


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (
            {"max_dept": {"kind": "integer", "low": 1, "high": 2}},
            "did you mean 'max_depth'",
        ),
        ({"max_depth": {"kind": "integer", "low": 1, "high": 40}}, "40 is not allowed"),
        ({"max_depth": {"kind": "uniform", "low": 1, "high": 4}}, "use kind: integer"),
        (
            {"subsample": {"kind": "choice", "values": ["half"]}},
            "'half' is not allowed",
        ),
    ],
)
def test_a_bad_space_is_refused(space: dict[str, dict[str, object]], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        check_space(sweep_of(space), TRAINING)
