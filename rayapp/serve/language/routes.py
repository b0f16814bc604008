"""What a model's configuration puts before it → the endpoints that make it up, from the inside out.

    Fallback( Shadow( Rules( Split( Own, … ))), … )
    instead of Split: Objective( Own, … ) or TextCascade( First, Own )
    each of them: Billed( what stands before its engine )

Whoever answers by a rule, a split or instead does so at the name's prices, a candidate of an
objective and the first model of a cascade at their own.
"""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial

from rayapp.config.models import (
    ModelCascadeConfig,
    ModelConfig,
    ModelObjectiveConfig,
    ModelShadowConfig,
    token_cost,
)
from rayapp.config.routing import CHAMPION
from rayapp.errors import Unavailable
from rayapp.schemas.prompt import Prompt
from rayapp.serve.endpoints.build import Chooses, Hooks
from rayapp.serve.endpoints.deadline import Deadlines
from rayapp.serve.endpoints.fallback import Fallback
from rayapp.serve.endpoints.objective import Candidate, Objective
from rayapp.serve.endpoints.rules import Rule, Rules
from rayapp.serve.endpoints.shadow import Shadow
from rayapp.serve.endpoints.split import Arm, Split
from rayapp.serve.flags import Flags
from rayapp.serve.language.ask import TextAsk, TextEndpoint, TextReply
from rayapp.serve.language.billed import Billed, Desk
from rayapp.serve.language.cascade import TextCascade
from rayapp.serve.language.charges import NOBODY, Prices
from rayapp.serve.language.served import Served
from rayapp.serve.language.shadow import Unheard
from rayapp.serve.language.standing import Standing, Standings, TextTerms

Hearing = Callable[[str, TextAsk, TextReply, float], Awaitable[None]]


def prices_of(config: ModelConfig) -> Prices:
    return Prices(
        token_cost(config.usd_per_million_input_tokens),
        token_cost(config.usd_per_million_output_tokens),
    )


@dataclass(frozen=True)
class Routes:
    """models: those of the config, by name. find: who answers now under a name, or raises
    Unavailable. heard: takes a name, an ask, a shadow's reply to it and the milliseconds that it
    took. flags: those that rules may ask. shadows, choosing: all that were built, the latter by
    name."""

    models: Mapping[str, ModelConfig]
    find: Callable[[str], Served]
    desk: Desk
    deadlines: Deadlines
    hooks: Hooks
    heard: Hearing
    flags: Flags | None = None
    shadows: list[Shadow[TextAsk, TextReply]] = field(default_factory=list)
    choosing: dict[str, Chooses] = field(default_factory=dict)

    def endpoint(self, name: str, config: ModelConfig) -> TextEndpoint:
        built = self._chosen(name, config)
        if config.rules:
            rules = [
                Rule[TextAsk, TextReply].of(rule, self._by(rule.model, config))
                for rule in config.rules
            ]
            built = Rules(built, rules, self.flags)
        if config.shadow is not None:
            built = self._shadow(name, built, config.shadow, config)
        if config.fallback:
            told = partial(self._prompt, name)
            others = [self._by(other.model, config, told) for other in config.fallback]
            built = Fallback([built, *others])
        return built

    def _shadow(
        self, name: str, inner: TextEndpoint, shadow: ModelShadowConfig, config: ModelConfig
    ) -> TextEndpoint:
        find = partial(self.find, shadow.model)
        unpaid = replace(self.desk, payers=NOBODY, limiter=None)
        made = Shadow(
            inner,
            Unheard(Billed(find, Prices(), config.max_output_tokens, unpaid), self.deadlines),
            shadow.share,
            f"shadow/{name}",
            shadow.max_ongoing,
            partial(self.heard, name),
        )
        self.shadows.append(made)
        return made

    def _chosen(self, name: str, config: ModelConfig) -> TextEndpoint:
        """Of the name's own model and the others that may answer."""
        if config.split is not None:
            arms = [
                Arm[TextAsk, TextReply](arm_name, arm.share, self._by(arm.model, config))
                for arm_name, arm in config.split.arms.items()
            ]
            return Split(self._by(name, config), arms, config.split.salt)
        if config.objective is not None:
            return self._objective(name, config, config.objective)
        if config.cascade is not None:
            return self._cascade(name, config, config.cascade)
        return self._by(name, config)

    def _cascade(self, name: str, config: ModelConfig, cascade: ModelCascadeConfig) -> TextEndpoint:
        model = cascade.first.model
        standings = Standings([name, model], self.find)
        built = TextCascade(
            self._measured(model, config, standings),
            self._by(name, config),
            cascade,
            partial(standings.of, model),
            self.deadlines,
            partial(self.hooks.cascade, name),
        )
        self.choosing[name] = built
        return built

    def _objective(
        self, name: str, config: ModelConfig, limits: ModelObjectiveConfig
    ) -> TextEndpoint:
        arms = {CHAMPION: name, **{arm: one.model for arm, one in limits.candidates.items()}}
        standings = Standings([*arms.values()], self.find)
        usual = limits.usual_prompt_tokens, limits.usual_output_tokens

        def candidate(arm: str, model: str) -> Candidate[TextAsk, TextReply, Standing]:
            cost = prices_of(self.models[model]).of(*usual)
            endpoint = self._measured(model, config, standings)
            return Candidate(arm, endpoint, cost.nano_usd, partial(standings.of, model))

        built = Objective(
            [candidate(*pair) for pair in arms.items()],
            limits,
            TextTerms(limits),
            f"objective/{name}",
            partial(self.hooks.choice, name),
        )
        self.choosing[name] = built
        return built

    def _measured(self, model: str, config: ModelConfig, standings: Standings) -> Billed:
        """A model, at its own prices, asked as it was when it was measured."""
        prices, told = prices_of(self.models[model]), partial(standings.prompt, model)
        find = partial(self.find, model)
        return Billed(find, prices, config.max_output_tokens, self.desk, told)

    def _by(
        self,
        model: str,
        config: ModelConfig,
        first_told: Callable[[], Prompt | None] = lambda: None,
    ) -> Billed:
        """A model, at the prices and limits of a config."""
        find, prices = partial(self.find, model), prices_of(config)
        return Billed(find, prices, config.max_output_tokens, self.desk, first_told)

    def _prompt(self, name: str) -> Prompt | None:
        """How a name's own model is asked, whoever stands in for it."""
        with suppress(Unavailable):
            return self.find(name).prompt
        return None
