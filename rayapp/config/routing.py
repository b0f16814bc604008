"""Who answers which request: the rules of an endpoint, and configs/flags/*.yaml, which rules may
ask.

    load(FlagsConfig, "configs/flags/flight_delay.yaml")
"""

import math
import re
from collections.abc import Collection, Sequence
from typing import Annotated, Any, Protocol, Self

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from rayapp.config.load import Config
from rayapp.schemas.traffic import TENANT

EndpointName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$")]
ReleaseId = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Share = Annotated[float, Field(gt=0, le=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_.-]{0,62}$")]


def _tenant(name: str) -> str:
    if not TENANT.fullmatch(name):
        raise ValueError("no tenant can have this name: it is 1 to 63 of a-z 0-9 -, a letter first")
    return name


Tenant = Annotated[str, AfterValidator(_tenant)]
"""As `rayapp keys create` takes it."""
CHAMPION = "champion"
"""Whom nobody else takes is on this arm."""
_HEADER_NAME = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"[!-~]([ -~]*[!-~])?")
IDENTITY_HEADERS = frozenset(
    {
        *("authorization", "proxy-authorization", "cookie"),
        *("x-unit-id", "x-request-id", "traceparent", "tracestate"),
    }
)
"""Who asks is known by the credential alone, and what a unit is by no rule."""


class Target(Config):
    """Who answers: the champion of an endpoint, or one release of this endpoint."""

    endpoint: EndpointName | None = None
    release: ReleaseId | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.endpoint is None) == (self.release is None):
            raise ValueError("name either an `endpoint` or a `release`")
        return self


def _listed(given: Any) -> Any:
    return (given,) if isinstance(given, str) else given


Values = Annotated[tuple[str, ...], Field(min_length=1), BeforeValidator(_listed)]


class ConditionConfig(Config):
    """Which requests are meant: those for which everything that is given here holds."""

    tenants: tuple[Tenant, ...] | None = Field(default=None, min_length=1)
    """One of these; tenants are known by their API keys."""
    headers: dict[str, Values] | None = Field(default=None, min_length=1)
    """The value that each of these headers of the request must have, or a list of those that it may
    have. Names are the same in capital and small letters, values are not."""

    @field_validator("tenants")
    @classmethod
    def _distinct(cls, tenants: tuple[str, ...] | None) -> tuple[str, ...] | None:
        _require_distinct(tenants or ())
        return tenants

    @field_validator("headers")
    @classmethod
    def _possible(cls, headers: dict[str, Values] | None) -> dict[str, Values] | None:
        if headers is None:
            return None
        _require_distinct([name.lower() for name in headers])
        for name, values in headers.items():
            if not _HEADER_NAME.fullmatch(name.lower()):
                raise ValueError(f"{name!r} is no name that a header can have")
            if name.lower() in IDENTITY_HEADERS:
                raise ValueError(f"{name!r} says who asks or what for, which no condition may use")
            impossible = [value for value in values if not _HEADER_VALUE.fullmatch(value)]
            if impossible:
                raise ValueError(f"{name}: {impossible[0]!r} is no value that a header can have")
            _require_distinct(values)
        return {name.lower(): values for name, values in headers.items()}

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if not any(getattr(self, name) for name in type(self).model_fields):
            raise ValueError("an empty condition is met by every request: say which are meant")
        return self

    def covers(self, other: Self) -> bool:
        """Whether it is met by every request by which the other one is."""
        if self.tenants and not (other.tenants and set(other.tenants) <= set(self.tenants)):
            return False
        theirs = other.headers or {}
        return all(
            name in theirs and set(theirs[name]) <= set(values)
            for name, values in (self.headers or {}).items()
        )


class WhenConfig(ConditionConfig):
    flag: Name | None = None
    """A feature flag (rayapp flags publish). While it is not published, the rule takes nothing."""
    is_: Name | None = Field(default=None, alias="is")
    """The variant that the flag must have."""

    @model_validator(mode="after")
    def _both(self) -> Self:
        if (self.flag is None) != (self.is_ is None):
            raise ValueError("`flag` and `is` go together: a flag and the variant it must have")
        return self

    @property
    def asked(self) -> tuple[str, str] | None:
        """The flag and the variant that it must have; None where no flag is asked."""
        return None if self.flag is None or self.is_ is None else (self.flag, self.is_)

    def covers(self, other: Self) -> bool:
        return self.asked in (None, other.asked) and super().covers(other)


class RuleConfig(Target):
    """Requests that somebody else than the champion answers, whatever a split says."""

    name: Name
    """The arm's name in the prediction log."""
    when: WhenConfig


class AnyRule(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def when(self) -> WhenConfig: ...


def check_rules(rules: Sequence[AnyRule], arms: Collection[str]) -> None:
    """arms: names of the split's. Raises ValueError for rules of which one has no effect, or could
    not be told from another arm in the prediction log."""
    taken = {CHAMPION, *arms}
    for number, rule in enumerate(rules):
        if rule.name in taken:
            raise ValueError(f"`rules`: {rule.name!r} is the name of another arm already")
        taken.add(rule.name)
        covering = next((r.name for r in rules[:number] if r.when.covers(rule.when)), None)
        if covering is not None:
            raise ValueError(
                f"`rules`: {rule.name} has no effect: {covering}, which comes first, takes every "
                "request that it would take"
            )


def _plain(value: Any) -> Any:
    if not isinstance(value, bool | int | float | str) or value in (math.inf, -math.inf):
        raise ValueError("a variant's value is text, a number, true or false")
    if value != value:  # NaN
        raise ValueError("a variant's value must be a number that equals itself")
    return value


Value = Annotated[bool | int | float | str, BeforeValidator(_plain)]


class TargetingConfig(Config):
    """Which variant some requests get."""

    when: ConditionConfig | None = None
    """null: all that no entry before takes."""
    variant: Name | None = None
    shares: dict[Name, Share] | None = Field(default=None, min_length=1)
    """Of the units, by variant. The same unit stays with its variant; a larger share only adds
    units to it. What they leave has the default variant."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.variant is None) == (self.shares is None):
            raise ValueError("give either a `variant` or `shares`")
        if self.when is None and self.variant is not None:
            raise ValueError("a `variant` without `when` is what `default` says")
        total = sum((self.shares or {}).values())
        if total > 1 + 1e-9:
            raise ValueError(f"`shares` are {total:g} together, at most 1 is possible")
        return self

    def variants(self) -> set[str]:
        return set(self.shares or ()) | ({self.variant} if self.variant is not None else set())


class FlagConfig(Config):
    """A named choice between variants, which may differ from request to request."""

    variants: dict[Name, Value] = Field(min_length=1)
    """By name; all of one kind: texts, numbers, or true and false."""
    default: Name
    """The variant of requests that no entry of `targeting` takes."""
    is_enabled: bool = True
    """false: everybody gets the default variant."""
    targeting: tuple[TargetingConfig, ...] = ()
    """The first entry whose condition holds decides."""
    salt: str | None = Field(default=None, min_length=1)
    """Another salt divides the units of `shares` anew, independently of the old one."""

    @model_validator(mode="after")
    def _known(self) -> Self:
        named = {self.default}.union(*(entry.variants() for entry in self.targeting))
        unknown = sorted(named - self.variants.keys())
        if unknown:
            raise ValueError(f"{unknown[0]!r} is none of the `variants` {sorted(self.variants)}")
        kinds = {type(value) for value in self.variants.values()}
        if len(kinds) > 1 and kinds != {int, float}:
            raise ValueError("the values of `variants` must be of one kind")
        return self

    @model_validator(mode="after")
    def _with_effect(self) -> Self:
        for number, entry in enumerate(self.targeting):
            if self.default in (entry.shares or {}):
                raise ValueError(
                    f"`targeting`: {self.default!r} cannot be among the shares of entry "
                    f"{number + 1}: the default variant gets the rest"
                )
            before = self.targeting[:number]
            if any(_covers(earlier.when, entry.when) for earlier in before):
                raise ValueError(
                    f"`targeting`: entry {number + 1} has no effect: one before it takes every "
                    "request that it would take"
                )
        if self.salt and not any(entry.shares for entry in self.targeting):
            raise ValueError("`salt` has no effect without `shares`")
        return self


def _covers(earlier: ConditionConfig | None, later: ConditionConfig | None) -> bool:
    return earlier is None or (later is not None and earlier.covers(later))


class FlagsConfig(Config):
    """Feature flags that are published together: rayapp flags publish."""

    name: Name
    """Of the set. Publishing it again replaces the set; one without flags withdraws it."""
    flags: dict[Name, FlagConfig]
    """By name, which no other published set may have."""


def _require_distinct(names: Sequence[str]) -> None:
    twice = next((name for name in names if list(names).count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{twice!r} is listed twice")
