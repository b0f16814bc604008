"""One table: raw files → contract → good rows to a Delta table, bad rows to its quarantine.

Two steps of Ray Data over the slices of the raw files. The first reads a slice, checks it in one
pass, writes its bad rows, and keeps its good rows in the object store beside their hashes. What no
slice can know alone, duplicates, is decided here from the hashes. The second writes each slice's
good rows, less the duplicates. Files count only once both tables are committed.
"""

import logging
from collections.abc import Callable, Mapping, Sequence

import pyarrow as pa
import ray.data

from rayapp.config.snapshot import SourceConfig
from rayapp.data.block import (
    CHECKED_SCHEMA,
    RAW,
    REASONS,
    SOURCE,
    Checked,
    TablePlan,
    Written,
    checked_row,
    decide,
    dump_written,
    parse_checked,
    parse_written,
    write_good,
)
from rayapp.data.contract import Contract
from rayapp.data.delta import DataFile, commit
from rayapp.data.digest import table_digest
from rayapp.data.slices import Slice, plan
from rayapp.errors import DataError
from rayapp.schemas.data import TableVersion
from rayapp.transforms import arrow_type

log = logging.getLogger("rayapp.data.ingest")


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
    table_plan = TablePlan(
        contract, source, references, table_uri(name), table_uri(f"quarantine/{name}")
    )
    checked, written = _run(table_plan, plan(source, contract.columns, num_blocks))
    version = _commit(name, table_plan, checked, written)
    counts: dict[str, int] = {}
    for reasons in [*[c.reasons for c in checked], *[w.reasons for w in written]]:
        for code, count in reasons.items():
            counts[code] = counts.get(code, 0) + count
    log.info("table_ingested", extra={"table": name, "rows": version.num_rows, "reasons": counts})
    return version, counts


def _run(table_plan: TablePlan, slices: Sequence[Slice]) -> tuple[list[Checked], list[Written]]:
    def check(rows: pa.Table) -> pa.Table:
        return pa.Table.from_pylist(
            [checked_row(table_plan, row) for row in rows.to_pylist()], CHECKED_SCHEMA
        )

    rows = [
        {"part": n, "uri": s.uri, "header": list(s.header), "start": s.start, "stop": s.stop}
        | {"text": s.text}
        for n, s in enumerate(slices)
    ]
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    with ray.data.DataContext.current(context):
        dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
        kept = dataset.map_batches(check, batch_format="pyarrow", batch_size=None).materialize()
        found = kept.select_columns(["part", "facts", "hashes"]).take_all()
        checked = [parse_checked(row) for row in sorted(found, key=lambda row: row["part"])]
        shares = decide(table_plan.contract, checked)

        def write(rows: pa.Table) -> pa.Table:
            streams = [pa.ipc.open_stream(raw.as_buffer()) for raw in rows.column("rows")]
            written = [
                write_good(table_plan, stream.read_all(), shares[part])
                for part, stream in zip(rows.column("part").to_pylist(), streams, strict=True)
            ]
            return pa.table({"facts": [dump_written(w) for w in written]})

        done = kept.map_batches(write, batch_format="pyarrow", batch_size=None).take_all()
    return checked, [parse_written(row["facts"]) for row in done]


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
