"""Nouns of feature values that endpoints look up: one feed, the values of its keys at a moment."""

from datetime import datetime

from rayapp.schemas.data import ColumnType
from rayapp.schemas.record import Record


class FeatureTable(Record):
    """Values by key. keys: the columns that a row is found by, none where there is one row for all.
    stale_at: when its source's newest row is older than the source's contract allows."""

    keys: tuple[str, ...]
    columns: tuple[tuple[str, ColumnType], ...]
    uri: str
    digest: str
    """SHA-256 of the file, a Parquet table of the keys and the columns."""
    num_rows: int
    as_of: datetime
    """The newest row of the source, or when the values were computed, whichever is earlier."""
    stale_at: datetime


class FeatureFeed(Record):
    """One publication. at: the moment for which values were computed."""

    name: str
    at: datetime
    tables: tuple[FeatureTable, ...]
