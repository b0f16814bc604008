"""What each tenant may ask, and what it may spend."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from rayapp.config.load import Config
from rayapp.config.routing import Name, Tenant
from rayapp.schemas.traffic import NANO, Unit


class TierConfig(Config):
    """Tenants that have more of a full replica than others, or less."""

    weight: float = Field(gt=0, le=1000)
    """Times the share of a tenant that is in no tier."""
    tenants: tuple[Tenant, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _with_effect(self) -> Self:
        if self.weight == 1:
            raise ValueError(
                "`weight` 1 has no effect: a tenant in no tier has it, so leave the tier out"
            )
        return self


def _each_in_one(tiers: dict[str, TierConfig]) -> dict[str, TierConfig]:
    found: dict[str, str] = {}
    for name, tier in tiers.items():
        for tenant in tier.tenants:
            if tenant in found:
                raise ValueError(
                    f"tenant {tenant!r} is in {found[tenant]} and again in {name}: leave it in one"
                )
            found[tenant] = name
    return tiers


Tiers = Annotated[dict[Name, TierConfig], AfterValidator(_each_in_one)]


def weights_in(tiers: Mapping[str, TierConfig]) -> dict[str, float]:
    """By tenant, of those that are in a tier."""
    return {tenant: tier.weight for tier in tiers.values() for tenant in tier.tenants}


class RateConfig(Config):
    requests_per_s: float = Field(gt=0)
    burst: float = Field(ge=1)
    """Requests that may come at once after a pause."""

    @property
    def per_s(self) -> float:
        return self.requests_per_s


class LimitsConfig(Config):
    """How many requests each tenant may send, over all replicas together; more get 429."""

    default: RateConfig | None = None
    """Of each tenant that is not named, and of all callers without a key together."""
    tenants: dict[Tenant, RateConfig] = Field(default={})

    @model_validator(mode="after")
    def _with_effect(self) -> Self:
        if self.default is None and not self.tenants:
            raise ValueError("no rate is set: give `default` or `tenants`, or leave `limits` out")
        return self

    def rate_of(self, tenant: str) -> RateConfig | None:
        """None: as many as they like."""
        return self.tenants.get(tenant, self.default)


class TokenRateConfig(Config):
    tokens_per_s: float = Field(gt=0)
    burst: float = Field(ge=1)
    """Tokens that may be asked for at once after a pause; a request for more is always refused."""

    @property
    def per_s(self) -> float:
        return self.tokens_per_s


class TokenLimitsConfig(Config):
    """How many tokens each tenant may ask for, over all replicas together; more get 429. A request
    asks for its prompt and for max_tokens of each answer; what it did not use comes back when it is
    over."""

    default: TokenRateConfig | None = None
    """Of each tenant that is not named, and of all callers without a key together."""
    tenants: dict[Tenant, TokenRateConfig] = Field(default={})

    @model_validator(mode="after")
    def _with_effect(self) -> Self:
        if self.default is None and not self.tenants:
            raise ValueError(
                "no rate is set: give `default` or `tenants`, or leave `token_limits` out"
            )
        return self

    def rate_of(self, tenant: str) -> TokenRateConfig | None:
        """None: as many as they like."""
        return self.tenants.get(tenant, self.default)


class PeriodConfig(Config):
    """What each tenant may use in a period, in the budget's unit."""

    unit: ClassVar[Unit]
    period: Literal["day", "month"] = "month"
    """Of the calendar, in UTC."""

    def limit_of(self, tenant: str) -> int | None:
        """None: as much as they like."""
        raise NotImplementedError


class BudgetsConfig(PeriodConfig):
    """What each tenant may spend at the prices of endpoints, over all replicas together; what is
    not covered gets 429."""

    unit: ClassVar[Unit] = "nano_usd"
    default_usd: float | None = Field(default=None, ge=0)
    """Of each tenant that is not named, and of all callers without a key together; null: as much as
    they like."""
    tenants_usd: dict[Tenant, Annotated[float, Field(ge=0)]] = Field(default={})

    @model_validator(mode="after")
    def _with_effect(self) -> Self:
        if self.default_usd is None and not self.tenants_usd:
            raise ValueError(
                "no budget is set: give `default_usd` or `tenants_usd`, or leave `budgets` out"
            )
        return self

    def limit_of(self, tenant: str) -> int | None:
        usd = self.tenants_usd.get(tenant, self.default_usd)
        return None if usd is None else round(usd * NANO)


class TokenBudgetsConfig(PeriodConfig):
    """How many tokens each tenant may use, of prompts and answers together, over all replicas
    together; what is not covered gets 429."""

    unit: ClassVar[Unit] = "tokens"
    default_tokens: int | None = Field(default=None, ge=0)
    """Of each tenant that is not named, and of all callers without a key together; null: as many as
    they like."""
    tenants_tokens: dict[Tenant, Annotated[int, Field(ge=0)]] = Field(default={})

    @model_validator(mode="after")
    def _with_effect(self) -> Self:
        if self.default_tokens is None and not self.tenants_tokens:
            raise ValueError(
                "no budget is set: give `default_tokens` or `tenants_tokens`, or leave "
                "`token_budgets` out"
            )
        return self

    def limit_of(self, tenant: str) -> int | None:
        return self.tenants_tokens.get(tenant, self.default_tokens)
