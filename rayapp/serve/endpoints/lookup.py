"""Columns that a caller did not send, from feeds of feature values."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from operator import is_
from types import NoneType
from typing import Any

from rayapp.errors import RequestError
from rayapp.schemas.data import Column, ColumnType
from rayapp.schemas.model import BundleSchema
from rayapp.serve.aside import aside
from rayapp.serve.endpoints.base import Ask, Endpoint, Reply, StaleFeature
from rayapp.serve.feeds import Feed, Values
from rayapp.serve.tracing.span import step
from rayapp.serve.wire.oip import DATATYPES
from rayapp.serve.wire.protocols import Parsed, plain_values
from rayapp.serve.wire.validation import typed_column

_PLAIN: dict[ColumnType, frozenset[type]] = {
    "string": frozenset({str, NoneType}),
    "integer": frozenset({int, NoneType}),
    "number": frozenset({int, float, NoneType}),
    "boolean": frozenset({bool, NoneType}),
}
"""Values that are of a key's type at first sight."""


@dataclass(frozen=True)
class Supply:
    """What feeds can add to a model's inputs. tables: with the places of the columns that the model
    has. extra: columns that callers send for a look-up only. lacking: what is not in order with a
    feed that has no values, None where each has some."""

    feeds: tuple[Feed, ...]
    digest: bytes
    tables: tuple[tuple[Values, Mapping[str, int]], ...]
    extra: Mapping[str, Column]
    lacking: str | None


class LookUp:
    """Fills the columns that a release has and a row lacks; what the caller sends itself counts.
    A key that a feed does not know has no values: nulls, as in training.

    Raises StaleFeature for a value that is older than its source's contract allows, or was never
    published. feeds: those of this endpoint. schema: the release's, None where there is none.
    on_read: told whether what was needed was fresh.
    """

    def __init__(
        self,
        inner: Endpoint,
        feeds: Callable[[], Sequence[Feed]],
        schema: Callable[[], BundleSchema | None],
        on_read: Callable[[bool], None] = lambda is_fresh: None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._inner = inner
        self._feeds = feeds
        self._schema = schema
        self._on_read = on_read
        self._now = now
        self._made: tuple[BundleSchema, Supply] | None = None

    async def predict(self, ask: Ask) -> Reply:
        schema = self._schema()
        if schema is None:
            return await self._inner.predict(ask)
        with step("features"):
            filled = await self._filled(ask, schema)
        try:
            return await self._inner.predict(filled)
        finally:  # the caller's own ask goes on to a stand-in, or to the log
            ask.assignment, ask.feature_age_s = filled.assignment, filled.feature_age_s

    async def _filled(self, ask: Ask, schema: BundleSchema) -> Ask:
        supply = self._supply(schema)
        now = self._now()
        filler = _Filler(supply, schema, now)
        try:
            parsed = await aside(partial(filler.fill, ask.parsed), ask.is_long)
        except StaleFeature:
            self._on_read(False)
            raise
        if filler.oldest is None:
            return replace(ask, parsed=parsed, feature_age_s=None)
        self._on_read(True)
        age_s = max(0.0, (now - filler.oldest).total_seconds())
        return replace(ask, parsed=parsed, looked_up=supply.digest, feature_age_s=age_s)

    def _supply(self, schema: BundleSchema) -> Supply:
        feeds = self._feeds()
        if self._made is not None:
            known, supply = self._made
            if known is schema and all(map(is_, supply.feeds, feeds)):
                return supply
        supply = supply_of(schema, feeds)
        self._made = schema, supply
        return supply


def supply_of(schema: BundleSchema, feeds: Sequence[Feed]) -> Supply:
    inputs = {column.name for column in schema.inputs}
    tables = []
    for feed in feeds:
        for values in feed.tables:
            places = {name: i for i, name in enumerate(values.columns) if name in inputs}
            if places:
                tables.append((values, places))
    extra = {
        name: Column(
            name=name, type=kind, nullable=True, description="Features are looked up by it"
        )
        for values, _ in tables
        for name, kind in values.keys.items()
        if name not in inputs
    }
    lacking = [f"feed {feed.name!r} {feed.lacks()}" for feed in feeds if not feed.tables]
    return Supply(
        feeds=tuple(feeds),
        digest=b"".join(feed.digest for feed in feeds),
        tables=tuple(tables),
        extra=extra,
        lacking=lacking[0] if lacking else None,
    )


class _Filler:
    """Of one request. oldest: of the values that were used, once there is one."""

    def __init__(self, supply: Supply, schema: BundleSchema, now: datetime) -> None:
        self._supply = supply
        self._schema = schema
        self._now = now
        self.oldest: datetime | None = None

    def fill(self, parsed: Parsed) -> Parsed:
        for name, column in self._supply.extra.items():  # the model's own check has no such column
            given = parsed.column(name)
            is_plain = isinstance(given, list) and set(map(type, given)) <= _PLAIN[column.type]
            if given is not None and not is_plain:
                typed_column(given, None, column)
        records = parsed.records
        if records is not None:
            filled = [self._record(record) for record in records]
            return replace(parsed, given=filled) if filled != records else parsed
        return self._columns(parsed)

    def _record(self, record: Mapping[str, Any]) -> Mapping[str, Any]:
        self._must_have_feeds(record.keys())
        row = dict(record)
        for values, places in self._supply.tables:
            missing = [name for name in places if name not in record]
            if not missing:
                continue
            key = [_key(record, name, missing[0]) for name in values.keys]
            self._must_be_fresh(values, missing[0])
            found = self._found(values, key)
            for name in missing:
                row[name] = None if found is None else found[places[name]]
        for name in self._supply.extra:
            row.pop(name, None)
        return row

    def _columns(self, parsed: Parsed) -> Parsed:
        columns = dict(parsed.columns)
        self._must_have_feeds(columns.keys())
        datatypes = dict(parsed.datatypes)
        for values, places in self._supply.tables:
            missing = [name for name in places if name not in parsed.columns]
            if not missing:
                continue
            keys = [plain_values(_key(parsed.columns, name, missing[0])) for name in values.keys]
            self._must_be_fresh(values, missing[0])
            each = list(zip(*keys, strict=True)) if keys else [()] * parsed.num_rows
            found = [self._found(values, key) for key in each]
            for name in missing:
                place = places[name]
                columns[name] = [None if row is None else row[place] for row in found]
                if datatypes:
                    datatypes[name] = DATATYPES[values.columns[name]]
        for name in self._supply.extra:
            columns.pop(name, None)
        return replace(parsed, given=columns, datatypes=datatypes)

    def _must_have_feeds(self, names: Any) -> None:
        if self._supply.lacking is None:
            return
        missing = [c.name for c in self._schema.inputs if c.name not in names]
        if missing:
            raise StaleFeature(
                self._supply.lacking,
                "publish it: rayapp submit configs/features/NAME.yaml; or send the column yourself",
                missing[0],
            )

    def _must_be_fresh(self, values: Values, name: str) -> None:
        if self._now >= values.stale_at:
            raise StaleFeature(
                f"{name!r} is of {values.as_of:%Y-%m-%d %H:%M:%S} UTC, and counted as fresh until "
                f"{values.stale_at:%Y-%m-%d %H:%M:%S}",
                "publish its feed again, or send the column yourself",
                name,
            )
        self.oldest = values.as_of if self.oldest is None else min(self.oldest, values.as_of)

    @staticmethod
    def _found(values: Values, key: Sequence[Any]) -> tuple[Any, ...] | None:
        try:
            return values.rows.get(tuple(key))
        except TypeError:  # a list or an object in an input, which validation will name
            return None


def _key(given: Mapping[str, Any], name: str, wanted: str) -> Any:
    if name not in given:
        raise RequestError(
            f"column {name!r} is missing, by which {wanted!r} is looked up",
            f"send {name!r}, or {wanted!r} itself",
            422,
            "missing_column",
            name,
        )
    return given[name]
