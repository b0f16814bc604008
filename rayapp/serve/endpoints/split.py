"""Units are divided among endpoints, each unit always to the same one.

A unit is what the caller says it is (the header x-unit-id), else the first row's business key, else
the request itself, which is then not sticky. A salted hash of it is a number in [0, 1): the arms
are asked in order, and each takes those whose number, hashed anew for it, lies under its part of
what is left. So a larger share only adds units to an arm, and arms with other salts divide
independently of each other.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from rayapp.schemas.traffic import UNIT_ID
from rayapp.serve.endpoints.base import Ask, Endpoint, Reply
from rayapp.serve.protocols import is_missing

UNIT_HEADER = b"x-unit-id"
REST = "champion"
"""The arm of everybody whom no other arm takes."""


@dataclass(frozen=True)
class Arm:
    """share: of all units."""

    name: str
    share: float
    endpoint: Endpoint


class Split:
    """rest: answers for the units that no arm takes."""

    def __init__(self, rest: Endpoint, arms: Sequence[Arm], salt: str) -> None:
        self._salt = salt
        left = 1.0
        self._steps: list[tuple[Arm, float]] = []
        for arm in arms:
            self._steps.append((arm, min(1.0, arm.share / left) if left > 0 else 0.0))
            left -= arm.share
        self._rest = Arm(REST, max(0.0, left), rest)

    async def predict(self, ask: Ask) -> Reply:
        arm = self.arm_of(unit_of(ask))
        reply = await arm.endpoint.predict(ask)
        return replace(reply, arm=arm.name, propensity=arm.share)

    def arm_of(self, unit: str) -> Arm:
        for arm, part in self._steps:
            if position(f"{self._salt}/{arm.name}", unit) < part:
                return arm
        return self._rest


def unit_of(ask: Ask) -> str:
    given = ask.headers.get(UNIT_HEADER)
    if given is not None:
        return given.decode("latin-1")
    columns: Mapping[str, Sequence[object]] = ask.parsed.columns
    keys = columns.get(UNIT_ID)
    if keys is not None and len(keys):
        first = keys[0]
        plain = first.as_py() if hasattr(first, "as_py") else first
        if not is_missing(plain):
            return str(plain)
    return ask.request_id


def position(salt: str, unit: str) -> float:
    """A number in [0, 1), the same for the same salt and unit, uniform over units."""
    digest = hashlib.blake2b(f"{salt}/{unit}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64
