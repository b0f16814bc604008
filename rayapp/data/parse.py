"""Text to typed columns. A cell that cannot be read costs its row, never the block or the job.

A column is cast as a whole; only where that fails are its texts looked at one by one, each distinct
text once.

Read as: integer `12`, also `12.0`; number, with NaN as missing; boolean true/false/1/0/yes/no;
timestamp in ISO 8601, UTC where no zone is given; text as it is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from rayapp.schemas.data import Column, ColumnType
from rayapp.transforms import arrow_type

TRUE_TEXTS = ("true", "True", "TRUE", "1", "yes", "Yes", "YES")
FALSE_TEXTS = ("false", "False", "FALSE", "0", "no", "No", "NO")
_ZONE = r"\d\d[T ]\d\d.*(Z|[+-]\d\d(:?\d\d)?)$"
_LARGEST_WHOLE = 2.0**53


@dataclass(frozen=True)
class Parsed:
    """table: the contract's columns with their types. unreadable: for each column that has any, the
    text of the cells that could not be read, null elsewhere. encoded: the columns of text again,
    as places in a dictionary of their distinct texts."""

    table: pa.Table
    unreadable: Mapping[str, pa.Array]
    encoded: Mapping[str, pa.DictionaryArray] = field(default_factory=dict)

    def as_text(self, name: str) -> pa.Array:
        """A column as text: the value in its one spelling, or the raw text where there is none."""
        values = pc.cast(self.table.column(name), pa.string())
        if name in self.unreadable:
            values = pc.coalesce(values, self.unreadable[name])
        return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values

    def encoded_table(self) -> pa.Table:
        """The table with its text as places in dictionaries."""
        names = self.table.column_names
        return pa.table({n: self.encoded.get(n, self.table.column(n)) for n in names})

    def take(self, indices: pa.Array) -> "Parsed":
        taken = {name: texts.take(indices) for name, texts in self.unreadable.items()}
        encoded = {name: texts.take(indices) for name, texts in self.encoded.items()}
        return Parsed(self.table.take(indices), taken, encoded)


def typed(table: pa.Table, columns: Sequence[Column]) -> Parsed:
    """The contract's columns of a table, converted to their types."""
    arrays, unreadable, encoded = [], {}, {}
    for column in columns:
        raw = table.column(column.name).combine_chunks()
        if column.type == "string":
            texts = encoded[column.name] = _encoded(raw)
            arrays.append(raw if raw.type == pa.string() else texts.dictionary_decode())
            continue
        values, bad = _convert(raw, column.type)
        arrays.append(values)
        if bad is not None:
            unreadable[column.name] = bad
    schema = pa.schema([(c.name, arrow_type(c.type)) for c in columns])
    return Parsed(pa.table(arrays, schema=schema), unreadable, encoded)


def _encoded(raw: pa.Array) -> pa.DictionaryArray:
    """As text, each distinct one once, and nulls among the places only."""
    if _is_encoded_text(raw):
        return raw
    if pa.types.is_dictionary(raw.type):
        raw = raw.dictionary_decode()
    return pc.cast(raw, pa.string()).dictionary_encode()


def _is_encoded_text(raw: pa.Array) -> bool:
    return (
        pa.types.is_dictionary(raw.type)
        and pa.types.is_string(raw.type.value_type)
        and not raw.dictionary.null_count
    )


def _convert(raw: pa.Array, kind: ColumnType) -> tuple[pa.Array, pa.Array | None]:
    """Values, and the texts that could not be read (None where all could)."""
    wanted = arrow_type(kind)
    if raw.type == wanted:
        return _without_nan(raw), None
    if _is_encoded_text(raw):
        return _from_encoded(raw, kind)
    if pa.types.is_dictionary(raw.type):
        raw = raw.dictionary_decode()
    direct = _cast(raw, wanted) if _means_the_same(raw.type, kind) else None
    if direct is not None:
        return _without_nan(direct), None
    raw = pc.cast(raw, pa.string())
    whole = _cast(raw, wanted) if kind != "boolean" else None  # the rule; what follows is rare
    if whole is not None:
        return _without_nan(whole), None
    return _from_encoded(raw.dictionary_encode(), kind)


def _from_encoded(
    encoded: pa.DictionaryArray, kind: ColumnType
) -> tuple[pa.Array, pa.Array | None]:
    texts = pc.ascii_trim_whitespace(encoded.dictionary)
    distinct = _from_text(texts, kind)
    is_bad = pc.is_null(distinct)
    if kind == "number":
        is_bad = pc.and_not(is_bad, pc.equal(pc.ascii_lower(texts), "nan"))
    values = distinct.take(encoded.indices)
    if not pc.any(is_bad, min_count=0).as_py():
        return values, None
    bad_texts = pc.if_else(is_bad, encoded.dictionary, pa.scalar(None, pa.string()))
    return values, bad_texts.take(encoded.indices)


def _from_text(texts: pa.Array, kind: ColumnType) -> pa.Array:
    """The value of each text, null where it has none."""
    if kind == "boolean":
        is_true = pc.is_in(texts, value_set=pa.array(TRUE_TEXTS))
        is_known = pc.or_(is_true, pc.is_in(texts, value_set=pa.array(FALSE_TEXTS)))
        return pc.if_else(is_known, is_true, pa.scalar(None, pa.bool_()))
    if kind == "timestamp":
        has_zone = pc.match_substring_regex(texts, _ZONE)
        nothing = pa.scalar(None, pa.string())
        zoned = _try_cast(pc.if_else(has_zone, texts, nothing), arrow_type("timestamp"))
        naive = _try_cast(pc.if_else(has_zone, nothing, texts), pa.timestamp("us"))
        return pc.coalesce(zoned, pc.assume_timezone(naive, "UTC"))
    if kind == "number":
        return _without_nan(_try_cast(texts, pa.float64()))
    return _whole(texts)


def _whole(texts: pa.Array) -> pa.Array:
    """Integers, also where they are written as `12.0`, as tools do that know no missing integer."""
    whole = _try_cast(texts, pa.int64())
    if whole.null_count == texts.null_count:
        return whole
    rest = pc.if_else(pc.is_null(whole), texts, pa.scalar(None, pa.string()))
    numbers = _try_cast(rest, pa.float64())
    fits = pc.and_(
        pc.equal(numbers, pc.floor(numbers)), pc.less_equal(pc.abs(numbers), _LARGEST_WHOLE)
    )
    kept = pc.if_else(fits, numbers, pa.scalar(None, pa.float64()))
    return pc.coalesce(whole, pc.cast(kept, pa.int64()))


def _try_cast(texts: pa.Array, wanted: pa.DataType) -> pa.Array:
    """Cast what can be cast; null for the rest. By halving: a few bad texts among many cost a few
    dozen casts, not one each."""
    direct = _cast(texts, wanted)
    if direct is not None:
        return direct
    if len(texts) == 1:
        return pa.nulls(1, wanted)
    middle = len(texts) // 2
    return pa.concat_arrays([_try_cast(texts[:middle], wanted), _try_cast(texts[middle:], wanted)])


def _means_the_same(found: pa.DataType, kind: ColumnType) -> bool:
    """Whether a cast keeps the meaning; an integer, for one, is not a point in time."""
    is_number = pa.types.is_integer(found) or pa.types.is_floating(found)
    meanings: dict[ColumnType, bool] = {
        "integer": is_number,
        "number": is_number or pa.types.is_decimal(found),
        "boolean": False,
        "timestamp": pa.types.is_timestamp(found) or pa.types.is_date(found),
    }
    return meanings[kind]


def _cast(values: pa.Array, wanted: pa.DataType) -> pa.Array | None:
    finer = pa.types.is_timestamp(values.type)  # nanoseconds are cut off, not an error
    try:
        return pc.cast(values, wanted, safe=not finer)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None


def _without_nan(values: pa.Array) -> pa.Array:
    if not pa.types.is_floating(values.type):
        return values
    is_nan = pc.fill_null(pc.is_nan(values), False)
    if not pc.any(is_nan).as_py():
        return values
    return pc.if_else(is_nan, pa.scalar(None, values.type), values)
