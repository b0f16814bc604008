"""A data contract as the checks need it, read from an Open Data Contract Standard 3.1 file.

    load_contract("configs/contracts/flights.odcs.yaml").columns

What rayapp would not enforce is refused: a limit that nobody checks is worse than none. Understood
per property: `name`, `physicalName` (the column's name in the raw file, where it is another one),
`logicalType`, `required`, `unique`, `primaryKey`, `classification`, `description`,
`enum`, `relationships`, `logicalTypeOptions` minimum, maximum, minLength, maxLength, pattern, the
library metrics nullValues, missingValues, invalidValues (validValues or pattern) and
duplicateValues with `mustBe: 0`, and the custom properties `knownAt` (prediction | outcome) and
`references` (table.column). Per table: `quality` of `type: custom, engine: rayapp`, whose name is
the reason code and whose implementation is a boolean expression (null counts as kept), and
duplicateValues with the argument `properties`. `slaProperties` freshness gives the greatest age of
the newest row, and its `element` the event-time column. Rules of `type: text` or `sql`, and custom
ones of other engines, are left to those who run them.
"""

import difflib
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from open_data_contract_standard.model import (
    CustomProperty,
    DataQuality,
    OpenDataContractStandard,
    SchemaObject,
    SchemaProperty,
)

from rayapp.data.odcs import read_document
from rayapp.errors import ConfigError, ContractError
from rayapp.schemas.data import Column, ColumnType, ContractRef, KnownAt
from rayapp.schemas.record import canonical_json
from rayapp.storage import sha256
from rayapp.transforms import Expression

log = logging.getLogger("rayapp.data.contract")

_TYPES: dict[str, ColumnType] = {
    "string": "string",
    "integer": "integer",
    "number": "number",
    "boolean": "boolean",
    "timestamp": "timestamp",
    "date": "timestamp",
}
_OPTIONS = {
    "integer": {"minimum", "maximum", "format"},
    "number": {"minimum", "maximum", "format"},
    "string": {"minLength", "maxLength", "pattern"},
}
_HOURS = {
    **dict.fromkeys(("s", "sec", "second", "seconds"), 1 / 3600),
    **dict.fromkeys(("m", "min", "minute", "minutes"), 1 / 60),
    **dict.fromkeys(("h", "hr", "hour", "hours"), 1),
    **dict.fromkeys(("d", "day", "days"), 24),
}


@dataclass(frozen=True)
class Rule:
    """A cross-column rule; a row where it is false is quarantined as `rule:<name>`."""

    name: str
    expression: Expression


@dataclass(frozen=True)
class TextRule:
    """Limits of a text column beyond its enumeration."""

    pattern: str | None = None
    min_length: int | None = None
    max_length: int | None = None


@dataclass(frozen=True)
class Contract:
    """One table's contract. physical_names: column → its name in the raw files, where that is
    another one. unique: sets of columns whose values together occur once."""

    ref: ContractRef
    table: str
    owner: str
    columns: tuple[Column, ...]
    physical_names: Mapping[str, str]
    text_rules: Mapping[str, TextRule]
    references: Mapping[str, tuple[str, str]]
    rules: tuple[Rule, ...]
    unique: tuple[tuple[str, ...], ...]
    freshness_h: float | None
    event_time: str | None


def load_contract(path: str | Path) -> Contract:
    """Raises ContractError that names the file, the place and the nearest word."""
    document, plain = read_document(path)
    if document.schema_ is None or len(document.schema_) != 1:
        raise ContractError(
            f"{path}: {len(document.schema_ or [])} tables under `schema`, a contract here has one",
            "write one file per table",
        )
    return _Reader(str(path)).contract(document, sha256(canonical_json(plain)))


class _Reader:
    """Carries the file's name through the reading, for the messages."""

    def __init__(self, path: str) -> None:
        self._path = path

    def contract(self, document: OpenDataContractStandard, digest: str) -> Contract:
        table = cast(list[SchemaObject], document.schema_)[0]
        properties = table.properties or []
        names = [p.name or "" for p in properties]
        if not names or len(set(names)) != len(names):
            raise self._error("schema", "needs properties, each with its own name")
        in_file = [p.physicalName or p.name or "" for p in properties]
        twice = next((name for name in in_file if in_file.count(name) > 1), None)
        if twice is not None:
            raise self._error("schema", f"two properties are the file's column {twice!r}")
        if table.relationships:
            raise self._error("schema.relationships", "write relationships at the property")
        columns = tuple(self._column(p) for p in properties)
        freshness_h, event_time = self._freshness(document, columns)
        return Contract(
            ref=ContractRef(id=document.id or "", version=document.version or "", digest=digest),
            table=table.name or "",
            owner=getattr(document.team, "name", None) or document.domain or "",
            columns=columns,
            physical_names=dict(_named(properties, lambda p: p.physicalName)),
            text_rules=dict(_named(properties, self._text_rule)),
            references=dict(_named(properties, self._reference)),
            rules=self._rules(table, columns),
            unique=self._unique(table, properties),
            freshness_h=freshness_h,
            event_time=event_time,
        )

    def _error(self, place: str, what: str, next_step: str = "correct the contract") -> Exception:
        return ContractError(f"{self._path}: {place}: {what}", next_step)

    def _column(self, prop: SchemaProperty) -> Column:
        name, logical = prop.name or "", prop.logicalType or ""
        if not Expression.is_column_name(name):
            plain = re.sub(r"\W+", "_", name).strip("_") or "column"
            if not Expression.is_column_name(plain):
                plain = f"c_{plain}"
            raise self._error(
                name,
                f"the name {name!r} cannot stand in an expression (letters, digits and _, not a "
                "word of the language, not _ first)",
                f"name it otherwise and say what the file calls it: name: {plain}, "
                f"physicalName: {name!r}",
            )
        if logical not in _TYPES:
            raise self._error(
                name, f"logicalType {logical or 'missing'!r} is not one of {sorted(_TYPES)}"
            )
        options = prop.logicalTypeOptions or {}
        supported = _OPTIONS.get(logical, set())
        for option in sorted(set(options) - supported):
            raise self._error(
                name,
                f"logicalTypeOptions.{option} is not enforced for {logical}; "
                f"enforced are {sorted(supported) or 'none'}",
                "express it as a quality rule of type custom, engine rayapp",
            )
        least, most = options.get("minimum"), options.get("maximum")
        if least is not None and most is not None and least > most:
            raise self._error(name, f"minimum {least} is over maximum {most}: no value keeps both")
        required = bool(prop.required or prop.primaryKey)
        metrics = {q.metric for q in self._library(prop.quality, name)}
        return Column(
            name=name,
            type=_TYPES[logical],
            nullable=not (required or metrics & {"nullValues", "missingValues"}),
            minimum=options.get("minimum"),
            maximum=options.get("maximum"),
            allowed=self._allowed(prop),
            known_at=self._known_at(prop),
            classification=prop.classification or "",
            description=" ".join((prop.description or "").split()),
        )

    def _allowed(self, prop: SchemaProperty) -> tuple[str, ...] | None:
        listed = [entry.value for entry in prop.enum or []]
        for rule in self._library(prop.quality, prop.name or ""):
            if rule.metric == "invalidValues":
                listed += (rule.arguments or {}).get("validValues", [])
        return tuple(_text(value) for value in listed) or None

    def _text_rule(self, prop: SchemaProperty) -> TextRule | None:
        options = dict(prop.logicalTypeOptions or {}) if prop.logicalType == "string" else {}
        for rule in self._library(prop.quality, prop.name or ""):
            if rule.metric == "invalidValues" and "pattern" in (rule.arguments or {}):
                options["pattern"] = (rule.arguments or {})["pattern"]
        if not options:
            return None
        if prop.logicalType != "string":
            raise self._error(prop.name or "", f"a pattern is for string, not {prop.logicalType}")
        return TextRule(options.get("pattern"), options.get("minLength"), options.get("maxLength"))

    def _known_at(self, prop: SchemaProperty) -> KnownAt:
        value = _custom(prop.customProperties, "knownAt", "prediction")
        if value not in ("prediction", "outcome"):
            raise self._error(prop.name or "", f"knownAt {value!r} is not prediction or outcome")
        return cast(KnownAt, value)

    def _reference(self, prop: SchemaProperty) -> tuple[str, str] | None:
        targets = [r.to for r in prop.relationships or []]
        custom = _custom(prop.customProperties, "references", None)
        targets += [custom] if custom else []
        if not targets:
            return None
        table, dot, column = str(targets[0]).partition(".")
        if len(targets) > 1 or not dot or "." in column or isinstance(targets[0], list):
            raise self._error(prop.name or "", f"reference {targets!r} is not one table.column")
        return table, column

    def _rules(self, table: SchemaObject, columns: Sequence[Column]) -> tuple[Rule, ...]:
        found = []
        for quality in self._own(table.quality, "schema.quality"):
            name = quality.name or ""
            try:
                expression = Expression.parse(str(quality.implementation))
                kind = expression.result_type({c.name: c.type for c in columns})
            except ConfigError as error:
                raise self._error(f"rule {name!r}", error.what, error.next_step) from None
            if not name or kind != "boolean":
                raise self._error(f"rule {name!r}", "needs a name and a boolean implementation")
            found.append(Rule(name, expression))
        return tuple(found)

    def _unique(
        self, table: SchemaObject, properties: Sequence[SchemaProperty]
    ) -> tuple[tuple[str, ...], ...]:
        keys = [p for p in properties if p.primaryKey]
        keys.sort(key=lambda p: p.primaryKeyPosition or -1)
        found = [tuple(p.name or "" for p in keys)] if keys else []
        for prop in properties:
            metrics = {q.metric for q in self._library(prop.quality, prop.name or "")}
            if prop.unique or "duplicateValues" in metrics:
                found.append((prop.name or "",))
        names = [p.name or "" for p in properties]
        for rule in self._library(table.quality, "schema.quality"):
            together = tuple((rule.arguments or {}).get("properties", ()))
            if rule.metric != "duplicateValues" or not together:
                raise self._error(
                    "schema.quality",
                    f"metric {rule.metric!r} is not enforced for a table",
                    "enforced is duplicateValues with arguments.properties",
                )
            self._must_exist(together, names, "schema.quality")
            found.append(together)
        return tuple(dict.fromkeys(found))

    def _must_exist(self, wanted: Sequence[str], names: Sequence[str], place: str) -> None:
        for name in wanted:
            if name not in names:
                near = difflib.get_close_matches(name, names, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"properties are {list(names)}"
                raise self._error(place, f"no property {name!r}", hint)

    def _library(self, rules: Sequence[DataQuality] | None, place: str) -> list[DataQuality]:
        """Library metrics, each of which must ask for none at all: `mustBe: 0`."""
        chosen = [r for r in rules or [] if r.metric is not None]
        for rule in chosen:
            known = {"nullValues", "missingValues", "invalidValues", "duplicateValues"}
            if rule.metric not in known or rule.mustBe != 0 or rule.unit == "percent":
                raise self._error(
                    place,
                    f"metric {rule.metric!r} is enforced row by row, so only as `mustBe: 0` "
                    f"and only {sorted(known)}",
                )
        return chosen

    def _own(self, rules: Sequence[DataQuality] | None, place: str) -> list[DataQuality]:
        mine = []
        for rule in rules or []:
            if rule.type == "custom" and rule.engine == "rayapp":
                mine.append(rule)
            elif rule.metric is None and rule.type in ("sql", "custom"):
                log.info("rule_left_to_others", extra={"place": place, "rule": rule.name})
        return mine

    def _freshness(
        self, document: OpenDataContractStandard, columns: Sequence[Column]
    ) -> tuple[float | None, str | None]:
        times = [c.name for c in columns if c.type == "timestamp"]
        only = times[0] if len(times) == 1 else None
        for sla in document.slaProperties or []:
            if sla.property != "freshness":
                continue
            if sla.unit not in _HOURS or not isinstance(sla.value, int | float):
                raise self._error(
                    "slaProperties.freshness",
                    f"{sla.value!r} {sla.unit!r} is not a number of {sorted(_HOURS)}",
                )
            element = (sla.element or "").rpartition(".")[2] or only
            self._must_exist([element] if element else [], times, "slaProperties.freshness")
            return float(sla.value) * _HOURS[sla.unit], element
        return None, only


def _named(properties: Sequence[SchemaProperty], read: Any) -> list[tuple[str, Any]]:
    found = [(p.name or "", read(p)) for p in properties]
    return [(name, value) for name, value in found if value is not None]


def _custom(properties: Sequence[CustomProperty] | None, name: str, default: Any) -> Any:
    return next((p.value for p in properties or [] if p.property == name), default)


def _text(value: Any) -> str:
    """An allowed value as the checks compare it: the way a column of it is written as text."""
    return str(value).lower() if isinstance(value, bool) else str(value)
