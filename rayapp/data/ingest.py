"""One table: raw files → contract → good rows to a Delta table, bad rows to its quarantine.

Ray Data reads each part of the raw files, checks it in one pass, writes its bad rows, and leaves
its rows in the object store beside their hashes. What no part can know alone, duplicates, is
decided here from the hashes. Then one task a part writes its good rows, less the duplicates. Files
count only once both tables are committed.

    RawPart ─ check_part ─▶ Checked ─ decide ─▶ Decision ─ write_good ─▶ Written ─ _commit ─▶
    TableVersion, over which view.py computes the snapshot's view
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import pyarrow as pa
import ray.data
from ray import ObjectRef
from ray.exceptions import RayTaskError

from rayapp.config.snapshot import SourceConfig
from rayapp.data.block import (
    RAW,
    REASONS,
    SOURCE,
    Checked,
    Decision,
    TablePlan,
    Written,
    check_block,
    decide,
    parse_checked,
    part_row,
    write_block,
)
from rayapp.data.contract import Contract
from rayapp.data.delta import DataFile, commit
from rayapp.data.digest import table_digest
from rayapp.data.parts import RawPart, cut_source
from rayapp.errors import DataError
from rayapp.schemas.data import TableVersion
from rayapp.transforms import arrow_type

log = logging.getLogger("rayapp.data.ingest")

T = TypeVar("T")


@dataclass(frozen=True)
class Ingested:
    """version: the table's new one, or the unchanged old one. reasons: how many rows each reason
    code holds for. ignored: columns of the raw files that the contract does not speak of."""

    version: TableVersion
    reasons: Mapping[str, int]
    ignored: tuple[str, ...]


def ingest(
    name: str,
    contract: Contract,
    source: SourceConfig,
    num_blocks: int,
    references: Mapping[str, pa.Array],
    table_uri: Callable[[str], str],
) -> Ingested:
    """table_uri: where the table of a given name lies. Raises DataError when no row is good."""
    table_plan = TablePlan(
        contract, source, references, table_uri(name), table_uri(f"quarantine/{name}")
    )
    parts = cut_source(source, contract, num_blocks)
    checked, written = _run(table_plan, parts)
    version = _commit(name, table_plan, checked, written)
    counts: dict[str, int] = {}
    for reasons in [*[c.reasons for c in checked], *[w.reasons for w in written]]:
        for code, count in reasons.items():
            counts[code] = counts.get(code, 0) + count
    log.info("table_ingested", extra={"table": name, "rows": version.num_rows, "reasons": counts})
    known = {column.name for column in contract.columns}
    ignored = dict.fromkeys(name for part in parts for name in part.header if name not in known)
    return Ingested(version, counts, tuple(ignored))


def _run(table_plan: TablePlan, parts: Sequence[RawPart]) -> tuple[list[Checked], list[Written]]:
    def check(rows: pa.Table) -> pa.Table:
        (row,) = rows.to_pylist()  # from_items below makes a block of each
        return check_block(table_plan, row)

    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.target_max_block_size = None  # a part stays one block, whatever its size
    context.raise_original_map_exception = True  # else our own errors arrive nameless
    with ray.data.DataContext.current(context):
        items = [part_row(n, part) for n, part in enumerate(parts)]
        dataset = ray.data.from_items(items, override_num_blocks=len(items))
        kept = dataset.map_batches(check, batch_format="pyarrow", batch_size=None)
        blocks = kept.materialize().to_arrow_refs()
    # A plain task a block from here on: planning two more datasets would cost more than they do.
    told = _results([_told.remote(block) for block in blocks])
    in_order = sorted(zip(told, blocks, strict=True), key=lambda pair: pair[0][0])
    checked = [found for (_, found), _ in in_order]
    decisions = decide(table_plan.contract, checked)
    shared_plan = ray.put(table_plan)
    written = [
        _write.remote(shared_plan, block, decision)
        for (_, block), decision in zip(in_order, decisions, strict=True)
    ]
    return checked, _results(written)


@ray.remote
def _told(block: pa.Table) -> tuple[int, Checked]:
    return parse_checked(block)


@ray.remote
def _write(table_plan: TablePlan, block: pa.Table, decision: Decision) -> Written:
    return write_block(table_plan, block, decision)


def _results(refs: Sequence[ObjectRef[T]]) -> list[T]:
    try:
        return ray.get(list(refs))
    except (
        RayTaskError
    ) as error:  # our own errors arrive as themselves, not as a worker's traceback
        raise error.cause from error


def _commit(
    name: str, table_plan: TablePlan, checked: Sequence[Checked], written: Sequence[Written]
) -> TableVersion:
    contract = table_plan.contract
    schema = pa.schema([(c.name, arrow_type(c.type)) for c in contract.columns])
    good = [w.good for w in written if w.good is not None]
    moved = [w.duplicates for w in written]
    bad = [file for file in (*[c.bad for c in checked], *moved) if file is not None]
    texts = pa.schema([pa.field(n, pa.string()) for n in (*schema.names, REASONS, SOURCE, RAW)])
    commit(table_plan.bad_uri, texts, bad, files_digest(texts, bad))
    num_bad = sum(file.num_rows for file in bad)
    if not good:
        raise DataError(
            f"table {name}: none of {num_bad} rows keeps its contract",
            f"look at the reasons in {table_plan.bad_uri}",
        )
    digest = files_digest(schema, good)
    marks = [w.watermark for w in written if w.watermark is not None]
    return TableVersion(
        name=name,
        uri=table_plan.good_uri,
        version=commit(table_plan.good_uri, schema, good, digest),
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
