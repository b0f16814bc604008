"""The config of a gateway of rows: what has an effect loads, and nothing else does."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from rayapp.config.language import EngineConfig
from rayapp.config.replicas import SCALING, PoolConfig
from rayapp.config.serving import ServingConfig

DOCS = Path(__file__).parents[2] / "docs/how-to"
EXAMPLES = [
    block
    for block in re.findall(
        r"^```yaml\n(.*?)^```",
        (DOCS / "serve-several-models.md").read_text(),
        re.DOTALL | re.MULTILINE,
    )
    if yaml.safe_load(block).keys() <= ServingConfig.model_fields.keys()
]
TWO = {"min_replicas": 2, "max_replicas": 2}
IN_POOL = {"placement": "p", "pools": {"p": {}}}


def test_examples_are_of_all_that_the_page_is_about() -> None:
    said = {key for example in EXAMPLES for key in yaml.safe_load(example)}
    assert {"pools", "endpoints", "limits", "budgets", "tiers"} <= said


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_load_as_they_are_written(example: str) -> None:
    ServingConfig.model_validate(yaml.safe_load(example))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (IN_POOL | {"max_batch_rows": 8}, "`max_batch_rows` has no effect"),
        (IN_POOL | {"batch_wait_ms": 5}, "nothing is placed inline: set that of `pools`"),
        (
            {"pools": {"p": {}}, "endpoints": {"a": {"placement": "p"}}, "batch_wait_ms": 5},
            "`batch_wait_ms` has no effect",
        ),
        (
            {"usd_per_1000_rows": 1, "endpoints": {"a": {"usd_per_1000_rows": 2}}},
            "`usd_per_1000_rows` has no effect, since each of `endpoints` has its own",
        ),
        ({"follow_every_ms": 501}, "less than or equal to 500"),
        (
            {"tiers": {"gold": {"weight": 1, "tenants": ["acme"]}}},
            "`weight` 1 has no effect: a tenant in no tier has it",
        ),
        ({"tiers": {"gold": {"weight": 0, "tenants": ["acme"]}}}, "greater than 0"),
        ({"tiers": {"gold": {"weight": 4, "tenants": []}}}, "at least 1 item"),
        ({"tiers": {"gold": {"weight": 4, "tenants": ["Acme"]}}}, "no tenant can have this name"),
        (
            {"tiers": {"gold": {"weight": 4, "tenants": ["a", "a"]}}},
            "tenant 'a' is in gold and again in gold: leave it in one",
        ),
        (
            {
                "tiers": {
                    "gold": {"weight": 4, "tenants": ["a"]},
                    "batch": {"weight": 0.5, "tenants": ["b", "a"]},
                }
            },
            "tenant 'a' is in gold and again in batch",
        ),
        ({"min_replicas": 3}, "`min_replicas` 3 is more than `max_replicas` 2"),
    ],
)
def test_a_setting_without_effect_is_an_error(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(says)):
        ServingConfig.model_validate(settings)


@pytest.mark.parametrize("name", SCALING)
@pytest.mark.parametrize("config", [ServingConfig, PoolConfig, EngineConfig])
def test_what_scales_has_no_effect_on_a_fixed_number_of_replicas(
    config: type[ServingConfig | PoolConfig | EngineConfig], name: str
) -> None:
    if name not in config.model_fields:
        return
    base = {"weights": "big"} if config is EngineConfig else {}
    config.model_validate({**base, "min_replicas": 1, "max_replicas": 2, name: 0.5})
    says = f"`{name}` has no effect where `min_replicas` and `max_replicas` are both 1"
    with pytest.raises(ValidationError, match=re.escape(says)):
        config.model_validate({**base, "min_replicas": 1, "max_replicas": 1, name: 0.5})


def test_a_pools_busy_share_also_says_how_many_replicas_hold_a_model() -> None:
    assert PoolConfig.model_validate(TWO | {"target_busy_share": 0.5}).target_busy_share == 0.5
    with pytest.raises(ValidationError, match="has no effect"):
        ServingConfig.model_validate(TWO | {"target_busy_share": 0.5})


@pytest.mark.parametrize(
    "settings",
    [
        IN_POOL | {"batch_wait_ms": 5, "endpoints": {"a": {}, "b": {"placement": "inline"}}},
        {
            "pools": {"p": {}},
            "batch_wait_ms": 5,
            "endpoints": {"a": {"placement": "p", "fallback": [{"endpoint": "b"}]}},
        },
        {"usd_per_1000_rows": 1, "endpoints": {"a": {"usd_per_1000_rows": 2}, "b": {}}},
    ],
    ids=["one inline", "a stand-in inline", "one without a price"],
)
def test_what_one_of_several_needs_has_an_effect(settings: dict[str, Any]) -> None:
    ServingConfig.model_validate(settings)
