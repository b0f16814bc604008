"""Language models as a Ray Serve application: `rayapp submit configs/serving/llm.yaml`.

A gateway by OpenAI's HTTP interface before engines of vLLM. It is built, and runs, in the
environment that has vLLM. No postponed annotations in this module: Serve checks a builder's
arguments only when they are classes.
"""

from collections.abc import Callable

from ray.serve import Application

from rayapp.config.language import LanguageConfig
from rayapp.flows.weights import find_weights
from rayapp.ledger import Ledger
from rayapp.llm.engine import engine_deployment
from rayapp.llm.tokens import PromptCounter
from rayapp.llm.weights import local_tokenizer
from rayapp.schemas.language import WeightsRef
from rayapp.serve.language.directory import CountTokens
from rayapp.serve.language.replica import LanguageParts, language_gateway
from rayapp.storage import Workspace
from serve_apps.common import connected, workspace_of


def build(config: LanguageConfig) -> Application:
    workspace = workspace_of(config)
    ledger = Ledger.of(workspace, "deploy")
    weights = {
        name: find_weights(ledger, engine.weights) for name, engine in config.engines.items()
    }
    engines = {
        name: engine_deployment(name, engine, weights[name], workspace, config.deadline_ms / 1000)
        for name, engine in config.engines.items()
    }
    return language_gateway(config, connect, weights, engines)


def connect(config: LanguageConfig) -> LanguageParts:
    found = connected(config, "language-gateway")
    return LanguageParts(
        found.read_keys,
        found.log,
        counter_of(found.workspace),
        found.workspace.uri,
        bank=found.accounts,
        settle=found.settle,
    )


def counter_of(workspace: Workspace) -> Callable[[WeightsRef], CountTokens]:
    def counter(weights: WeightsRef) -> CountTokens:
        return PromptCounter(local_tokenizer(weights, workspace)).count

    return counter
