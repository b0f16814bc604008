"""Feature flags for OpenFeature: a provider that holds them in memory.

Whatever speaks OpenFeature's API may ask it. The evaluation context has the attributes `tenant` (a
text) and `headers` (texts by name, in lower case), and the unit as its targeting key.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from openfeature.evaluation_context import EvaluationContext
from openfeature.exception import ErrorCode
from openfeature.flag_evaluation import (
    FlagResolutionDetails,
    FlagType,
    FlagValueType,
    Reason,
)
from openfeature.hook import Hook
from openfeature.provider import AbstractProvider, Metadata

from rayapp.config.routing import FlagConfig, TargetingConfig
from rayapp.serve.endpoints.split import Division
from rayapp.serve.matching import Matcher, matcher

PROPENSITY = "propensity"
"""In the metadata: the probability with which such a unit gets the variant that it got. Where the
units are divided, PROPENSITY.variant has that of each variant."""
TENANT = "tenant"
HEADERS = "headers"
Found = FlagResolutionDetails[Any]


class Provider(AbstractProvider):
    """`flags` may be exchanged at any time, from any thread."""

    def __init__(self) -> None:
        super().__init__()
        self.flags: Mapping[str, Flag] = {}

    def get_metadata(self) -> Metadata:
        return Metadata(name="rayapp")

    def get_provider_hooks(self) -> list[Hook]:
        return []

    def resolve_boolean_details(
        self,
        flag_key: str,
        default_value: bool,
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[bool]:
        return self._resolve(FlagType.BOOLEAN, flag_key, default_value, evaluation_context)

    def resolve_string_details(
        self,
        flag_key: str,
        default_value: str,
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[str]:
        return self._resolve(FlagType.STRING, flag_key, default_value, evaluation_context)

    def resolve_integer_details(
        self,
        flag_key: str,
        default_value: int,
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[int]:
        return self._resolve(FlagType.INTEGER, flag_key, default_value, evaluation_context)

    def resolve_float_details(
        self,
        flag_key: str,
        default_value: float,
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[float]:
        return self._resolve(FlagType.FLOAT, flag_key, default_value, evaluation_context)

    def resolve_object_details(
        self,
        flag_key: str,
        default_value: Sequence[FlagValueType] | Mapping[str, FlagValueType],
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[Sequence[FlagValueType] | Mapping[str, FlagValueType]]:
        """No flag of ours has an object for its value."""
        return self._resolve(FlagType.OBJECT, flag_key, default_value, evaluation_context)

    def _resolve(
        self, kind: FlagType, name: str, default: Any, context: EvaluationContext | None
    ) -> Found:
        flag = self.flags.get(name)
        if flag is None:
            what = f"flag {name!r} is not published"
            return _error(default, ErrorCode.FLAG_NOT_FOUND, what)
        if kind != flag.kind:
            what = f"flag {name!r} has values of the type {flag.kind}, not {kind}"
            return _error(default, ErrorCode.TYPE_MISMATCH, what)
        found = flag.resolve(context or EvaluationContext())
        if found is None:
            what = f"flag {name!r} divides units, and none was given as the targeting key"
            return _error(default, ErrorCode.TARGETING_KEY_MISSING, what)
        return found


class Flag:
    """One flag, with every answer that it can give made beforehand."""

    def __init__(self, name: str, config: FlagConfig) -> None:
        self.kind = _kind(config)
        self.variants = frozenset(config.variants)
        conditions = [entry.when for entry in config.targeting if entry.when is not None]
        self.headers = frozenset(name for when in conditions for name in when.headers or ())
        """Those on which an answer may depend."""
        values = {
            variant: float(value) if self.kind == FlagType.FLOAT else value
            for variant, value in config.variants.items()
        }
        self._entries: list[_Entry] = []
        if config.is_enabled:
            salt = f"flag/{name}/{config.salt or ''}"  # two flags are independent of each other
            self._entries = [_Entry(e, config.default, values, salt) for e in config.targeting]
        reason = Reason.DEFAULT if config.targeting else Reason.STATIC
        reason = reason if config.is_enabled else Reason.DISABLED
        self._default = _found(config.default, values, reason)

    def resolve(self, context: EvaluationContext) -> Found | None:
        """None where a unit is needed and the context has none."""
        attributes: Mapping[str, Any] = context.attributes
        tenant, headers = attributes.get(TENANT), attributes.get(HEADERS) or {}
        for entry in self._entries:
            if entry.matcher is None or entry.matcher.matches(tenant, headers):
                return entry.answer(context.targeting_key)
        return self._default


class _Entry:
    """One of `targeting`."""

    def __init__(
        self, config: TargetingConfig, default: str, values: Mapping[str, Any], salt: str
    ) -> None:
        self.matcher: Matcher[str] | None = matcher(config.when) if config.when else None
        self._division = Division(config.shares, salt) if config.shares else None
        if self._division is None:
            only = _found(config.variant or default, values, Reason.TARGETING_MATCH)
            self._answers: dict[str | None, Found] = {None: only}
            return
        chances = {**(config.shares or {}), default: self._division.rest}
        self._answers = {
            None if variant == default else variant: _found(variant, values, Reason.SPLIT, chances)
            for variant in chances
        }

    def answer(self, unit: str | None) -> Found | None:
        if self._division is None:
            return self._answers[None]
        return self._answers[self._division.of(unit)] if unit is not None else None


def _found(
    variant: str,
    values: Mapping[str, Any],
    reason: Reason,
    chances: Mapping[str, float] | None = None,
) -> Found:
    metadata = {PROPENSITY: chances[variant] if chances is not None else 1.0}
    metadata |= {f"{PROPENSITY}.{name}": chance for name, chance in (chances or {}).items()}
    return FlagResolutionDetails(
        values[variant], reason=reason, variant=variant, flag_metadata=metadata
    )


def _error(default: Any, code: ErrorCode, what: str) -> Found:
    return FlagResolutionDetails(default, error_code=code, error_message=what, reason=Reason.ERROR)


def _kind(config: FlagConfig) -> FlagType:
    kinds = {type(value) for value in config.variants.values()}
    if float in kinds:
        return FlagType.FLOAT
    kind = kinds.pop()
    return {bool: FlagType.BOOLEAN, int: FlagType.INTEGER, str: FlagType.STRING}[kind]
