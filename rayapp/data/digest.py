"""Row hashes, and digests over them that do not depend on row order or on how rows are blocked.

A row's hash has 128 bits in two lanes of 64. Each value is first mixed by a bijection (so that
nearby numbers lie far apart), then each lane takes the multilinear sum over the columns with its
own odd multipliers, then both lanes are mixed again. The last step is not linear, so moving a value
from one row to another changes the sum over rows. Two different rows, or two different tables,
agree by accident with a probability near 2^-128; this is no protection against somebody who
searches for a collision (files have a SHA-256 for that, see delta.py).

A table's digest is the SHA-256 of its schema, its row count and the sum of its row hashes, lane by
lane modulo 2^64: the sum of the parts is the sum of the whole, whatever the parts are.

Shape suffix: N rows.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from rayapp.schemas.record import canonical_json

Words = npt.NDArray[np.uint64]

_NULL = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_TEXT_KEYS = ("rayapp row hash1", "rayapp row hash2")
LANES = 2
_PIECE_ROWS = 8_192


@dataclass(frozen=True)
class RowHashes:
    """lanes_N: one array of 64-bit words per lane."""

    lanes_N: tuple[Words, Words]

    def total(self, where_N: npt.NDArray[np.bool_] | None = None) -> tuple[int, int]:
        """The sum over the rows (over those where where_N is true), lane by lane modulo 2^64."""
        counted = True if where_N is None else where_N
        first, second = (int(np.add.reduce(lane_N, where=counted)) for lane_N in self.lanes_N)
        return first, second


def hash_rows(table: pa.Table, column_sets: Sequence[Sequence[str]]) -> list[RowHashes]:
    """One hash per row for each set of columns; values are prepared once and shared by the sets.

    Equal values hash equally whatever their chunking, text also as places in a dictionary of text;
    a null differs from every value.
    """
    names = sorted({name for names in column_sets for name in names})
    columns = {name: _prepared(table.column(name)) for name in names}
    sums = [[np.zeros(table.num_rows, np.uint64) for _ in range(LANES)] for _ in column_sets]
    for start in range(0, table.num_rows, _PIECE_ROWS):  # what fits the cache is not fetched twice
        piece = slice(start, min(start + _PIECE_ROWS, table.num_rows))
        for name, column in columns.items():
            words = column.words(piece)
            for members, lanes_N in zip(column_sets, sums, strict=True):
                if name in members:
                    for lane in range(LANES):
                        lanes_N[lane][piece] += words[lane] * _multiplier(name, lane)
    return [RowHashes(_finish(lanes_N[0], lanes_N[1])) for lanes_N in sums]


def table_digest(schema: pa.Schema, num_rows: int, total: tuple[int, int]) -> str:
    """The digest of a table with this schema whose row hashes add up to `total`."""
    columns = sorted((field.name, str(field.type)) for field in schema)
    lanes = [value % 2**64 for value in total]
    return hashlib.sha256(
        canonical_json({"columns": columns, "num_rows": num_rows, "rows": lanes})
    ).hexdigest()


def digest_of(table: pa.Table) -> str:
    """The digest of a table that is in memory as a whole."""
    (hashes,) = hash_rows(table, [table.column_names])
    return table_digest(table.schema, table.num_rows, hashes.total())


def unit_interval(table: pa.Table, columns: Sequence[str], salt: str) -> npt.NDArray[np.float64]:
    """A number in [0, 1) per row that depends on nothing but the salt and the columns' values."""
    (hashes,) = hash_rows(table, [columns])
    salted_N = _mix(hashes.lanes_N[0] ^ np.uint64(_seed(f"salt:{salt}")))
    return (salted_N >> np.uint64(11)).astype(np.float64) / float(2**53)


def _finish(first_N: Words, second_N: Words) -> tuple[Words, Words]:
    one_N = _mix(first_N ^ _rotated(second_N))
    two_N = _mix(second_N + one_N)
    return one_N, two_N


def _rotated(x_N: Words) -> Words:
    return (x_N << np.uint64(29)) | (x_N >> np.uint64(35))


def _mix(x_N: Words) -> Words:
    """The finaliser of SplitMix64: a bijection of 64-bit words; leaves its argument alone."""
    x_N = x_N ^ (x_N >> np.uint64(30))
    x_N *= _MIX_1
    x_N ^= x_N >> np.uint64(27)
    x_N *= _MIX_2
    x_N ^= x_N >> np.uint64(31)
    return x_N


def _seed(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


@cache
def _multiplier(name: str, lane: int) -> np.uint64:
    return np.uint64(_seed(f"{lane}:{name}") | 1)


@dataclass(frozen=True)
class _Prepared:
    """A column as raw words, or for text as places in tables of hashes, one per lane."""

    raw_N: npt.NDArray[Any]
    is_null_N: npt.NDArray[np.bool_] | None
    tables: tuple[Words, Words] | None = None

    def words(self, piece: slice) -> tuple[Words, Words]:
        """The mixed values of some rows, one array per lane. Numbers share theirs."""
        if self.tables is not None:
            place_N = self.raw_N[piece]
            return self.tables[0][place_N], self.tables[1][place_N]
        values_N = _mix(self.raw_N[piece])
        if self.is_null_N is not None:
            values_N[self.is_null_N[piece]] = _NULL
        return values_N, values_N


def _prepared(column: pa.ChunkedArray) -> _Prepared:
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_null(array.type):
        return _Prepared(np.zeros(len(array), np.uint64), np.ones(len(array), dtype=bool))
    if pa.types.is_dictionary(array.type):
        return _prepared_text(array)
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        return _prepared_text(array.dictionary_encode())
    is_null_N = pc.is_null(array).to_numpy(zero_copy_only=False) if array.null_count else None
    return _Prepared(_bits(array), is_null_N)


def _bits(array: pa.Array) -> Words:
    if pa.types.is_floating(array.type):
        # adding zero turns -0.0 into 0.0: equal numbers must have equal bits
        floats_N = pc.fill_null(pc.cast(array, pa.float64()), 0.0).to_numpy(zero_copy_only=False)
        bits: Words = (floats_N + 0.0).view(np.uint64)
        return bits
    if pa.types.is_timestamp(array.type):
        array = pc.cast(array, pa.timestamp("us", array.type.tz)).view(pa.int64())
    integers = pc.fill_null(pc.cast(array, pa.int64()), 0)
    whole: Words = integers.to_numpy(zero_copy_only=False).view(np.uint64)
    return whole


def _prepared_text(encoded: pa.DictionaryArray) -> _Prepared:
    """SipHash with two keys, over the distinct values only."""
    texts = encoded.dictionary.to_numpy(zero_copy_only=False).astype(object)
    place_N = pc.fill_null(encoded.indices, len(texts)).to_numpy(zero_copy_only=False)
    first, second = (
        np.append(pd.util.hash_array(texts, hash_key=key, categorize=False), _NULL)
        for key in _TEXT_KEYS
    )
    return _Prepared(place_N, None, (first.astype(np.uint64), second.astype(np.uint64)))
