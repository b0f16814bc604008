"""The contract applied to one block of rows: which rows are bad, and why.

Reason codes: `null:<column>` `type:<column>` `range:<column>` `enum:<column>` `pattern:<column>`
`length:<column>` `reference:<column>` `rule:<name>` `duplicate:<columns>` and `row:shape` for a
line that does not have the header's number of fields. Each check is one pass of Arrow over a
column; a text is made only for rows that are bad. Duplicates are found across blocks (unique.py).
"""

from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from rayapp.data.contract import Contract, TextRule
from rayapp.data.parse import Parsed, typed
from rayapp.schemas.data import Column

Fault = tuple[str, pa.Array]
"""A reason code, and which rows it holds for."""


def check(
    table: pa.Table, contract: Contract, references: Mapping[str, pa.Array]
) -> pa.ChunkedArray | pa.Array:
    """The reasons of each row, joined by ";", or null for a good row.

    table: the contract's columns, as text or typed. references: for each column that refers to
    another table, the values there are. Uniqueness is not checked here.
    """
    parsed = typed(table, contract.columns)
    return reasons(find_faults(parsed, contract, references), table.num_rows)


def find_faults(
    parsed: Parsed, contract: Contract, references: Mapping[str, pa.Array]
) -> list[Fault]:
    """Every fault that at least one row has, in the order of columns, then rules."""
    faults: list[Fault] = []
    for column in contract.columns:
        values = parsed.table.column(column.name).combine_chunks()
        unreadable = parsed.unreadable.get(column.name)
        faults += _column_faults(column, values, unreadable)
        if column.name in contract.text_rules:
            faults += _text_faults(column.name, values, contract.text_rules[column.name])
        if column.name in references:
            known = pc.is_in(values, value_set=references[column.name].cast(values.type))
            bad = pc.and_(pc.is_valid(values), pc.invert(known))
            faults.append((f"reference:{column.name}", bad))
    for rule in contract.rules:
        kept = rule.expression.evaluate(parsed.table)
        faults.append((f"rule:{rule.name}", pc.invert(pc.fill_null(kept, True))))
    return [(code, bad) for code, bad in faults if pc.any(bad, min_count=0).as_py()]


def reasons(faults: Sequence[Fault], num_rows: int) -> pa.Array:
    """The codes of each row joined by ";"; null where no fault holds."""
    if not faults:
        return pa.nulls(num_rows, pa.string())
    # null_handling="skip" would shorten the result by the rows that are null everywhere
    codes = [pc.if_else(bad, f";{code}", "") for code, bad in faults]
    joined = pc.utf8_slice_codeunits(pc.binary_join_element_wise(*codes, ""), 1)
    return pc.if_else(pc.equal(joined, ""), pa.scalar(None, pa.string()), joined)


def any_fault(faults: Sequence[Fault], num_rows: int) -> pa.Array:
    bad = pa.repeat(pa.scalar(False), num_rows)
    for _, rows in faults:
        bad = pc.or_(bad, rows)
    return bad


def _column_faults(
    column: Column, values: pa.Array, unreadable: pa.Array | None
) -> Iterator[Fault]:
    if unreadable is not None:
        yield f"type:{column.name}", pc.is_valid(unreadable)
    if not column.nullable and values.null_count:
        missing = pc.is_null(values)
        if unreadable is not None:  # there was a value, only not a readable one
            missing = pc.and_(missing, pc.is_null(unreadable))
        yield f"null:{column.name}", missing
    if column.type in ("integer", "number"):
        yield from _range_faults(column, values)
    if column.allowed is not None:
        texts = pc.cast(values, pa.string())
        known = pc.is_in(texts, value_set=pa.array(column.allowed, pa.string()))
        yield f"enum:{column.name}", pc.and_(pc.is_valid(texts), pc.invert(known))


def _range_faults(column: Column, values: pa.Array) -> Iterator[Fault]:
    """Infinity is in no range, whatever the limits."""
    extremes = pc.min_max(values).as_py()
    if extremes["min"] is None:
        return
    low = float("-inf") if column.minimum is None else column.minimum
    high = float("inf") if column.maximum is None else column.maximum
    infinite = column.type == "number" and not (
        abs(extremes["min"]) < float("inf") and abs(extremes["max"]) < float("inf")
    )
    if low <= extremes["min"] and extremes["max"] <= high and not infinite:
        return
    numbers = pc.cast(values, pa.float64(), safe=False)
    bad = pc.or_(pc.less(numbers, low), pc.greater(numbers, high))
    yield f"range:{column.name}", pc.fill_null(pc.or_(bad, pc.is_inf(numbers)), False)


def _text_faults(name: str, values: pa.Array, rule: TextRule) -> Iterator[Fault]:
    if rule.pattern is not None:
        fits = pc.match_substring_regex(values, f"^(?:{rule.pattern})$")
        yield f"pattern:{name}", pc.fill_null(pc.invert(fits), False)
    if rule.min_length is not None or rule.max_length is not None:
        length = pc.utf8_length(values)
        short = pc.less(length, rule.min_length or 0)
        long = pc.greater(length, rule.max_length if rule.max_length is not None else 2**31 - 1)
        yield f"length:{name}", pc.fill_null(pc.or_(short, long), False)
