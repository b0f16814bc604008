"""What one task does with one part of a table: check it, and later write its good rows.

Between the two, `decide` finds what no part can know alone: duplicates. A checked part is one
block of Ray Data: its rows, and columns beside them for what `decide` asks, so that the rows
themselves stay where they are until they are written.

Shape suffix: N rows of a part, the bad ones included.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayapp.config.snapshot import SourceConfig
from rayapp.data.contract import Contract
from rayapp.data.delta import DataFile, write_file
from rayapp.data.digest import RowHashes, hash_rows
from rayapp.data.parse import Parsed
from rayapp.data.parts import RawPart, read_part
from rayapp.data.rules import Fault, any_fault, find_faults, reasons
from rayapp.data.unique import Flags, Places, duplicates

REASONS, SOURCE, RAW = "_reasons", "_source", "_raw"
_FACTS, _KEEP, _HASH = "rayapp:facts", "rayapp:keep", "rayapp:hash"


@dataclass(frozen=True)
class TablePlan:
    """What every task of a table needs to know."""

    contract: Contract
    source: SourceConfig
    references: Mapping[str, pa.Array]
    good_uri: str
    bad_uri: str


@dataclass(frozen=True)
class Checked:
    """One part after its checks. rows: text as places in a dictionary, which is quicker to hash, to
    copy and to write; None where they stayed in the object store. keep_N: true for the good rows,
    which are copied only once, when they are written. hashes: of whole rows, then one for each
    unique key."""

    source: str
    rows: pa.Table | None
    keep_N: Flags
    hashes: tuple[RowHashes, ...]
    bad: DataFile | None
    reasons: Mapping[str, int]


@dataclass(frozen=True)
class Decision:
    """What a part is to do with its good rows. duplicates: reason code → places of rows that give
    way. total: the sum of the hashes of the others."""

    source: str
    duplicates: Mapping[str, Places]
    total: tuple[int, int]


@dataclass(frozen=True)
class Written:
    """What became of a part's good rows: kept ones in one file, duplicates in another."""

    good: DataFile | None
    duplicates: DataFile | None
    watermark: datetime | None
    reasons: Mapping[str, int]


def check_part(table_plan: TablePlan, part: RawPart) -> Checked:
    """Read and check one part; write its bad rows."""
    contract = table_plan.contract
    read = read_part(part, table_plan.source, contract.columns)
    faults = find_faults(read.parsed, contract, table_plan.references)
    is_bad = any_fault(faults, read.parsed.table.num_rows)
    rows = read.parsed.encoded_table()
    keep_N = ~is_bad.to_numpy(zero_copy_only=False)
    hashes = hash_rows(rows, [rows.column_names, *contract.unique])
    at = pc.indices_nonzero(is_bad)
    codes = reasons([(code, bad.take(at)) for code, bad in faults], len(at))
    bad = quarantine_rows(read.parsed.take(at), codes, part.uri, read.misshapen)
    counts = {code: pc.sum(rows).as_py() for code, rows in faults}
    if read.misshapen:
        counts["row:shape"] = len(read.misshapen)
    return Checked(
        source=part.uri,
        rows=rows,
        keep_N=keep_N,
        hashes=tuple(hashes),
        bad=_write_bad(table_plan, bad),
        reasons=counts,
    )


def decide(contract: Contract, checked: Sequence[Checked]) -> list[Decision]:
    """What each part may write, now that the keys of all of them are known."""
    rows = [c.hashes[0] for c in checked]
    keeps = [c.keep_N for c in checked]
    moved: list[dict[str, Places]] = [{} for _ in checked]
    for number, key in enumerate(contract.unique, start=1):
        found = duplicates(rows, [c.hashes[number] for c in checked], keeps)
        for own, places in zip(moved, found, strict=True):
            if len(places):
                own[f"duplicate:{'+'.join(key)}"] = places
    return [
        Decision(c.source, own, c.hashes[0].total(_kept(c.keep_N, own)))
        for c, own in zip(checked, moved, strict=True)
    ]


def _kept(keep_N: Flags, moved: Mapping[str, Places]) -> Flags:
    """keep_N less the duplicates."""
    if not moved:
        return keep_N
    kept_N = keep_N.copy()
    kept_N[np.concatenate(list(moved.values()))] = False
    return kept_N


def write_good(table_plan: TablePlan, rows: pa.Table, keep_N: Flags, decision: Decision) -> Written:
    """Write a part's good rows, its duplicates apart."""
    moved = None
    if decision.duplicates:
        moved = _write_bad(table_plan, _duplicate_rows(rows, decision))
        keep_N = _kept(keep_N, decision.duplicates)
    good = rows if keep_N.all() else rows.filter(pa.array(keep_N))
    return Written(
        good=write_file(table_plan.good_uri, good, decision.total) if len(good) else None,
        duplicates=moved,
        watermark=_newest(good, table_plan.contract),
        reasons={code: len(places) for code, places in decision.duplicates.items()},
    )


def _duplicate_rows(rows: pa.Table, decision: Decision) -> pa.Table:
    """Quarantine rows of a part's duplicates."""
    places = np.unique(np.concatenate(list(decision.duplicates.values())))
    faults: list[Fault] = [
        (code, pa.array(np.isin(places, own))) for code, own in decision.duplicates.items()
    ]
    taken = Parsed(rows.take(pa.array(places)), {})
    return quarantine_rows(taken, reasons(faults, len(places)), decision.source)


def quarantine_rows(
    parsed: Parsed, codes: pa.Array, uri: str, misshapen: Sequence[str] = ()
) -> pa.Table:
    """Bad rows as text, with why and from where; a line of another shape is kept whole."""
    num_shaped, names = len(codes), parsed.table.column_names
    columns = {name: parsed.as_text(name) for name in names}
    why = {
        REASONS: codes,
        SOURCE: pa.repeat(uri, num_shaped),
        RAW: pa.nulls(num_shaped, pa.string()),
    }
    shaped = pa.table({**columns, **why})
    if not misshapen:
        return shaped
    lines = {
        REASONS: pa.repeat("row:shape", len(misshapen)),
        SOURCE: pa.repeat(uri, len(misshapen)),
        RAW: pa.array(misshapen, pa.string()),
    }
    empty = {name: pa.nulls(len(misshapen), pa.string()) for name in names}
    return pa.concat_tables([shaped, pa.table({**empty, **lines})])


def _write_bad(table_plan: TablePlan, bad: pa.Table) -> DataFile | None:
    if not len(bad):
        return None
    (hashes,) = hash_rows(bad, [bad.column_names])
    return write_file(table_plan.bad_uri, bad, hashes.total())


def _newest(table: pa.Table, contract: Contract) -> datetime | None:
    if contract.event_time is None or not len(table):
        return None
    newest: datetime | None = pc.max(table.column(contract.event_time)).as_py()
    return newest


def part_row(number: int, part: RawPart) -> dict[str, Any]:
    names = {"header": list(part.header), "keys": list(part.keys)}
    return {"number": number, **vars(part), **names}


def check_block(table_plan: TablePlan, row: Mapping[str, Any]) -> pa.Table:
    """`check_part` of one part, as one block. row: `part_row`'s. A part without rows gets one
    of nulls that is not kept, since a block without rows could tell nothing."""
    part = RawPart(
        **{k: v for k, v in row.items() if k != "number"} | {"header": tuple(row["header"])}
    )
    checked = check_part(table_plan, part)
    assert checked.rows is not None
    rows, keep_N = checked.rows, checked.keep_N
    lanes = {
        f"{_HASH}{key}.{lane}": lane_N
        for key, hashes in enumerate(checked.hashes)
        for lane, lane_N in enumerate(hashes.lanes_N)
    }
    if not len(rows):
        rows, keep_N = _one_null_row(rows.schema), np.zeros(1, dtype=bool)
        lanes = {name: np.zeros(1, np.uint64) for name in lanes}
    facts = {
        "number": row["number"],
        "source": checked.source,
        "bad": checked.bad.dump() if checked.bad else None,
        "reasons": dict(checked.reasons),
    }
    told = pa.concat_arrays([pa.array([json.dumps(facts)]), pa.nulls(len(rows) - 1, pa.string())])
    beside = {_FACTS: told, _KEEP: keep_N, **lanes}
    return pa.table({name: rows.column(name) for name in rows.column_names} | beside)


def _one_null_row(schema: pa.Schema) -> pa.Table:
    return pa.table([pa.nulls(1, field.type) for field in schema], schema=schema)


def parse_checked(block: pa.Table) -> tuple[int, Checked]:
    """The part's number, and what was found in it; its rows stay in the block."""
    facts = json.loads(block.column(_FACTS)[0].as_py())
    lanes = [block.column(n).to_numpy() for n in block.column_names if n.startswith(_HASH)]
    checked = Checked(
        source=facts["source"],
        rows=None,
        keep_N=block.column(_KEEP).to_numpy(),
        hashes=tuple(RowHashes((a, b)) for a, b in zip(lanes[::2], lanes[1::2], strict=True)),
        bad=DataFile.parse(facts["bad"]) if facts["bad"] else None,
        reasons=facts["reasons"],
    )
    return facts["number"], checked


def write_block(table_plan: TablePlan, block: pa.Table, decision: Decision) -> Written:
    """`write_good` of a checked block."""
    rows = block.select([column.name for column in table_plan.contract.columns])
    return write_good(table_plan, rows, block.column(_KEEP).to_numpy(), decision)
