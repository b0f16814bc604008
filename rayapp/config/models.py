"""configs/serving/*.yaml: a model as callers of a gateway for language models name it, and who
answers for it, where that need not be its own engine."""

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rayapp.config.choosing import ObjectiveLimits, check_candidates, check_shares
from rayapp.config.load import Config
from rayapp.config.routing import EndpointName, Name, ReleaseId, Share, WhenConfig, check_rules
from rayapp.config.serving import FIRST, BreakerConfig, CacheConfig, ShadowSettings
from rayapp.schemas.prompt import Prompt
from rayapp.schemas.traffic import NANO

TokenPrice = Annotated[float, Field(ge=0.001, le=1e6)]
"""Of a million tokens, in US dollars; to a thousandth, which is a billionth a token."""


class ModelTarget(Config):
    model: EndpointName
    """Another one of `models`. Its engine, or the adapter of its `endpoint`, answers; who else may
    answer under its own name does not matter here."""


class ModelFallbackConfig(ModelTarget):
    """Who answers where others cannot."""


class ModelRuleConfig(ModelTarget):
    """Requests that another model answers, whatever a split says."""

    name: Name
    """The arm's name in the prompt log."""
    when: WhenConfig


class ModelArmConfig(ModelTarget):
    share: Share
    """Of all units. The same unit stays with its arm; a larger share only adds units to it."""


class ModelShadowConfig(ModelTarget, ShadowSettings):
    """Another model hears the same requests, each when its answer has begun. Its own answers are
    complete, nobody pays for them, and only the prompt log has them: under the name with `.shadow`
    behind it."""


class ModelSplitConfig(Config):
    """Units are divided between a name's own model and others by a salted hash. A unit is the
    header x-unit-id, else OpenAI's `user`, else the tenant, else the request."""

    salt: str = Field(min_length=1)
    """Another salt divides anew, independently of the old one."""
    arms: dict[Name, ModelArmConfig] = Field(min_length=1)
    """By name, as the prompt log has it. What they leave stays with the name's own model."""

    @model_validator(mode="after")
    def _at_most_all(self) -> Self:
        check_shares({name: arm.share for name, arm in self.arms.items()})
        return self


def why_no_effect(prompt: Prompt) -> str | None:
    """What of a prompt no model of weights would ever be told; None where it is told all of it."""
    if prompt.system is None:
        return f"{prompt.name} has no `system`, so it has no effect: what users say is theirs"
    if not prompt.is_user_alone:
        return (
            f"`user` of {prompt.name} is {prompt.user!r}, which has no effect: what users say is "
            "passed on as it is"
        )
    return None


PROMPT_HINT = "say it in `system`, with a `user` that is one {name} alone, or take `prompt` out"


def token_cost(usd_per_million: float | None) -> int:
    """Of one token, in billionths of a dollar."""
    return 0 if usd_per_million is None else round(usd_per_million * NANO / 10**6)


class ModelObjectiveConfig(ObjectiveLimits):
    """The cheapest of the name's own model and the candidates answers, at its own prices, that is
    quick enough by what this gateway measures, and good enough by the evaluation that its release
    was sealed with. Weights as they are have been measured by the evaluation of the first of these
    models that is an adapter of them."""

    max_p95_ms: float = Field(gt=0)
    """Of what `latency` says, from the choice on. A request that fails took longer than any
    limit."""
    latency: Literal["first_token", "answer"] = "first_token"
    """first_token: until a streamed answer begins; answers that are not streamed are not measured.
    answer: until one is complete that is not streamed; streamed ones are not measured, as they take
    as long as their readers do."""
    candidates: dict[Name, ModelTarget] = Field(min_length=1)
    """By name, as the prompt log has it in `arm`."""
    usual_prompt_tokens: int = Field(ge=1)
    """What a request of this name usually has; with usual_output_tokens it says whose prices are
    lower."""
    usual_output_tokens: int = Field(ge=1)

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        check_candidates(self.candidates)
        models = [one.model for one in self.candidates.values()]
        if len(set(models)) < len(models):
            raise ValueError("two of `candidates` are the same")
        return self


class ModelCascadeConfig(Config):
    """A cheaper model answers first; the name's own answers where that is not sure. What both may
    come to is reserved, what both did is paid, each at its own prices."""

    first: ModelTarget
    max_error: float = Field(gt=0, lt=1)
    """The name's own model is asked where the first one's answer is wrong with a higher probability
    than this, by its own: 1 − the product of the probabilities of the answer's tokens."""
    max_calibration_error: float = Field(default=0.05, gt=0, le=1)
    """The upper end of the interval of `calibration_error` in the evaluation that measured the
    first model must not exceed it: else its probabilities say too little of its errors, and the
    name's own model answers everything."""


class ModelConfig(Config):
    """A model as callers name it."""

    engine: EndpointName
    """One of `engines`."""
    endpoint: EndpointName | None = None
    """Its champion answers, an adapter of the engine's weights; null: the weights as they are."""
    release: ReleaseId | None = None
    """The release of `endpoint` that answers, champion or not; null: whichever is champion."""
    adapters: bool = False
    """Each adapter that is released for the engine's weights answers too, under the name of its
    endpoint and by these settings, from the moment that it is champion; but for an endpoint whose
    very name one of `models` has."""
    prompt: str | Prompt | None = None
    """Path of a prompt file (configs/prompts/): its `system` is said before, where a caller says
    nothing of that kind. Its `user` must be one {name} alone, as callers' words are passed on as
    they are. `rayapp submit` puts what the file says in its place. null: nothing is said. Adapters
    have their own."""
    usd_per_million_input_tokens: TokenPrice | None = None
    """null: nothing, as for usd_per_million_output_tokens."""
    usd_per_million_output_tokens: TokenPrice | None = None
    max_output_tokens: int = Field(default=1024, ge=1)
    """Of one answer, where a caller does not say how many; never more than the context leaves."""
    timeout_ms: float | None = Field(default=None, gt=0)
    """The engine has so long until an answer begins, or is complete where it is not streamed,
    before the next of `fallback` is asked."""
    fallback: tuple[ModelFallbackConfig, ...] = ()
    """Asked in order where an answer does not begin. Such answers carry x-degraded."""
    rules: tuple[ModelRuleConfig, ...] = ()
    """Asked in order, before `split` and the like: the first whose condition holds says who
    answers, at this name's prices."""
    split: ModelSplitConfig | None = None
    """null: nobody else answers but by a rule. An arm answers at this name's prices."""
    objective: ModelObjectiveConfig | None = None
    """Instead of a split: the cheapest that is quick and good enough."""
    cascade: ModelCascadeConfig | None = None
    """Instead of a split: a cheaper model first, the name's own where that is not sure."""
    shadow: ModelShadowConfig | None = None
    """null: nobody else hears."""
    breaker: BreakerConfig | None = BreakerConfig()
    """null: none."""
    cache: CacheConfig | None = None
    """A tenant's equal questions are answered once, where nothing is left to chance: vectors, and
    text at temperature 0. They cost the same. null: none."""

    @model_validator(mode="after")
    def _with_effect(self) -> Self:
        if self.timeout_ms is not None and not self.fallback and self.cascade is None:
            raise ValueError("`timeout_ms` has no effect without `fallback` or `cascade`")
        choosing = [n for n in ("split", "objective", "cascade") if getattr(self, n) is not None]
        if len(choosing) > 1:
            raise ValueError(f"`{choosing[0]}` and `{choosing[1]}` both say who answers: keep one")
        check_rules(self.rules, self._arms())
        if self.adapters and self.endpoint is not None:
            raise ValueError(
                "`adapters` belongs to the model that is the weights as they are, `endpoint` is "
                "of one adapter"
            )
        if self.release is not None and self.endpoint is None:
            raise ValueError("`release` has no effect without the `endpoint` that it is of")
        if self.prompt is not None and self.endpoint is not None:
            raise ValueError("`prompt` has no effect: an adapter is told what it was trained with")
        idle = why_no_effect(self.prompt) if isinstance(self.prompt, Prompt) else None
        if idle is not None:
            raise ValueError(f"`prompt`: {idle}; {PROMPT_HINT}")
        return self

    def _arms(self) -> Mapping[str, ModelTarget]:
        """What answers by no rule, beside its own model."""
        return {**(self.split.arms if self.split else {}), **self.priced()}

    def priced(self) -> Mapping[str, ModelTarget]:
        """Those that answer at prices of their own, by the names of their arms."""
        if self.objective is not None:
            return self.objective.candidates
        return {} if self.cascade is None else {FIRST: self.cascade.first}

    def targets(self) -> dict[str, str]:
        """The models that answer by intention beside its own, by arm."""
        by_rule = {rule.name: rule.model for rule in self.rules}
        return by_rule | {name: arm.model for name, arm in self._arms().items()}

    def by_place(self) -> dict[str, str]:
        """Every model that is named beside its own, by where its name is said."""
        found = {f"fallback.{n}.model": one.model for n, one in enumerate(self.fallback)}
        found |= {f"rules.{n}.model": rule.model for n, rule in enumerate(self.rules)}
        if self.split is not None:
            found |= {f"split.arms.{n}.model": arm.model for n, arm in self.split.arms.items()}
        if self.objective is not None:
            candidates = self.objective.candidates
            found |= {f"objective.candidates.{n}.model": c.model for n, c in candidates.items()}
        if self.cascade is not None:
            found["cascade.first.model"] = self.cascade.first.model
        if self.shadow is not None:
            found["shadow.model"] = self.shadow.model
        return found

    def unseen(self) -> set[str]:
        """The models that may answer without anything that a caller did."""
        return {arm.model for arm in self._arms().values()}

    def is_cheaper_than(self, other: "ModelConfig") -> bool:
        """By one price at least, and by neither dearer."""
        own, others = self._prices(), other._prices()
        return own != others and all(a <= b for a, b in zip(own, others, strict=True))

    def _prices(self) -> tuple[float, float]:
        return self.usd_per_million_input_tokens or 0, self.usd_per_million_output_tokens or 0

    @property
    def has_price(self) -> bool:
        return bool(self.usd_per_million_input_tokens or self.usd_per_million_output_tokens)

    def others(self) -> set[str]:
        """The models that may answer instead of its own, or hear what it is asked."""
        return set(self.by_place().values())

    def alone(self) -> Self:
        """The settings of an adapter that answers by these, where nobody else does."""
        others = {"fallback": (), "timeout_ms": None, "rules": (), "shadow": None}
        chosen = {"split": None, "objective": None, "cascade": None}
        return self.model_copy(update={"adapters": False, **others, **chosen})
