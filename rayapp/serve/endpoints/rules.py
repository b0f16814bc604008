"""Requests that a rule gives to somebody else than the champion, before any split.

The first rule whose condition holds says who answers. A rule on a feature flag that divides units
takes a share of them; then what is left for the rules after it, for the split and for the champion
is a share too, and the assignment has the probability of the whole way:

    rules: f is a, f is b, g is c      P(f = a), P(f = b), P(f is neither) · P(g = c)

Flags divide units independently of each other, so probabilities of different flags multiply.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Generic

from rayapp.config.routing import AnyRule
from rayapp.serve.endpoints.base import AnyEndpoint, AskT, Assignment, ReplyT
from rayapp.serve.endpoints.split import REST
from rayapp.serve.flags import Decisions, Flags
from rayapp.serve.matching import Matcher, wire_matcher


@dataclass(frozen=True)
class Rule(Generic[AskT, ReplyT]):
    """flag: the one it asks and the variant that it must have, None for a rule without one."""

    name: str
    matcher: Matcher[bytes]
    flag: tuple[str, str] | None
    endpoint: AnyEndpoint[AskT, ReplyT]

    @classmethod
    def of(cls, config: AnyRule, endpoint: AnyEndpoint[AskT, ReplyT]) -> "Rule[AskT, ReplyT]":
        return cls(config.name, wire_matcher(config.when), config.when.asked, endpoint)


class Rules(Generic[AskT, ReplyT]):
    """rest: answers what no rule takes. flags: None where none are published here."""

    def __init__(
        self,
        rest: AnyEndpoint[AskT, ReplyT],
        rules: Sequence[Rule[AskT, ReplyT]],
        flags: Flags | None = None,
    ) -> None:
        self._rest = rest
        self._rules = rules
        self._flags = flags

    async def predict(self, ask: AskT) -> ReplyT:
        unit = ask.unit
        rule, propensity = self._chosen(ask, unit)
        ask.assignment = Assignment(REST if rule is None else rule.name, propensity, unit)
        return await (self._rest if rule is None else rule.endpoint).predict(ask)

    def _chosen(self, ask: AskT, unit: str | None) -> tuple[Rule[AskT, ReplyT] | None, float]:
        """The rule that takes the request, None where none does; and the probability of that."""
        decisions: Decisions | None = None
        passed: dict[str, dict[str, float]] = {}  # flag → variants it might have had, and did not
        for rule in self._rules:
            if not rule.matcher.matches(ask.tenant, ask.headers):
                continue
            if rule.flag is None:
                return rule, _left(passed)
            if self._flags is None:
                continue
            if decisions is None:
                decisions = self._flags.decisions(ask.tenant, unit, ask.headers)
            name, variant = rule.flag
            decision = decisions.of(name)
            if decision is None:
                continue
            if decision.variant == variant:
                passed.pop(name, None)
                return rule, decision.propensity(variant) * _left(passed)
            passed.setdefault(name, {})[variant] = decision.propensity(variant)
        return None, _left(passed)


def _left(passed: Mapping[str, Mapping[str, float]]) -> float:
    """The probability that a unit has none of these variants."""
    return prod(max(0.0, 1 - sum(chances.values())) for chances in passed.values())
