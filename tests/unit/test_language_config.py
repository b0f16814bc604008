"""The config of a gateway of language models: what has an effect loads, and nothing else does."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from language_case import CONFIG, with_settings
from pydantic import ValidationError

from rayapp.config.language import EngineConfig, LanguageConfig
from rayapp.config.models import token_cost

GPU = {"weights": "big", "accelerator": "H100"}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"arguments": {"model": "x"}}, "`arguments`: ['model'] are set by other settings"),
        ({"arguments": {"max-model-len": 5}}, "'max-model-len' must be written with underscores"),
        ({"tensor_parallel_size": 2}, "need GPUs: set `accelerator`"),
        (GPU | {"kv_cache_gib": 1}, "`kv_cache_gib` has no effect on GPUs"),
        ({"is_prefix_aware": True}, "`is_prefix_aware` has no effect with one replica"),
        (
            {"is_prefix_aware": True, "max_replicas": 2, "max_adapters": 1},
            "`is_prefix_aware` and `max_adapters` both say which replica is asked",
        ),
        ({"min_replicas": 2}, "`min_replicas` 2 is more than `max_replicas` 1"),
        ({"weights": "Big Model"}, "should match pattern"),
        ({"max_context_tokens": 1}, "greater than or equal to 16"),
        ({"retry_share": 2}, "less than or equal to 1"),
    ],
)
def test_engines(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(says)):
        EngineConfig.model_validate({"weights": "big", **settings})


@pytest.mark.parametrize(
    ("settings", "num_gpus"),
    [
        ({"weights": "big"}, 0),
        (GPU, 1),
        (GPU | {"tensor_parallel_size": 2, "pipeline_parallel_size": 3}, 6),
    ],
)
def test_gpus_of_a_replica(settings: dict[str, Any], num_gpus: int) -> None:
    assert EngineConfig.model_validate(settings).num_gpus == num_gpus


@pytest.mark.parametrize(
    ("model", "settings", "says"),
    [
        ({"engine": "none"}, {}, "there is no engine 'none'"),
        ({"timeout_ms": 5}, {}, "`timeout_ms` has no effect without `fallback`"),
        (
            {"fallback": [{"model": "none"}]},
            {},
            "`models.big.fallback.0.model`: 'none' is none of the others, ['small'",
        ),
        ({"fallback": [{"model": "big"}]}, {}, "fallback.0.model`: 'big' is none of"),
        (
            {"fallback": [{"model": "small"}], "timeout_ms": 5000},
            {"deadline_ms": 5000},
            "`models.big.timeout_ms` 5000 has no effect with deadline_ms 5000",
        ),
        ({"usd_per_million_input_tokens": 0}, {}, "greater than or equal to 0.001"),
        ({"max_output_tokens": 0}, {}, "greater than or equal to 1"),
        ({}, {"budgets": {"default_usd": 1}}, "`budgets` has no effect without prices"),
        ({}, {"inline": "none"}, "`inline`: 'none' is not one of"),
        ({}, {"inline": "engine"}, "`engines.engine.retry_share` has no effect where"),
        ({}, {"inline": "vectors", "num_cpus": 1}, "`num_cpus` has no effect with `inline`"),
        ({}, {"token_limits": {}}, "leave `token_limits` out"),
        ({}, {"token_limits": {"default": {"tokens_per_s": 0, "burst": 1}}}, "greater than 0"),
        ({}, {"token_limits": {"default": {"requests_per_s": 1, "burst": 1}}}, "Field required"),
        ({}, {"token_budgets": {"period": "day"}}, "leave `token_budgets` out"),
        ({}, {"token_budgets": {"tenants_tokens": {"a": -1}}}, "greater than or equal to 0"),
        ({}, {"token_budgets": {"tenants_tokens": {"Acme!": 1}}}, "no tenant can have this name"),
        ({}, {"min_replicas": 3}, "`min_replicas` 3 is more than `max_replicas` 2"),
        ({}, {"redacts": "some"}, "'nothing', 'contacts' or 'text'"),
        ({}, {"max_choices": 0}, "greater than or equal to 1"),
        ({}, {"record_every_tokens": 0}, "greater than or equal to 1"),
        ({}, {"engines": {}}, "at least 1 item"),
        ({}, {"usd_per_1000_rows": 1}, "Extra inputs are not permitted"),
    ],
)
def test_gateways(model: dict[str, Any], settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(says)):
        with_settings({"big": model}, **settings)


def test_an_engine_that_no_model_names() -> None:
    spare = CONFIG["engines"] | {"spare": {"weights": "spare"}}
    with pytest.raises(ValidationError, match=r"`engines\.spare` has no effect: no model names it"):
        LanguageConfig.model_validate({**CONFIG, "engines": spare})


@pytest.mark.parametrize(("usd", "nano_usd"), [(None, 0), (0.001, 1), (0.15, 150), (15.0, 15_000)])
def test_prices_are_whole_billionths_of_a_dollar(usd: float | None, nano_usd: int) -> None:
    assert token_cost(usd) == nano_usd


@pytest.mark.parametrize(
    ("settings", "needs"),
    [
        ({}, False),
        ({"token_limits": {"default": {"tokens_per_s": 1, "burst": 1}}}, False),
        ({"token_budgets": {"default_tokens": 0}}, True),
    ],
)
def test_accounts_are_needed_where_anybody_has_a_budget(
    settings: dict[str, Any], needs: bool
) -> None:
    assert with_settings(**settings).needs_accounts == needs


DOCS = Path(__file__).parents[2] / "docs/how-to"
BLOCK = re.compile(r"^```yaml\n(models:.*?)^```", re.DOTALL | re.MULTILINE)
EXAMPLES = [
    block
    for page in ("serve-language-models.md", "route-by-cost.md")
    for block in BLOCK.findall((DOCS / page).read_text())
]


def test_examples_are_of_every_way_to_choose() -> None:
    ways = ("rules:", "split:", "objective:", "cascade:", "fallback:")
    assert [way for way in ways if not any(way in one for one in EXAMPLES)] == []


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_load_as_they_are_written(example: str) -> None:
    models = yaml.safe_load(example)["models"]
    engines: dict[str, Any] = {model["engine"]: {"weights": "big"} for model in models.values()}
    for model in models.values():
        if "endpoint" in model:
            engines[model["engine"]]["max_adapters"] = 4
    LanguageConfig.model_validate({"engines": engines, "models": models})


ADAPTED: dict[str, Any] = {"engine": {"weights": "big", "max_adapters": 2}}


@pytest.mark.parametrize(
    ("engine", "models", "says"),
    [
        ({}, {"big": {"adapters": True}}, "engine` must have `max_adapters` for its adapters"),
        ({}, {"big": {"endpoint": "tuned"}}, "engine` must have `max_adapters` for its adapters"),
        (ADAPTED, {}, "`engines.engine.max_adapters` has no effect: set `adapters` of a model"),
        (
            ADAPTED,
            {"big": {"adapters": True}, "small": {"engine": "engine", "adapters": True}},
            "`models.small.adapters` is set of big too, of the same engine engine: keep one",
        ),
        (ADAPTED, {"big": {"adapters": True, "endpoint": "tuned"}}, "`endpoint` is of one adapter"),
        (
            {"engine": {"weights": "big", "max_adapter_rank": 8}},
            {},
            "`max_adapter_rank` has no effect without `max_adapters`",
        ),
        (
            {"engine": {"weights": "big", "workspace": "/elsewhere"}},
            {},
            "`workspace` is another one than that of engine engine",
        ),
    ],
)
def test_adapters(engine: dict[str, Any], models: dict[str, Any], says: str) -> None:
    used = {m["engine"] for m in {**CONFIG["models"], **models}.values() if "engine" in m}
    used |= {"engine", "other"} if "small" not in models else {"engine"}
    known = {n: e for n, e in {**CONFIG["engines"], **engine}.items() if n in used | {"vectors"}}
    with pytest.raises(ValidationError, match=re.escape(says)):
        with_settings(models, engines=known)
