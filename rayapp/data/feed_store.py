"""Which values of a feature feed are the newest, and what they are. Without Ray: gateways read."""

import io
from contextlib import suppress

import pyarrow as pa
import pyarrow.parquet as pq

from rayapp.errors import TamperedError, WorkspaceError
from rayapp.schemas.features import FeatureFeed, FeatureTable
from rayapp.storage import Workspace, exists, read_bytes, remove, replace_bytes, sha256


def make_newest(workspace: Workspace, feed: FeatureFeed) -> None:
    """Endpoints read it from now on. The files of the one before stay, which somebody may still be
    reading; those of the one before that go."""
    uri, before_uri = workspace.feed(feed.name), workspace.feed(f"{feed.name}.before")
    before, gone = _read(uri), _read(before_uri)
    if before is not None:
        replace_bytes(before_uri, before.canonical())
    replace_bytes(uri, feed.canonical())
    kept = {table.uri for one in (feed, before) if one is not None for table in one.tables}
    for table in gone.tables if gone is not None else ():
        if table.uri not in kept:
            with suppress(WorkspaceError):  # somebody has removed it already
                remove(table.uri)


def newest(workspace: Workspace, name: str) -> FeatureFeed | None:
    """None where nothing was published yet."""
    return _read(workspace.feed(name))


def read_values(table: FeatureTable) -> pa.Table:
    """Raises TamperedError where the file is not what was published, and WorkspaceError."""
    data = read_bytes(table.uri)
    if sha256(data) != table.digest:
        raise TamperedError(f"{table.uri} is not what was published", "publish the feed again")
    return pq.read_table(io.BytesIO(data))


def _read(uri: str) -> FeatureFeed | None:
    return FeatureFeed.parse(read_bytes(uri)) if exists(uri) else None
