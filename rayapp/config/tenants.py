"""What each tenant may ask, and what it may spend."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from rayapp.config.load import Config
from rayapp.config.routing import Tenant
from rayapp.schemas.traffic import NANO, Unit


class RateConfig(Config):
    requests_per_s: float = Field(gt=0)
    burst: float = Field(ge=1)
    """Requests that may come at once after a pause."""


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
