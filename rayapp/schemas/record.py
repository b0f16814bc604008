"""The base of every stored noun: immutable, closed, and identified by the digest of its content."""

import hashlib
import json
from typing import Any, ClassVar, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)


class Record(BaseModel):
    """A frozen value that is stored as canonical JSON. Unknown fields are an error, not a guess."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    def canonical(self) -> bytes:
        """The one byte string that this value has: sorted keys, no spaces, UTF-8."""
        return canonical_json(self.model_dump(mode="json"))

    def content_digest(self) -> str:
        return hashlib.sha256(self.canonical()).hexdigest()

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        return cls.model_validate_json(raw)


class GrownRecord(Record):
    """A record that has got fields since the first ones were stored, `ADDED`. They are left out
    where they are as by default, so that older ones keep their digests."""

    ADDED: ClassVar[tuple[str, ...]]

    @model_serializer(mode="wrap")
    def _as_it_was(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        found: dict[str, Any] = serialise(self)
        for name in self.ADDED:
            if getattr(self, name) == type(self).model_fields[name].default:
                found.pop(name, None)  # who dumps it may have excluded it already
        return found


def mismatch(error: ValidationError) -> str:
    """The first thing that a record's class did not expect: `place: what`."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{place}: {first['msg']}" if place else first["msg"]


SHORT_CHARS = 12


def short(digest: str) -> str:
    """As much of it as people are shown, and may name it by."""
    return digest[:SHORT_CHARS]


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys and no spaces. Raises ValueError on NaN, which has no JSON form."""
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode()
