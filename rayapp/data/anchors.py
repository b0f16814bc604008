"""Anchors of a judge: answers that people have called right or wrong, read as golden sets are."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from rayapp.config.judging import AnchorsConfig
from rayapp.data.golden import golden_table, labelled_rows
from rayapp.errors import DataError
from rayapp.schemas.data import Column

ANSWERED, IS_RIGHT = "answered", "is_right"
WHAT = "anchors of evaluation.judge"


@dataclass(frozen=True)
class AnchorRows:
    """rows: of the model's inputs and the label, where it is wanted. answered, is_right: of each
    row an answer, and what people say of it."""

    rows: pa.Table
    answered: tuple[str, ...]
    is_right: tuple[bool, ...]

    def take(self, wanted: Sequence[bool]) -> "AnchorRows":
        places = [i for i, is_wanted in enumerate(wanted) if is_wanted]
        return AnchorRows(
            self.rows.filter(pa.array(wanted, pa.bool_())),
            tuple(self.answered[i] for i in places),
            tuple(self.is_right[i] for i in places),
        )


def anchor_objects(config: AnchorsConfig) -> list[dict[str, Any]]:
    """The objects of the file, each with an answer and what people say of it. Raises ConfigError
    where it is another file, DataError for what is no anchor, or is one twice."""
    rows = labelled_rows(config.path, config.sha256, WHAT)
    seen: dict[str, int] = {}
    for number, row in enumerate(rows, 1):
        _check(config.path, number, row)
        text = json.dumps({k: v for k, v in row.items() if k != IS_RIGHT}, sort_keys=True)
        if text in seen:
            raise DataError(
                f"{config.path}: anchor {number} is anchor {seen[text]} again",
                "keep one of them: an anchor counts once",
            )
        seen[text] = number
    for kind in (True, False):
        count = sum(row[IS_RIGHT] is kind for row in rows)
        if count < config.min_of_each:
            raise too_few(count, kind, config.min_of_each)
    return rows


def too_few(count: int, is_right: bool, limit: int) -> DataError:
    kind = "right" if is_right else "wrong"
    return DataError(
        f"{WHAT}: {count} that are {kind} can be used, min_of_each is {limit}: its errors would "
        "not be known well enough to correct by them",
        f"have people label more answers that are {kind}",
    )


def anchor_table(
    objects: Sequence[Mapping[str, Any]],
    inputs: Sequence[Column],
    view: Sequence[Column],
    label: str,
    fields: Sequence[str],
    needs_label: bool,
) -> AnchorRows:
    """inputs, view, label, fields: as of a golden set. Raises DataError that names the anchor."""
    known = [column.name for column in inputs]
    right = {} if needs_label else {label: dict.fromkeys(fields) if fields else ""}
    kept = [*known, label] if needs_label else known
    rows = [{name: o[name] for name in kept if name in o} | right for o in objects]
    return AnchorRows(
        golden_table(rows, inputs, view, label, fields, WHAT),
        tuple(o[ANSWERED] for o in objects),
        tuple(o[IS_RIGHT] for o in objects),
    )


def _check(path: str, number: int, row: Mapping[str, Any]) -> None:
    if not isinstance(row.get(ANSWERED), str):
        raise DataError(
            f"{path}: anchor {number} has no text {ANSWERED!r}", "give it the answer as it was said"
        )
    if not isinstance(row.get(IS_RIGHT), bool):
        raise DataError(
            f"{path}: anchor {number} has {IS_RIGHT!r} {row.get(IS_RIGHT)!r}, not true or false",
            "have a person say whether that answer is right",
        )
