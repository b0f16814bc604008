"""One interface: an endpoint answers an ask. Everything between a request and a model is one.

    Fallback( Split( Cache( Breaker( Release )), … ), … )

Each wraps others, in a small file of its own, and knows neither HTTP nor Ray; build.py puts them
together as the configuration says.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol, Self, TypeVar

from rayapp.errors import DataError, RequestError, Unavailable
from rayapp.families.base import Floats
from rayapp.schemas.model import BundleSchema
from rayapp.schemas.traffic import UNIT_ID
from rayapp.serve.callers.budgets import Charge
from rayapp.serve.wire.protocols import Parsed, is_key, key_text
from rayapp.serve.wire.validation import Rows

_UNIT_HEADER = b"x-unit-id"


@dataclass(frozen=True, slots=True)
class Assignment:
    """Which side of a split a unit is on, or which rule took the request, and the probability with
    which such a one is put there. unit: None where the request has rows of several."""

    arm: str
    propensity: float
    unit: str | None


class AnyAsk(Protocol):
    """What those who stand between a request and a model need of it, whatever it asks for.
    deadline_s: of time.monotonic."""

    assignment: Assignment | None
    """Made by rules and a split on the way, whoever answers in the end."""

    @property
    def request_id(self) -> str: ...
    @property
    def deadline_s(self) -> float: ...
    @property
    def tenant(self) -> str | None:
        """Of the key it came with."""
        ...

    @property
    def headers(self) -> Mapping[bytes, bytes]:
        """Names in lower case."""
        ...

    @property
    def unit(self) -> str | None:
        """Whom it is about, as splits keep it together; None where it is about several."""
        ...

    def until(self, deadline_s: float) -> Self:
        """The same, with less time."""
        ...


def named_unit(headers: Mapping[bytes, bytes]) -> str | None:
    """As the caller says it."""
    given = headers.get(_UNIT_HEADER)
    return None if given is None else given.decode("latin-1")


def propensity_of(ask: AnyAsk) -> float:
    """The probability that such a request gets this far: a rule before may have taken a share of
    the units."""
    return 1.0 if ask.assignment is None else ask.assignment.propensity


class AnyReply(Protocol):
    def instead(self, reason: str) -> Self:
        """The same, labelled as not the intended answer."""
        ...


AskT = TypeVar("AskT", bound=AnyAsk)
ReplyT = TypeVar("ReplyT", bound=AnyReply)
_AskT_contra = TypeVar("_AskT_contra", bound=AnyAsk, contravariant=True)
_ReplyT_co = TypeVar("_ReplyT_co", bound=AnyReply, covariant=True)


class AnyEndpoint(Protocol[_AskT_contra, _ReplyT_co]):
    async def predict(self, ask: _AskT_contra, /) -> _ReplyT_co:
        """Raises RequestError or DataError for what the caller can mend, DeadlineExceeded,
        Unavailable, or whatever the model raises."""
        ...


@dataclass(slots=True)
class Ask:
    """One request on its way. is_long: its rows are better looked at in a thread. deadline_s: of
    time.monotonic. headers: of the request, names in lower case. tenant: of the key it came with.
    looked_up: stands for the feature values that were added to what the caller sent; feature_age_s:
    the age of the oldest. protocol: by which the body was read, with what was told of it beside
    it."""

    request_id: str
    body: bytes
    parsed: Parsed
    is_long: bool = False
    deadline_s: float = math.inf
    headers: Mapping[bytes, bytes] = field(default_factory=dict)
    tenant: str | None = None
    assignment: Assignment | None = None
    looked_up: bytes = b""
    feature_age_s: float | None = None
    protocol: bytes = b""

    @property
    def unit(self) -> str | None:
        """The header's, else the rows' business key, else the request itself."""
        given = named_unit(self.headers)
        if given is not None:
            return given
        keys = self.parsed.plain(UNIT_ID) or ()
        units = {key_text(key) for key in keys if is_key(key)}
        if len(units) > 1:
            return None
        return next(iter(units), None) or self.request_id

    def until(self, deadline_s: float) -> "Ask":
        return replace(self, deadline_s=deadline_s)


class StaleFeature(Unavailable):
    """A value that the model needs is too old to be used. feature: its column."""

    def __init__(self, what: str, next_step: str, feature: str) -> None:
        super().__init__(what, next_step)
        self.args = (what, next_step, feature)
        self.feature = feature


@dataclass(frozen=True, slots=True)
class RowAnswer:
    """Who answered a row, where it need not be who answered the next one, and for how much.
    arm: named here where rows are chosen for, not units."""

    release_id: str
    cost_nano_usd: int
    degraded: str | None = None
    arm: str | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """scores_NK: the answer to the ask's rows, in the terms of `schema`. degraded: why it is not
    the intended answer, or None when it is. charge: what it costs, to be ended by whoever records
    the reply; None where it costs nothing. by_row: one for each row, where they differ or cost
    something else than the endpoint's price; release_id is then the dearest model's that answered
    any."""

    release_id: str
    schema: BundleSchema
    rows: Rows
    scores_NK: Floats
    degraded: str | None = None
    charge: Charge | None = None
    by_row: tuple[RowAnswer, ...] | None = None

    def instead(self, reason: str) -> "Reply":
        return replace(self, degraded=reason)


Endpoint = AnyEndpoint[Ask, Reply]
"""One that answers rows."""


def is_callers_fault(error: BaseException) -> bool:
    """Another model, or another try, would not help; and it says nothing about this one."""
    return isinstance(error, RequestError | DataError)
