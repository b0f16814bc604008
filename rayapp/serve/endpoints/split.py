"""Units are divided among endpoints, each unit always to the same one.

A unit is what the caller says it is (the header x-unit-id), else the rows' business key, else the
request itself, which is then not sticky. A request with rows of several units is not divided: the
champion answers, and no assignment is noted.

A salted hash of the unit is a number in [0, 1): the arms are asked in order, and each takes those
whose number, hashed anew for it, lies under its part of what is left. So a larger share only adds
units to an arm (to a later one perhaps less: what an earlier arm takes is gone), and splits with
other salts are independent of each other.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rayapp.config.routing import CHAMPION
from rayapp.schemas.traffic import UNIT_ID
from rayapp.serve.endpoints.base import Ask, Assignment, Endpoint, Reply
from rayapp.serve.wire.protocols import is_key, key_text

UNIT_HEADER = b"x-unit-id"
REST = CHAMPION
"""The arm of everybody whom no other arm takes."""


@dataclass(frozen=True)
class Arm:
    """share: of all units."""

    name: str
    share: float
    endpoint: Endpoint


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


class Split:
    """rest: answers for the units that no arm takes."""

    def __init__(self, rest: Endpoint, arms: Sequence[Arm], salt: str) -> None:
        self._division = Division({arm.name: arm.share for arm in arms}, salt)
        self._arms = {arm.name: arm for arm in arms}
        self._rest = Arm(REST, self._division.rest, rest)

    async def predict(self, ask: Ask) -> Reply:
        unit = unit_of(ask)
        if unit is None:
            return await self._rest.endpoint.predict(ask)
        arm = self.arm_of(unit)
        ask.assignment = Assignment(arm.name, arm.share * ask.propensity, unit)
        return await arm.endpoint.predict(ask)

    def arm_of(self, unit: str) -> Arm:
        name = self._division.of(unit)
        return self._rest if name is None else self._arms[name]


def unit_of(ask: Ask) -> str | None:
    """None for a request with rows of several units."""
    given = ask.headers.get(UNIT_HEADER)
    if given is not None:
        return given.decode("latin-1")
    keys = ask.parsed.plain(UNIT_ID) or ()
    units = {key_text(key) for key in keys if is_key(key)}
    if len(units) > 1:
        return None
    return next(iter(units), None) or ask.request_id


def position(salt: str, unit: str) -> float:
    """A number in [0, 1), the same for the same salt and unit, uniform over units."""
    digest = hashlib.blake2b(f"{salt}/{unit}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64
