"""The newest values of a feed: found by readers, whole, and never more than two publications old
files on the disk."""

import io
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rayapp.data.feed_store import make_newest, newest, read_values
from rayapp.errors import TamperedError
from rayapp.schemas.features import FeatureFeed, FeatureTable
from rayapp.storage import Workspace, commit_bytes, sha256

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


def published(workspace: Workspace, value: float) -> FeatureFeed:
    file = io.BytesIO()
    pq.write_table(pa.table({"line": ["a"], "mean": [value]}), file)
    data = file.getvalue()
    uri = f"{workspace.artifact('features', sha256(data))}.parquet"
    commit_bytes(uri, data)
    table = FeatureTable(
        keys=("line",),
        columns=(("mean", "number"),),
        uri=uri,
        digest=sha256(data),
        num_rows=1,
        as_of=NOON,
        stale_at=NOON,
    )
    feed = FeatureFeed(name="trips", at=NOON, tables=(table,))
    make_newest(workspace, feed)
    return feed


def test_the_last_one_published_is_read(tmp_path: Path) -> None:
    workspace = Workspace(str(tmp_path))
    assert newest(workspace, "trips") is None
    feeds = [published(workspace, value) for value in (1.0, 2.0, 3.0, 3.0, 1.0)]
    found = newest(workspace, "trips")
    assert found == feeds[-1]
    assert read_values(found.tables[0]).to_pylist() == [{"line": "a", "mean": 1.0}]
    assert len(list(tmp_path.rglob("*.parquet"))) == 2


def test_a_file_that_was_changed_is_not_read(tmp_path: Path) -> None:
    workspace = Workspace(str(tmp_path))
    (table,) = published(workspace, 1.0).tables
    Path(table.uri).write_bytes(b"other")
    with pytest.raises(TamperedError, match="not what was published"):
        read_values(table)
