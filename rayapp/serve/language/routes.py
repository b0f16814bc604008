"""What a model's configuration puts before it → the endpoints that make it up, from the inside out.

    Fallback( Rules( Split( Own, … )), … )
    each of them: Billed( what stands before its engine )

Whoever answers by intention or instead does so at the name's prices.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from rayapp.config.models import ModelConfig, token_cost
from rayapp.errors import Unavailable
from rayapp.schemas.model import LanguageSchema
from rayapp.serve.endpoints.fallback import Fallback
from rayapp.serve.endpoints.rules import Rule, Rules
from rayapp.serve.endpoints.split import Arm, Split
from rayapp.serve.language.ask import TextAsk, TextEndpoint, TextReply
from rayapp.serve.language.billed import Billed, Desk
from rayapp.serve.language.charges import Prices
from rayapp.serve.language.served import Served
from rayapp.serve.matching import wire_matcher


def prices_of(config: ModelConfig) -> Prices:
    return Prices(
        token_cost(config.usd_per_million_input_tokens),
        token_cost(config.usd_per_million_output_tokens),
    )


@dataclass(frozen=True)
class Routes:
    """models: those of the config, by name. find: who answers now under a name, or raises
    Unavailable."""

    models: Mapping[str, ModelConfig]
    find: Callable[[str], Served]
    desk: Desk

    def endpoint(self, name: str, config: ModelConfig) -> TextEndpoint:
        built: TextEndpoint = self._by(name, config)
        if config.split is not None:
            arms = [
                Arm[TextAsk, TextReply](arm_name, arm.share, self._by(arm.model, config))
                for arm_name, arm in config.split.arms.items()
            ]
            built = Split(built, arms, config.split.salt)
        if config.rules:
            rules = [
                Rule[TextAsk, TextReply](
                    rule.name, wire_matcher(rule.when), None, self._by(rule.model, config)
                )
                for rule in config.rules
            ]
            built = Rules(built, rules)
        if config.fallback:
            told = partial(self._language, name)
            others = [self._by(other.model, config, told) for other in config.fallback]
            built = Fallback([built, *others])
        return built

    def _by(
        self,
        model: str,
        config: ModelConfig,
        first_told: Callable[[], LanguageSchema | None] = lambda: None,
    ) -> Billed:
        """A model, at the prices and limits of a config."""
        find, prices = partial(self.find, model), prices_of(config)
        return Billed(find, prices, config.max_output_tokens, self.desk, first_told)

    def _language(self, name: str) -> LanguageSchema | None:
        """How a name's own adapter is asked, whoever stands in for it."""
        with suppress(Unavailable):
            adapted = self.find(name).adapted
            return None if adapted is None else adapted.language
        return None
