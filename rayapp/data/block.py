"""What one task does with one slice of a table: check it, and later write its good rows.

Between the two, `decide` finds what no slice can know alone: duplicates. A slice's good rows travel
as an Arrow stream, its hashes as bytes, the rest as JSON.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rayapp import errors
from rayapp.config.snapshot import SourceConfig
from rayapp.data.contract import Contract
from rayapp.data.delta import DataFile, write_file
from rayapp.data.digest import RowHashes, hash_rows
from rayapp.data.parse import Parsed
from rayapp.data.rules import Fault, any_fault, find_faults, reasons
from rayapp.data.slices import Slice, read_slice
from rayapp.data.unique import duplicates, joined
from rayapp.errors import RayappError

REASONS, SOURCE, RAW = "_reasons", "_source", "_raw"
KEEP = "_keep"
Places = npt.NDArray[np.int64]
CHECKED_SCHEMA = pa.schema(
    [
        ("part", pa.int64()),
        ("facts", pa.string()),
        ("hashes", pa.list_(pa.large_binary())),
        ("rows", pa.large_binary()),
    ]
)


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
    """One slice after its checks. rows: all of them, with KEEP true for the good ones, which are
    copied only once, when they are written; None where they lie in the object store. hashes: of the
    good rows, then one for each unique key."""

    source: str
    rows: pa.Table | None
    bad: DataFile | None
    hashes: tuple[RowHashes, ...]
    reasons: Mapping[str, int]


@dataclass(frozen=True)
class Share:
    """What a slice is to do with its good rows. duplicates: reason code → places of rows that give
    way. total: the sum of the hashes of the others."""

    source: str
    duplicates: Mapping[str, Places]
    total: tuple[int, int]


@dataclass(frozen=True)
class Written:
    """What became of a slice's good rows: kept ones in one file, duplicates in another."""

    good: DataFile | None
    duplicates: DataFile | None
    watermark: datetime | None
    reasons: Mapping[str, int]


def check_slice(table_plan: TablePlan, part: Slice) -> Checked:
    """Read and check one slice; write its bad rows."""
    contract = table_plan.contract
    read = read_slice(part, table_plan.source, contract.columns)
    faults = find_faults(read.parsed, contract, table_plan.references)
    is_bad = any_fault(faults, read.parsed.table.num_rows)
    table = read.parsed.table
    keep_N = ~is_bad.to_numpy(zero_copy_only=False)
    hashes = hash_rows(table, [table.column_names, *contract.unique])
    at = pc.indices_nonzero(is_bad)
    codes = reasons([(code, bad.take(at)) for code, bad in faults], len(at))
    bad = quarantine_rows(read.parsed.take(at), codes, part.uri, read.misshapen)
    counts = {code: pc.sum(rows).as_py() for code, rows in faults}
    if read.misshapen:
        counts["row:shape"] = len(read.misshapen)
    return Checked(
        source=part.uri,
        rows=table.append_column(KEEP, pa.array(keep_N)),
        bad=_write_bad(table_plan, bad),
        hashes=tuple(h.where(keep_N) for h in hashes),
        reasons=counts,
    )


def decide(contract: Contract, checked: Sequence[Checked]) -> list[Share]:
    """What each slice may write, now that the keys of all of them are known."""
    rows = joined([c.hashes[0] for c in checked])
    stops = np.cumsum([len(c.hashes[0].lanes_N[0]) for c in checked])[:-1]
    moved: list[dict[str, Places]] = [{} for _ in checked]
    kept_N = np.ones(len(rows.lanes_N[0]), dtype=bool)
    for number, key in enumerate(contract.unique, start=1):
        gives_way_N = duplicates(rows, joined([c.hashes[number] for c in checked]))
        kept_N &= ~gives_way_N
        for own, flags_N in zip(moved, np.split(gives_way_N, stops), strict=True):
            if flags_N.any():
                own[f"duplicate:{'+'.join(key)}"] = np.flatnonzero(flags_N)
    totals = [
        c.hashes[0].where(keep_N).total()
        for c, keep_N in zip(checked, np.split(kept_N, stops), strict=True)
    ]
    return [
        Share(c.source, own, total) for c, own, total in zip(checked, moved, totals, strict=True)
    ]


def write_good(table_plan: TablePlan, rows: pa.Table, share: Share) -> Written:
    """Write a slice's good rows, its duplicates apart."""
    keep_N = rows.column(KEEP).to_numpy().copy()
    rows = rows.drop_columns([KEEP])
    moved = None
    if share.duplicates:
        moved = _write_bad(table_plan, _duplicate_rows(rows, np.flatnonzero(keep_N), share))
        gone = np.concatenate(list(share.duplicates.values()))
        keep_N[np.flatnonzero(keep_N)[gone]] = False
    good = rows if keep_N.all() else rows.filter(pa.array(keep_N))
    return Written(
        good=write_file(table_plan.good_uri, good, share.total) if len(good) else None,
        duplicates=moved,
        watermark=_newest(good, table_plan.contract),
        reasons={code: len(places) for code, places in share.duplicates.items()},
    )


def _duplicate_rows(rows: pa.Table, good_at: Places, share: Share) -> pa.Table:
    """Quarantine rows of a slice's duplicates. good_at: where in `rows` its good rows are."""
    places = np.unique(np.concatenate(list(share.duplicates.values())))
    faults: list[Fault] = [
        (code, pa.array(np.isin(places, own))) for code, own in share.duplicates.items()
    ]
    taken = Parsed(rows.take(pa.array(good_at[places])), {})
    return quarantine_rows(taken, reasons(faults, len(places)), share.source)


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


def checked_row(table_plan: TablePlan, row: dict[str, Any]) -> dict[str, Any]:
    part = row.pop("part")
    try:
        checked = check_slice(table_plan, Slice(**{**row, "header": tuple(row["header"])}))
    except RayappError as error:  # Ray Data keeps only an exception's text: ours travel as values
        failed = {"error": type(error).__name__, "args": list(error.args)}
        return {"part": part, "facts": json.dumps(failed), "hashes": [], "rows": b""}
    bad = checked.bad.dump() if checked.bad else None
    facts = {"source": checked.source, "bad": bad, "reasons": dict(checked.reasons)}
    sink = pa.BufferOutputStream()
    if checked.rows is not None:
        with pa.ipc.new_stream(sink, checked.rows.schema) as stream:
            stream.write_table(checked.rows)
    return {
        "part": part,
        "facts": json.dumps(facts),
        "hashes": [lane_N.tobytes() for h in checked.hashes for lane_N in h.lanes_N],
        "rows": sink.getvalue().to_pybytes(),
    }


def parse_checked(row: Mapping[str, Any]) -> Checked:
    facts = json.loads(row["facts"])
    if "error" in facts:
        kind: type[RayappError] = getattr(errors, facts["error"])
        raise kind(*facts["args"])
    lanes = [np.frombuffer(raw, np.uint64) for raw in row["hashes"]]
    return Checked(
        source=facts["source"],
        rows=None,
        bad=DataFile.parse(facts["bad"]) if facts["bad"] else None,
        hashes=tuple(RowHashes((a, b)) for a, b in zip(lanes[::2], lanes[1::2], strict=True)),
        reasons=facts["reasons"],
    )


def dump_written(written: Written) -> str:
    facts = {
        "good": written.good.dump() if written.good else None,
        "duplicates": written.duplicates.dump() if written.duplicates else None,
        "watermark": written.watermark.isoformat() if written.watermark else None,
        "reasons": dict(written.reasons),
    }
    return json.dumps(facts)


def parse_written(text: str) -> Written:
    facts = json.loads(text)
    return Written(
        good=DataFile.parse(facts["good"]) if facts["good"] else None,
        duplicates=DataFile.parse(facts["duplicates"]) if facts["duplicates"] else None,
        watermark=datetime.fromisoformat(facts["watermark"]) if facts["watermark"] else None,
        reasons=facts["reasons"],
    )
