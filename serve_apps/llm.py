"""Language models as Ray Serve applications: `rayapp submit configs/serving/llm.yaml`.

Each engine of vLLM is an application of its own, so that a change of another one, or of the gateway
before them, loads no weights anew; one may be in the gateway's replicas instead. All are built, and
run, in the environment that has vLLM. No postponed annotations in this module: Serve checks a
builder's arguments only when they are classes.
"""

from collections.abc import Callable
from functools import partial

from ray import serve
from ray.serve import Application

from rayapp.config.language import EngineConfig, LanguageConfig
from rayapp.errors import ConfigError
from rayapp.flows.weights import find_weights
from rayapp.ledger import Ledger
from rayapp.llm.tokens import PromptCounter
from rayapp.llm.weights import local_tokenizer
from rayapp.schemas.language import WeightsRef
from rayapp.serve.language.fitting import require_fitting
from rayapp.serve.language.replica import LanguageParts, language_gateway, make_hooks
from rayapp.serve.language.served import CountTokens
from rayapp.serve.pool.router import ModelRouter
from rayapp.serve.replica import inline_options
from rayapp.storage import Workspace
from serve_apps.common import champions_for, connected, fixed, flags_for, store_of, workspace_of


def build_engine(config: EngineConfig) -> Application:
    # the gateway's replicas import this module, too: without vLLM they start in a third of the time
    # and take a third of the memory
    from rayapp.llm.engine import engine_deployment

    workspace = workspace_of(config.workspace)
    weights = find_weights(Ledger.of(workspace, "deploy"), config.weights)
    return engine_deployment(config, weights, workspace, ModelRouter)


def build(config: LanguageConfig) -> Application:
    for name, model in config.models.items():
        if isinstance(model.prompt, str):
            raise ConfigError(
                f"models.{name}.prompt is the path {model.prompt}, and replicas have no such files",
                "deploy with `rayapp submit`, which puts what the file says in its place",
            )
    ledger = Ledger.of(workspace_of(config.workspace), "deploy")
    weights = {
        name: find_weights(ledger, engine.weights) for name, engine in config.engines.items()
    }
    require_fitting(config, weights)
    if config.inline is None:
        return language_gateway(config, connect, weights)
    from rayapp.llm.engine import engine_gateway

    name, workspace = config.inline, workspace_of(config.workspace)
    return engine_gateway(
        config.engines[name],
        weights[name],
        workspace,
        partial(make_hooks, config, connect, weights),
        inline_options(config),
    )


def connect(config: LanguageConfig) -> LanguageParts:
    found = connected(config, "language-gateway")
    rules = [rule for model in config.models.values() for rule in model.rules]
    by_id, read_champions = fixed(config.named_releases()), champions_for(found, is_language=True)
    return LanguageParts(
        lambda: {**read_champions(), **by_id},
        found.read_keys,
        store_of(found.workspace),
        found.log,
        counter_of(found.workspace),
        serve.get_app_handle,
        bank=found.accounts,
        settle=found.settle,
        read_flags=flags_for(rules, found.ledger),
    )


def counter_of(workspace: Workspace) -> Callable[[WeightsRef], CountTokens]:
    def counter(weights: WeightsRef) -> CountTokens:
        return PromptCounter(local_tokenizer(weights, workspace)).count

    return counter
