"""Delta tables of the workspace: files are written first, then one commit makes them a version.

A version records the digest of its rows and the SHA-256 of each of its files. Committing the same
digest again is no new version, so a stage that was interrupted may simply run again.
"""

import json
import logging
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, Schema, Transaction
from deltalake.exceptions import DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, RemoveAction, create_table_with_add_actions

from rayapp.data.digest import digest_of
from rayapp.data.sources import open_uri
from rayapp.errors import DataError, TamperedError, WorkspaceError
from rayapp.schemas.data import TableVersion
from rayapp.schemas.record import short
from rayapp.storage import read_bytes, sha256

log = logging.getLogger("rayapp.data.delta")

_ATTEMPTS = 5
_DIGEST, _FILES = "rayapp.digest", "rayapp.files"


@dataclass(frozen=True)
class DataFile:
    """A Parquet file that lies in a table's folder. total: the sum of its rows' hashes."""

    path: str
    num_bytes: int
    sha256: str
    num_rows: int
    total: tuple[int, int]

    def dump(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> "DataFile":
        return cls(**{**raw, "total": (raw["total"][0], raw["total"][1])})


def write_file(uri: str, table: pa.Table, total: tuple[int, int], prefix: str = "part") -> DataFile:
    """One Parquet file in the folder of the table at `uri`; no version has it until `commit`.

    Text that comes as places in a dictionary is text in the file: without Arrow's own schema beside
    it, a file says what its values are, not how they lay in memory.
    """
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, store_schema=False)
    data = sink.getvalue().to_pybytes()
    name = f"{prefix}-{uuid.uuid4().hex}.parquet"
    filesystem, folder = open_uri(uri)
    try:
        filesystem.create_dir(folder, recursive=True)
        with filesystem.open_output_stream(f"{folder}/{name}") as stream:
            stream.write(data)
    except OSError as error:
        raise WorkspaceError(
            f"{uri}: cannot be written ({error})", "check that you may write to the workspace"
        ) from None
    return DataFile(name, len(data), sha256(data), table.num_rows, total)


def discard(uri: str, files: Sequence[DataFile]) -> None:
    """Remove files that no version refers to."""
    filesystem, folder = open_uri(uri)
    for file in files:
        filesystem.delete_file(f"{folder}/{file.path}")


def commit(uri: str, schema: pa.Schema, files: Sequence[DataFile], digest: str) -> int:
    """Make `files` the whole content of the table; returns the version.

    Where the newest version has this digest already, that version is returned and the files are
    removed. A commit by somebody else in between is seen, and the question is asked again.
    """
    for attempt in range(_ATTEMPTS):
        table = _open(uri)
        if table is not None and _recorded(table, table.version(), _DIGEST) == digest:
            discard(uri, files)
            return int(table.version())
        try:
            _commit_once(uri, table, schema, files, digest)
            return 0 if table is None else int(table.version()) + 1
        except DeltaError as error:
            if attempt == _ATTEMPTS - 1:
                raise WorkspaceError(
                    f"table {uri}: {_ATTEMPTS} commits failed ({error})",
                    "see whether another job writes the same table, then run this again",
                ) from error
            log.info("commit_lost_a_race", extra={"table": uri, "attempt": attempt})
    raise AssertionError("the last attempt either returns or raises")


def _commit_once(
    uri: str, table: DeltaTable | None, schema: pa.Schema, files: Sequence[DataFile], digest: str
) -> None:
    now_ms = int(time.time() * 1000)
    actions = [
        AddAction(f.path, f.num_bytes, {}, now_ms, True, json.dumps({"numRecords": f.num_rows}))
        for f in files
    ]
    recorded = {_DIGEST: digest, _FILES: json.dumps({f.path: f.sha256 for f in files})}
    if table is None:
        properties = CommitProperties(custom_metadata=recorded, max_commit_retries=0)
        create_table_with_add_actions(
            uri, Schema.from_arrow(schema), actions, "error", [], commit_properties=properties
        )
        return
    # without the transaction an overwrite through a stale handle would keep others' new rows
    fence = Transaction("rayapp", table.version() + 1)
    table.create_write_transaction(
        list[AddAction | RemoveAction](actions),
        "overwrite",
        Schema.from_arrow(schema),
        [],
        commit_properties=CommitProperties(
            custom_metadata=recorded, app_transactions=[fence], max_commit_retries=0
        ),
    )


def _open(uri: str, version: int | None = None) -> DeltaTable | None:
    try:
        return DeltaTable(uri, version=version)
    except TableNotFoundError:
        return None
    except DeltaError as error:
        raise WorkspaceError(
            f"table {uri}: cannot be opened ({error})", "`rayapp audit verify` names the damage"
        ) from None


def _recorded(newest: DeltaTable, version: int, key: str) -> str | None:
    """What the commit of a version says. newest: the table, opened without a version, since
    `history` lists the newest commits first and numbers them from the version that is open."""
    commits = newest.history(newest.version() - version + 1)
    return next((c for c in commits if c.get("version") == version), {}).get(key)


def open_version(version: TableVersion) -> DeltaTable:
    """Raises DataError when this version is not there any more."""
    table = _open(version.uri, version.version)
    if table is None:
        raise DataError(
            f"table {version.uri}: version {version.version} is gone", "build the snapshot again"
        )
    return table


def files_of(version: TableVersion) -> list[str]:
    """URIs of exactly this version's files, in the order they were written in."""
    return sorted(open_version(version).file_uris())


def read_version(version: TableVersion, columns: Sequence[str] | None = None) -> pa.Table:
    """All rows of a version, in no particular order."""
    parts = []
    for uri in files_of(version):
        filesystem, path = open_uri(uri)
        parts.append(
            pq.read_table(path, filesystem=filesystem, columns=list(columns) if columns else None)
        )
    if not parts:
        raise DataError(f"table {version.name}: has no rows", "look into its quarantine table")
    return pa.concat_tables(parts)


def recomputed_digest(version: TableVersion) -> str:
    """The digest of the rows that are really there. Raises TamperedError naming a changed file."""
    table = open_version(version)
    newest = DeltaTable(version.uri)
    recorded: dict[str, str] = json.loads(_recorded(newest, version.version, _FILES) or "{}")
    for uri in sorted(table.file_uris()):
        expected = recorded.get(uri.rpartition("/")[2])
        found = sha256(read_bytes(uri))
        if expected != found:
            raise TamperedError(
                f"{uri}: sha256 is {short(found)}…, recorded is {short(str(expected))}…",
                "do not use this version; build the snapshot again",
            )
    return digest_of(read_version(version))
