"""The feature flags that a gateway knows, and what they say of one request."""

import logging
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from openfeature import api
from openfeature.evaluation_context import EvaluationContext
from openfeature.flag_evaluation import FlagEvaluationDetails, FlagType

from rayapp.config.routing import AnyRule, FlagConfig
from rayapp.errors import public_reason
from rayapp.serve.flag_provider import HEADERS, PROPENSITY, TENANT, Flag, Provider

log = logging.getLogger("rayapp.serve.flags")


@dataclass(frozen=True, slots=True)
class Decision:
    """The variant that a flag has for one request."""

    variant: str
    metadata: Mapping[str, Any]

    def propensity(self, variant: str) -> float:
        """The probability with which such a unit gets this variant."""
        if variant == self.variant:
            return float(self.metadata[PROPENSITY])
        return float(self.metadata.get(f"{PROPENSITY}.{variant}", 0.0))


class Flags:
    """`refresh` reads what is published and may run in any thread. read_flags: flag → flag."""

    def __init__(self, read_flags: Callable[[], Mapping[str, FlagConfig]]) -> None:
        self._read_flags = read_flags
        self._read: Mapping[str, FlagConfig] = {}
        self.problem: str | None = None
        """Why what is published now could not be read, as callers may know it."""
        self._provider = Provider()
        domain = f"rayapp/{secrets.token_hex(4)}"  # of this gateway alone, whoever else is here
        api.set_provider_and_wait(self._provider, domain)
        self._client = api.get_client(domain)
        self._headers: tuple[tuple[bytes, str], ...] = ()

    def refresh(self) -> None:
        """Never raises: while they cannot be read, the flags that were known still count."""
        try:
            read = dict(self._read_flags())
        except Exception as error:  # a database driver's own errors too
            problem = public_reason(error)
            if problem != self.problem:  # a poll repeats itself, the log need not
                log.exception("flags_not_read")
            self.problem = problem
            return
        self.problem = None
        if read == self._read:
            return
        flags = {name: Flag(name, config) for name, config in read.items()}
        # Requests go on meanwhile: what either version asks for must be there for both.
        self._headers = _wire_names([*flags.values(), *self._provider.flags.values()])
        self._provider.flags, self._read = flags, read
        self._headers = _wire_names(flags.values())
        log.info("flags_changed", extra={"flags": sorted(read)})

    def problems(self, rules: Mapping[str, Sequence[AnyRule]]) -> dict[str, str]:
        """What keeps a rule from ever taking a request, as `name/rule`, and `_flags`, which no
        endpoint is called, where those that are published cannot be read. rules: by the name of
        whose they are."""
        found = {
            f"{name}/{rule.name}": lack
            for name, own in rules.items()
            for rule in own
            if (lack := lack_of(rule, self._read)) is not None
        }
        if self.problem is not None:
            found["_flags"] = f"the flags cannot be read: {self.problem}"
        return found

    def decisions(
        self, tenant: str | None, unit: str | None, headers: Mapping[bytes, bytes]
    ) -> "Decisions":
        """Of one request."""
        seen = {
            name: headers[wire].decode("latin-1") for wire, name in self._headers if wire in headers
        }
        attributes: dict[str, Any] = {HEADERS: seen}
        if tenant is not None:
            attributes[TENANT] = tenant
        return Decisions(self._ask, EvaluationContext(unit, attributes))

    def _ask(self, name: str, context: EvaluationContext) -> FlagEvaluationDetails[Any] | None:
        """None for a flag that is not published."""
        flag = self._provider.flags.get(name)
        if flag is None:
            return None
        client = self._client
        match flag.kind:
            case FlagType.BOOLEAN:
                return client.get_boolean_details(name, False, context)
            case FlagType.INTEGER:
                return client.get_integer_details(name, 0, context)
            case FlagType.FLOAT:
                return client.get_float_details(name, 0.0, context)
            case _:
                return client.get_string_details(name, "", context)


def _wire_names(flags: Iterable[Flag]) -> tuple[tuple[bytes, str], ...]:
    names = sorted({header for flag in flags for header in flag.headers})
    return tuple((name.encode(), name) for name in names)


class Decisions:
    """Each flag is evaluated when it is first asked, and once."""

    def __init__(
        self,
        evaluate: Callable[[str, EvaluationContext], FlagEvaluationDetails[Any] | None],
        context: EvaluationContext,
    ) -> None:
        self._evaluate = evaluate
        self._context = context
        self._made: dict[str, Decision | None] = {}

    def of(self, flag: str) -> Decision | None:
        """None where the flag says nothing of this request: it is not published, or divides units
        and the request has rows of several."""
        if flag not in self._made:
            details = self._evaluate(flag, self._context)
            self._made[flag] = (
                None
                if details is None or details.variant is None
                else Decision(details.variant, details.flag_metadata)
            )
        return self._made[flag]


def lack_of(rule: AnyRule, flags: Mapping[str, FlagConfig]) -> str | None:
    """What the rule asks for that is not published, or None. flags: those that are."""
    if rule.when.asked is None:
        return None
    name, variant = rule.when.asked
    flag = flags.get(name)
    if flag is None:
        return f"flag {name!r} is not published"
    return None if variant in flag.variants else f"flag {name!r} has no variant {variant!r}"
