"""The contract applied to one block of rows: which rows are bad, and why.

Reason codes: `null:<column>` `type:<column>` `range:<column>` `enum:<column>` `pattern:<column>`
`length:<column>` `reference:<column>` `rule:<name>` `duplicate:<columns>` and `row:shape` for a
line that does not have the header's number of fields. Each check is one pass of Arrow over a
column; a text is made only for rows that are bad. Duplicates are found across blocks (unique.py).
"""

from collections.abc import Mapping, Sequence

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
    """Every fault that at least one row has, in the order of columns, then rules.

    A cell has one fault at most, the first; a rule is judged only where the cells it reads have
    none, so that one mistake is told once.
    """
    faults: list[Fault] = []
    spoilt: dict[str, pa.Array] = {}
    for column in contract.columns:
        values = parsed.table.column(column.name).combine_chunks()
        encoded = parsed.encoded.get(column.name)
        found = _column_faults(column, values, parsed.unreadable.get(column.name))
        if column.allowed is not None:
            known = _is_one_of(values, encoded, pa.array(column.allowed))
            found.append((f"enum:{column.name}", _present_not(values, known)))
        if encoded is not None:
            found += _text_faults(column.name, encoded, contract.text_rules.get(column.name))
        if column.name in references:
            known = _is_one_of(values, encoded, references[column.name])
            found.append((f"reference:{column.name}", _present_not(values, known)))
        _add(faults, spoilt, column.name, found)
    for rule in contract.rules:
        broken = pc.invert(pc.fill_null(rule.expression.evaluate(parsed.table), True))
        for name in sorted(rule.expression.columns & set(spoilt)):
            broken = pc.and_not(broken, spoilt[name])
        if pc.any(broken, min_count=0).as_py():
            faults.append((f"rule:{rule.name}", broken))
    return faults


def _add(
    faults: list[Fault], spoilt: dict[str, pa.Array], name: str, found: Sequence[Fault]
) -> None:
    for code, bad in found:
        if name in spoilt:
            bad = pc.and_not(bad, spoilt[name])
        if pc.any(bad, min_count=0).as_py():
            faults.append((code, bad))
            spoilt[name] = pc.or_(bad, spoilt[name]) if name in spoilt else bad


def _present_not(values: pa.Array, fits: pa.Array) -> pa.Array:
    return pc.fill_null(pc.and_not(pc.is_valid(values), fits), False)


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


def _column_faults(column: Column, values: pa.Array, unreadable: pa.Array | None) -> list[Fault]:
    found: list[Fault] = []
    if unreadable is not None:
        found.append((f"type:{column.name}", pc.is_valid(unreadable)))
    if not column.nullable and values.null_count:
        found.append((f"null:{column.name}", pc.is_null(values)))
    if column.type in ("integer", "number"):
        found += _range_faults(column, values)
    return found


def _is_one_of(values: pa.Array, encoded: pa.DictionaryArray | None, known: pa.Array) -> pa.Array:
    """Looks at each distinct text once."""
    if encoded is not None:
        known = known.cast(pa.string())
        return pc.is_in(encoded.dictionary, value_set=known).take(encoded.indices)
    if pa.types.is_string(known.type):
        values = pc.cast(values, pa.string())
    return pc.is_in(values, value_set=known.cast(values.type))


def _range_faults(column: Column, values: pa.Array) -> list[Fault]:
    """Infinity is in no range, whatever the limits."""
    extremes = pc.min_max(values).as_py()
    if extremes["min"] is None:
        return []
    low = float("-inf") if column.minimum is None else column.minimum
    high = float("inf") if column.maximum is None else column.maximum
    infinite = column.type == "number" and not (
        abs(extremes["min"]) < float("inf") and abs(extremes["max"]) < float("inf")
    )
    if low <= extremes["min"] and extremes["max"] <= high and not infinite:
        return []
    numbers = pc.cast(values, pa.float64(), safe=False)
    bad = pc.or_(pc.less(numbers, low), pc.greater(numbers, high))
    return [(f"range:{column.name}", pc.fill_null(pc.or_(bad, pc.is_inf(numbers)), False))]


def _text_faults(name: str, encoded: pa.DictionaryArray, rule: TextRule | None) -> list[Fault]:
    """Looks at each distinct text once."""
    if rule is None:
        return []
    found: list[Fault] = []
    texts = encoded.dictionary
    if rule.pattern is not None:
        fits = pc.match_substring_regex(texts, f"^(?:{rule.pattern})$")
        found.append((f"pattern:{name}", _present_not(encoded, fits.take(encoded.indices))))
    if rule.min_length is not None or rule.max_length is not None:
        length = pc.utf8_length(texts)
        highest = rule.max_length if rule.max_length is not None else 2**31 - 1
        fits = pc.and_(
            pc.greater_equal(length, rule.min_length or 0), pc.less_equal(length, highest)
        )
        found.append((f"length:{name}", _present_not(encoded, fits.take(encoded.indices))))
    return found
