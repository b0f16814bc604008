"""Whether a condition of a config holds for a request."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import AnyStr, Generic

from rayapp.config.routing import ConditionConfig


@dataclass(frozen=True, slots=True)
class Matcher(Generic[AnyStr]):
    """tenants: None where any will do. headers: each with the values that it may have; bytes as
    they come over the wire, or text."""

    tenants: frozenset[str] | None
    headers: tuple[tuple[AnyStr, frozenset[AnyStr]], ...]

    def matches(self, tenant: str | None, headers: Mapping[AnyStr, AnyStr]) -> bool:
        """tenant: None for a caller without a key, who is nobody's tenant."""
        if self.tenants is not None and tenant not in self.tenants:
            return False
        return all(headers.get(name) in values for name, values in self.headers)


def matcher(condition: ConditionConfig) -> Matcher[str]:
    headers = tuple((name, frozenset(values)) for name, values in (condition.headers or {}).items())
    return Matcher(_tenants(condition), headers)


def wire_matcher(condition: ConditionConfig) -> Matcher[bytes]:
    headers = tuple(
        (name.encode(), frozenset(value.encode() for value in values))
        for name, values in (condition.headers or {}).items()
    )
    return Matcher(_tenants(condition), headers)


def _tenants(condition: ConditionConfig) -> frozenset[str] | None:
    return frozenset(condition.tenants) if condition.tenants else None
