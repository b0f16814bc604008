"""One table: raw files → contract → good rows to a Delta table, bad rows to its quarantine.

Each Ray task reads one slice, checks it in one pass and writes up to two Parquet files; it returns
their names and the hashes of its good rows. What no block can know alone, duplicates, is decided
here from the hashes; only files that hold one are written again. Then both tables are committed.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import ray.data

from rayapp import errors
from rayapp.config.snapshot import SourceConfig
from rayapp.data.contract import Contract
from rayapp.data.delta import DataFile, commit, discard, read_file, write_file
from rayapp.data.digest import RowHashes, hash_rows, table_digest
from rayapp.data.parse import Parsed
from rayapp.data.rules import any_fault, find_faults, reasons
from rayapp.data.slices import Slice, plan, read_slice
from rayapp.data.unique import duplicates, joined
from rayapp.errors import DataError, RayappError
from rayapp.schemas.data import TableVersion
from rayapp.transforms import arrow_type

log = logging.getLogger("rayapp.data.ingest")

REASONS, SOURCE, RAW = "_reasons", "_source", "_raw"
_WORD_BYTES = 8


@dataclass(frozen=True)
class BlockPlan:
    """What every block of a table needs to know."""

    contract: Contract
    source: SourceConfig
    references: Mapping[str, pa.Array]
    good_uri: str
    bad_uri: str


@dataclass(frozen=True)
class BlockResult:
    """What one block wrote. hashes: of the good rows, then one for each unique key, in file
    order."""

    source: str
    good: DataFile | None
    bad: DataFile | None
    hashes: tuple[RowHashes, ...]
    watermark: datetime | None
    reasons: Mapping[str, int]


def ingest(
    name: str,
    contract: Contract,
    source: SourceConfig,
    num_blocks: int,
    references: Mapping[str, pa.Array],
    table_uri: Callable[[str], str],
) -> tuple[TableVersion, Mapping[str, int]]:
    """The table's new (or unchanged) version, and how many rows each reason code holds for.

    table_uri: where the table of a given name lies. Raises DataError when no row is good.
    """
    block_plan = BlockPlan(
        contract, source, references, table_uri(name), table_uri(f"quarantine/{name}")
    )
    slices = plan(source, contract.columns, num_blocks)
    results = settle(block_plan, _run(block_plan, slices))
    version = _commit(name, block_plan, results)
    counts: dict[str, int] = {}
    for result in results:
        for code, count in result.reasons.items():
            counts[code] = counts.get(code, 0) + count
    log.info("table_ingested", extra={"table": name, "rows": version.num_rows, "reasons": counts})
    return version, counts


def _run(block_plan: BlockPlan, slices: Sequence[Slice]) -> list[BlockResult]:
    def block(rows: pa.Table) -> pa.Table:
        parts = [Slice(**{**row, "header": tuple(row["header"])}) for row in rows.to_pylist()]
        return pa.Table.from_pylist([_dump(_or_error(block_plan, part)) for part in parts])

    rows = [
        {"uri": s.uri, "header": list(s.header), "start": s.start, "stop": s.stop, "text": s.text}
        for s in slices
    ]
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    with ray.data.DataContext.current(context):
        dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
        written = dataset.map_batches(block, batch_format="pyarrow", batch_size=None)
        return [_parse(row) for row in written.take_all()]


def _or_error(block_plan: BlockPlan, part: Slice) -> BlockResult | RayappError:
    """Ray Data keeps only the text of an exception, so our own travel as values."""
    try:
        return check_slice(block_plan, part)
    except RayappError as error:
        return error


def check_slice(block_plan: BlockPlan, part: Slice) -> BlockResult:
    """Read, check and write one slice."""
    contract = block_plan.contract
    read = read_slice(part, block_plan.source, contract.columns)
    faults = find_faults(read.parsed, contract, block_plan.references)
    is_bad = any_fault(faults, read.parsed.table.num_rows)
    good = read.parsed.table.filter(pc.invert(is_bad)) if faults else read.parsed.table
    bad_indices = pc.indices_nonzero(is_bad)
    codes = reasons([(c, bad.take(bad_indices)) for c, bad in faults], len(bad_indices))
    bad = _quarantine(read.parsed.take(bad_indices), codes, part.uri, read.misshapen)
    hashes = hash_rows(good, [good.column_names, *contract.unique])
    counts = {code: pc.sum(rows).as_py() for code, rows in faults}
    if read.misshapen:
        counts["row:shape"] = len(read.misshapen)
    return BlockResult(
        source=part.uri,
        good=write_file(block_plan.good_uri, good, hashes[0].total()) if len(good) else None,
        bad=_write_bad(block_plan, bad),
        hashes=tuple(hashes),
        watermark=_newest(good, contract),
        reasons=counts,
    )


def _quarantine(
    parsed: Parsed, codes: pa.Array, uri: str, misshapen: Sequence[str] = ()
) -> pa.Table:
    """Bad rows as text, with why and from where; a line of another shape is kept whole."""
    num_shaped, names = len(codes), parsed.table.column_names
    columns = {name: parsed.as_text(name) for name in names}
    shaped = pa.table(
        {
            **columns,
            REASONS: codes,
            SOURCE: pa.repeat(uri, num_shaped),
            RAW: pa.nulls(num_shaped, pa.string()),
        }
    )
    if not misshapen:
        return shaped
    lines = {
        REASONS: pa.repeat("row:shape", len(misshapen)),
        SOURCE: pa.repeat(uri, len(misshapen)),
        RAW: pa.array(misshapen, pa.string()),
    }
    empty = {name: pa.nulls(len(misshapen), pa.string()) for name in names}
    return pa.concat_tables([shaped, pa.table({**empty, **lines})])


def _write_bad(block_plan: BlockPlan, bad: pa.Table) -> DataFile | None:
    if not len(bad):
        return None
    (hashes,) = hash_rows(bad, [bad.column_names])
    return write_file(block_plan.bad_uri, bad, hashes.total())


def _newest(table: pa.Table, contract: Contract) -> datetime | None:
    if contract.event_time is None or not len(table):
        return None
    newest: datetime | None = pc.max(table.column(contract.event_time)).as_py()
    return newest


def settle(block_plan: BlockPlan, results: Sequence[BlockResult]) -> list[BlockResult]:
    """Move the rows that are duplicates across all blocks from the good files to quarantine."""
    contract = block_plan.contract
    flags = [
        duplicates(joined([r.hashes[0] for r in results]), joined([r.hashes[n] for r in results]))
        for n in range(1, len(contract.unique) + 1)
    ]
    if not any(flag_N.any() for flag_N in flags):
        return list(results)
    settled, start = [], 0
    for result in results:
        stop = start + len(result.hashes[0].lanes_N[0])
        own = [flag_N[start:stop] for flag_N in flags]
        has_any = any(flag_N.any() for flag_N in own)
        settled += _without(block_plan, result, own) if has_any else [result]
        start = stop
    return settled


def _without(
    block_plan: BlockPlan, result: BlockResult, flags: Sequence[npt.NDArray[np.bool_]]
) -> list[BlockResult]:
    """The block's files written again without its duplicates, and a file of the duplicates."""
    contract = block_plan.contract
    if result.good is None:
        raise AssertionError("a block without good rows has no duplicates")
    table = read_file(block_plan.good_uri, result.good)
    faults = [
        (f"duplicate:{'+'.join(key)}", pa.array(flag_N))
        for key, flag_N in zip(contract.unique, flags, strict=True)
    ]
    is_bad = any_fault(faults, len(table))
    good, bad_rows = table.filter(pc.invert(is_bad)), table.filter(is_bad)
    codes = reasons(faults, len(table)).filter(is_bad)
    bad = _quarantine(Parsed(bad_rows, {}), codes, result.source)
    (hashes,) = hash_rows(good, [good.column_names])
    discard(block_plan.good_uri, [result.good])
    kept = replace(
        result,
        good=write_file(block_plan.good_uri, good, hashes.total()) if len(good) else None,
        watermark=_newest(good, contract),
    )
    counts = {code: pc.sum(rows).as_py() for code, rows in faults if pc.any(rows).as_py()}
    moved = replace(
        result, good=None, bad=_write_bad(block_plan, bad), watermark=None, reasons=counts
    )
    return [kept, moved]


def _commit(name: str, block_plan: BlockPlan, results: Sequence[BlockResult]) -> TableVersion:
    contract = block_plan.contract
    schema = pa.schema([(c.name, arrow_type(c.type)) for c in contract.columns])
    good = [r.good for r in results if r.good is not None]
    bad = [r.bad for r in results if r.bad is not None]
    texts = [pa.field(n, pa.string()) for n in (*schema.names, REASONS, SOURCE, RAW)]
    commit(block_plan.bad_uri, pa.schema(texts), bad, files_digest(pa.schema(texts), bad))
    num_bad = sum(file.num_rows for file in bad)
    if not good:
        raise DataError(
            f"table {name}: none of {num_bad} rows keeps its contract",
            f"look at the reasons in {block_plan.bad_uri}",
        )
    digest = files_digest(schema, good)
    marks = [r.watermark for r in results if r.watermark is not None]
    return TableVersion(
        name=name,
        uri=block_plan.good_uri,
        version=commit(block_plan.good_uri, schema, good, digest),
        digest=digest,
        num_rows=sum(file.num_rows for file in good),
        num_quarantined=num_bad,
        columns=contract.columns,
        watermark=max(marks, default=None),
        contract=contract.ref,
    )


def files_digest(schema: pa.Schema, files: Sequence[DataFile]) -> str:
    """The digest of the table that these files make up."""
    total = (sum(f.total[0] for f in files), sum(f.total[1] for f in files))
    return table_digest(schema, sum(f.num_rows for f in files), total)


def _dump(result: BlockResult | RayappError) -> dict[str, Any]:
    """A block's result as a row that Ray carries: JSON, and the hashes as bytes."""
    if isinstance(result, RayappError):
        error = {"error": type(result).__name__, "args": list(result.args)}
        return {"facts": json.dumps(error), "hashes": [b""]}
    facts = {
        "source": result.source,
        "good": result.good.dump() if result.good else None,
        "bad": result.bad.dump() if result.bad else None,
        "watermark": result.watermark.isoformat() if result.watermark else None,
        "reasons": dict(result.reasons),
    }
    lanes = [lane_N.tobytes() for hashes in result.hashes for lane_N in hashes.lanes_N]
    return {"facts": json.dumps(facts), "hashes": lanes}


def _parse(row: Mapping[str, Any]) -> BlockResult:
    facts = json.loads(row["facts"])
    if "error" in facts:
        kind: type[RayappError] = getattr(errors, facts["error"])
        raise kind(*facts["args"])
    lanes = [np.frombuffer(raw, np.uint64) for raw in row["hashes"]]
    return BlockResult(
        source=facts["source"],
        good=DataFile.parse(facts["good"]) if facts["good"] else None,
        bad=DataFile.parse(facts["bad"]) if facts["bad"] else None,
        hashes=tuple(RowHashes((a, b)) for a, b in zip(lanes[::2], lanes[1::2], strict=True)),
        watermark=datetime.fromisoformat(facts["watermark"]) if facts["watermark"] else None,
        reasons=facts["reasons"],
    )
