"""Raw files → an immutable, content-addressed Snapshot: checked tables and the view over them."""

import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from rayapp.config.snapshot import SnapshotConfig
from rayapp.data.contract import Contract, load_contract
from rayapp.data.delta import (
    DataFile,
    commit,
    read_version,
    write_file,
)
from rayapp.data.digest import hash_rows
from rayapp.data.ingest import Ingested, files_digest, ingest
from rayapp.data.plan import plan_view
from rayapp.data.sources import digest_source
from rayapp.data.view import View, make_view
from rayapp.errors import ConfigError, RayappError
from rayapp.schemas.data import (
    PREDICTION_TIME_COLUMN,
    Column,
    Snapshot,
    SplitSize,
    TableVersion,
)
from rayapp.schemas.record import canonical_json
from rayapp.storage import Workspace, sha256

log = logging.getLogger("rayapp.data.snapshot")

MAX_ALLOWED_VALUES = 2_000
_VIEW_FILES = 8
_MAX_SHOWN = 6
_VIEW_FILE_MIN_ROWS = 10_000
Result = TypeVar("Result")


def build_snapshot(
    config: SnapshotConfig, workspace: Workspace, on_stage: Callable[[str], None]
) -> Snapshot:
    """Check every table against its contract, then compute the view. Needs a running Ray.

    Building again from the same files gives the same snapshot and no new table version. Raises
    ConfigError, ContractError, DataError or LeakageRefused before anything half-made is visible.
    """
    contracts = {name: load_contract(table.contract) for name, table in config.tables.items()}
    columns = plan_view(config, {name: c.columns for name, c in contracts.items()})
    versions = ingest_tables(config, contracts, workspace, on_stage)
    references = _referenced(contracts[config.view.base], contracts, versions)
    columns = tuple(_closed(c, references.get(c.name)) for c in columns)
    what = "computing point-in-time features" if config.view.features else "label and splits"
    on_stage(f"view {config.name}: {what} over {config.view.base}")
    view, classes, splits, dropped = _built(config, columns, versions, workspace)
    if dropped:
        left_out = ", ".join(f"{count:,} with {reason}" for reason, count in dropped.items())
        on_stage(f"view {config.name}: left out {left_out}")
    return Snapshot(
        name=config.name,
        task=config.task,
        tables=tuple(versions[name] for name in config.tables),
        view=view,
        label=config.view.label.name,
        classes=classes,
        time_column=PREDICTION_TIME_COLUMN if config.view.prediction_time else None,
        splits=splits,
        config_digest=_config_digest(config),
    )


def ingest_tables(
    config: SnapshotConfig,
    contracts: Mapping[str, Contract],
    workspace: Workspace,
    on_stage: Callable[[str], None],
) -> dict[str, TableVersion]:
    """Every table as its source is now, checked against its contract. Needs a running Ray."""
    versions: dict[str, TableVersion] = {}
    for name in _in_order(contracts):
        table, contract = config.tables[name], contracts[name]
        references = _referenced(contract, contracts, versions)
        ingested = ingest(
            name, contract, table.source, table.num_blocks, references, workspace.table
        )
        versions[name] = ingested.version
        _tell(ingested, on_stage)
        _tell_staleness(ingested.version, contract, on_stage)
    return versions


def source_digest(config: SnapshotConfig) -> str:
    """What would go into the snapshot now: the raw files and the contract files."""
    parts = {
        name: [digest_source(table.source), load_contract(table.contract).ref.digest]
        for name, table in config.tables.items()
    }
    return sha256(canonical_json(parts))


def _config_digest(config: SnapshotConfig) -> str:
    """Over everything that decides the content; the number of blocks does not."""
    plain = config.model_dump(mode="json")
    for table in plain["tables"].values():
        del table["num_blocks"]
    return sha256(canonical_json(plain))


def _in_order(contracts: Mapping[str, Contract]) -> list[str]:
    """Tables after those that they refer to. Raises ConfigError for a missing one or a circle."""
    order: list[str] = []
    waiting = dict(contracts)
    while waiting:
        ready = [
            name
            for name, contract in waiting.items()
            if all(
                _table_named(table, contracts, contract) in (*order, name)
                for table, _ in contract.references.values()
            )
        ]
        if not ready:
            raise ConfigError(
                f"tables {sorted(waiting)} refer to each other in a circle",
                "remove one of the references from the contracts",
            )
        order += ready
        for name in ready:
            del waiting[name]
    return order


def _table_named(table: str, contracts: Mapping[str, Contract], asking: Contract) -> str:
    for name, contract in contracts.items():
        if contract.table == table:
            return name
    raise ConfigError(
        f"contract {asking.ref.id} refers to table {table!r}, which the snapshot does not have",
        "add it under `tables`, or remove the reference from the contract",
    )


def _referenced(
    contract: Contract, contracts: Mapping[str, Contract], versions: Mapping[str, TableVersion]
) -> dict[str, pa.Array]:
    """The values that each referring column may have."""
    found = {}
    for column, (table, target) in contract.references.items():
        name = _table_named(table, contracts, contract)
        if name not in versions:
            raise ConfigError(
                f"contract {contract.ref.id}: {column} refers to its own table", "remove it"
            )
        known = [c.name for c in versions[name].columns]
        if target not in known:
            raise ConfigError(
                f"contract {contract.ref.id}: {column} refers to {table}.{target}; columns are "
                f"{known}",
                "correct the reference",
            )
        found[column] = pc.unique(read_version(versions[name], [target]).column(target))
    return found


def _closed(column: Column, values: pa.ChunkedArray | None) -> Column:
    """A column that refers to another table, with the values found there: an endpoint has no other
    table to look into, and must still refuse a carrier that nobody knows."""
    if values is None or column.allowed is not None or column.type != "string":
        return column
    if len(values) > MAX_ALLOWED_VALUES:
        return column
    allowed = tuple(sorted(v for v in values.to_pylist() if v is not None))
    return column.model_copy(update={"allowed": allowed})


def _tell(ingested: Ingested, on_stage: Callable[[str], None]) -> None:
    version = ingested.version
    why = ", ".join(f"{code} {count:,}" for code, count in sorted(ingested.reasons.items()))
    on_stage(
        f"table {version.name}: {version.num_rows:,} rows kept, "
        f"{version.num_quarantined:,} quarantined{f' ({why})' if why else ''}"
    )
    if ingested.ignored:
        shown = ", ".join(ingested.ignored[:_MAX_SHOWN])
        more = len(ingested.ignored) - _MAX_SHOWN
        on_stage(
            f"table {version.name}: left out what its contract does not describe: {shown}"
            + (f" and {more} more" if more > 0 else "")
        )


def _tell_staleness(
    version: TableVersion, contract: Contract, on_stage: Callable[[str], None]
) -> None:
    age_h = stale_by_h(version, contract, datetime.now(UTC))
    if age_h is not None:
        log.info("table_stale", extra={"table": version.name, "age_h": age_h})
        on_stage(
            f"table {version.name}: stale, its newest row is {age_h:,.0f} h old where its contract "
            f"allows {contract.freshness_h:,.0f} h (as of {version.watermark:%Y-%m-%d})"
        )


def stale_by_h(version: TableVersion, contract: Contract, now: datetime) -> float | None:
    """The newest row's age in hours, where that is more than the contract allows."""
    if contract.freshness_h is None or version.watermark is None:
        return None
    age_h = (now - version.watermark).total_seconds() / 3600
    return age_h if age_h > contract.freshness_h else None


Built = tuple[TableVersion, tuple[str, ...], tuple[SplitSize, ...], Mapping[str, int]]


def _built(
    config: SnapshotConfig,
    columns: Sequence[Column],
    versions: Mapping[str, TableVersion],
    workspace: Workspace,
) -> Built:
    """The view, computed and committed in one Ray task that holds the tables in memory."""
    uri = workspace.table(f"views/{config.name}")
    return in_one_task(build_view, config, columns, dict(versions), uri)


def in_one_task(function: Callable[..., Result], *arguments: Any) -> Result:
    """What the function returns in a Ray task of its own; our errors arrive as themselves."""
    task = ray.remote(num_cpus=1)(function)
    try:
        result: Result = ray.get(task.remote(*arguments))
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, RayappError):
            raise error.cause from None
        raise
    return result


def build_view(
    config: SnapshotConfig,
    columns: Sequence[Column],
    versions: Mapping[str, TableVersion],
    uri: str,
) -> Built:
    others = {
        f.table: canonical_rows(read_version(versions[f.table]))
        for f in config.view.features
        if f.kind == "as_of"
    }
    view = make_view(config, columns, read_version(versions[config.view.base]), others)
    files = _write(view, uri)
    digest = files_digest(view.rows.schema, files)
    version = TableVersion(
        name=f"views/{config.name}",
        uri=uri,
        version=commit(uri, view.rows.schema, files, digest),
        digest=digest,
        num_rows=view.rows.num_rows,
        num_quarantined=0,
        columns=tuple(columns),
        watermark=_newest(view),
        contract=None,
    )
    return version, view.classes, view.splits, view.dropped


def canonical_rows(table: pa.Table) -> pa.Table:
    """Rows in an order that depends on their content alone, so that ties fall the same way."""
    (hashes,) = hash_rows(table, [table.column_names])
    return table.take(pa.array(np.lexsort(hashes.lanes_N)))


def _newest(view: View) -> datetime | None:
    if PREDICTION_TIME_COLUMN not in view.rows.column_names:
        return None
    newest: datetime | None = pc.max(view.rows.column(PREDICTION_TIME_COLUMN)).as_py()
    return newest


def _write(view: View, uri: str) -> list[DataFile]:
    """A few files, in row order by name, so that readers share the work."""
    rows = view.rows
    num_files = max(1, min(_VIEW_FILES, rows.num_rows // _VIEW_FILE_MIN_ROWS))
    cuts = np.linspace(0, rows.num_rows, num_files + 1).astype(int)
    files = []
    for index, (start, stop) in enumerate(itertools.pairwise(cuts)):
        part = rows.slice(start, stop - start)
        (hashes,) = hash_rows(part, [part.column_names])
        files.append(write_file(uri, part, hashes.total(), prefix=f"part-{index:05d}"))
    return files
