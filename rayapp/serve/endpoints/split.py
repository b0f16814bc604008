"""Units are divided among endpoints, each unit always to the same one.

A unit is what the ask says it is. A request with rows of several units is not divided: the champion
answers, and no assignment is noted.

A salted hash of the unit is a number in [0, 1): the arms are asked in order, and each takes those
whose number, hashed anew for it, lies under its part of what is left. So a larger share only adds
units to an arm (to a later one perhaps less: what an earlier arm takes is gone), and splits with
other salts are independent of each other.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic

from rayapp.config.routing import CHAMPION
from rayapp.serve.endpoints.base import AnyEndpoint, AskT, Assignment, ReplyT, propensity_of

REST = CHAMPION
"""The arm of everybody whom no other arm takes."""


@dataclass(frozen=True)
class Arm(Generic[AskT, ReplyT]):
    """share: of all units."""

    name: str
    share: float
    endpoint: AnyEndpoint[AskT, ReplyT]


class Division:
    """Units among names by their shares, sticky. rest: the share that is left."""

    def __init__(self, shares: Mapping[str, float], salt: str) -> None:
        left = 1.0
        self._steps: list[tuple[str, str, float]] = []
        for name, share in shares.items():
            part = min(1.0, share / left) if left > 0 else 0.0
            self._steps.append((name, f"{salt}/{name}", part))
            left -= share
        self.rest = max(0.0, left)

    def of(self, unit: str) -> str | None:
        """None for a unit of the rest."""
        for name, salt, part in self._steps:
            if position(salt, unit) < part:
                return name
        return None


class Split(Generic[AskT, ReplyT]):
    """rest: answers for the units that no arm takes."""

    def __init__(
        self, rest: AnyEndpoint[AskT, ReplyT], arms: Sequence[Arm[AskT, ReplyT]], salt: str
    ) -> None:
        self._division = Division({arm.name: arm.share for arm in arms}, salt)
        self._arms = {arm.name: arm for arm in arms}
        self._rest = Arm(REST, self._division.rest, rest)

    async def predict(self, ask: AskT) -> ReplyT:
        unit = ask.unit
        if unit is None:
            return await self._rest.endpoint.predict(ask)
        arm = self.arm_of(unit)
        ask.assignment = Assignment(arm.name, arm.share * propensity_of(ask), unit)
        return await arm.endpoint.predict(ask)

    def arm_of(self, unit: str) -> Arm[AskT, ReplyT]:
        name = self._division.of(unit)
        return self._rest if name is None else self._arms[name]


def position(salt: str, unit: str) -> float:
    """A number in [0, 1), the same for the same salt and unit, uniform over units."""
    digest = hashlib.blake2b(f"{salt}/{unit}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64
