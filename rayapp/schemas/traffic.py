"""Nouns of online traffic: one prediction as it is logged, and what people say of it later."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from types import NoneType
from typing import Any, Literal

from pydantic import Field, FiniteFloat, field_validator

from rayapp.schemas.record import Record

UNIT_ID = "id"
"""The column in which a caller sends each row's business key, beside the model's own inputs."""

REFUSED = "x-rayapp-refused"
"""The header by which HAProxy knows a refusal that would meet any request of this caller: over its
rate, or too much to do. Callers do not get it."""
KEPT_OUT = "x-rayapp-kept-out"
"""The header in which HAProxy tells how many requests of this caller it has refused since it last
told; it lets nobody else send it."""

SHADOW = ".shadow"
"""Ends the name under which a shadow's answers are logged; no endpoint has a dot in its name."""
LARGEST_ROW = 2**31 - 1
STATIC = "static"
"""The release id of a declared answer, which no release gave."""


TENANT = re.compile(r"[a-z][a-z0-9-]{0,62}")
"""A tenant's name: 1 to 63 of a-z 0-9 -, a letter first."""
Role = Literal["caller", "reader"]
"""What a key may do: `caller` everything, `reader` look at endpoints but not ask them."""
KEY_POINTER = "key/"
"""Begins the names of the ledger's pointers that say which keys there are."""
KEY_MARK = "rk_"
"""Begins the text of each key."""
KEY_HEAD = KEY_MARK + "([0-9a-f]{12})_"
"""A pattern of what stands before the secret, with the key's id."""
KEY_TEXT = KEY_HEAD + "([A-Za-z0-9_-]{20,100})"
"""A pattern of a key as its owner has it, with its id and its secret."""


NANO = 10**9
"""Money is whole billionths of a US dollar, so that sums are exact: names end in _nano_usd."""
Unit = Literal["nano_usd", "tokens"]
"""What a budget is counted in: billionths of a US dollar, or tokens of language models."""


def is_shadows(endpoint: str) -> bool:
    """Whether what is logged under this name is a shadow's, which nobody got."""
    return endpoint.endswith(SHADOW)


@dataclass(frozen=True, slots=True)
class Loan:
    """Part of a tenant's budget in one gateway's hands, in the budget's unit."""

    loan_id: str
    amount: int


@dataclass(frozen=True, slots=True)
class NoLoan:
    """Less is left than was asked for. coverable: the most that may be left in this period, once
    others have returned all that is lent to them."""

    coverable: int


class ApiKey(Record):
    """One key as it is stored: who it stands for, and a digest that its secret must have. The
    secret itself is random and long, so a plain SHA-256 of it cannot be searched for."""

    key_id: str
    tenant: str
    role: Role
    secret_sha256: str
    is_revoked: bool = False

    def text(self, secret: str) -> str:
        """As its owner has it: KEY_TEXT."""
        return f"{KEY_MARK}{self.key_id}_{secret}"


class PredictionRecord(Record):
    """One answered row. Spooled before the response leaves; committed to a table exactly once.

    unit_id is the row's business key when the caller sends one (`id` of the row), which is how an
    outcome that arrives later finds its prediction. degraded: why another than the intended model
    answered, or None. arm: the rule that took the request, or which of several that may answer was
    chosen for `unit`, with the probability (propensity) that such a one had of it; None where
    nothing was chosen. tenant: of the key that asked, None where none was sent. trace_id: of the
    trace that the caller was in, where it said so, else of the one that began with the request,
    where it was traced. cost_nano_usd: billionths of a dollar, where the endpoint has a price;
    loan_id: what of the tenant's budget paid it, where there is one. feature_age_s: of the oldest
    feature value that was looked up; None where none was.
    """

    request_id: str
    row: int
    endpoint: str
    release_id: str
    at: datetime
    unit_id: str | None
    inputs: dict[str, Any]
    scores: tuple[float, ...]
    latency_ms: float
    degraded: str | None = None
    arm: str | None = None
    propensity: float | None = None
    unit: str | None = None
    tenant: str | None = None
    trace_id: str | None = None
    cost_nano_usd: int | None = None
    loan_id: str | None = None
    feature_age_s: float | None = None


class Feedback(Record):
    """What happened after an answer: an outcome (label), a rating (score) or words (comment). What
    a table could not hold is no feedback: a commit that met it would fail forever."""

    request_id: str
    row: int = Field(default=0, ge=0, le=LARGEST_ROW)
    at: datetime
    label: str | bool | FiniteFloat | None = None
    score: FiniteFloat | None = None
    comment: str | None = None

    @field_validator("row", "score", mode="before")
    @classmethod
    def _is_number(cls, given: Any) -> Any:
        if type(given) not in (int, float, NoneType):
            raise ValueError("must be a number")
        return given

    @field_validator("at", mode="before")
    @classmethod
    def _is_time(cls, given: Any) -> Any:
        if not isinstance(given, str | datetime):
            raise ValueError("must be an ISO 8601 time")
        return given

    @field_validator("at")
    @classmethod
    def _in_utc(cls, at: datetime) -> datetime:
        """A time without a zone is taken to be in UTC."""
        try:
            return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
        except OverflowError:
            raise ValueError("must lie in the years 1 to 9999 in UTC") from None
