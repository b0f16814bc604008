"""Which rows train, which tune, which test: by time, or by a stable hash of a key."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayapp.config.snapshot import HashSplits, TimeSplits
from rayapp.data.digest import unit_interval
from rayapp.schemas.data import PREDICTION_TIME_COLUMN
from rayapp.transforms import arrow_type

SPLITS = ("train", "tune", "test")


def split_column(
    table: pa.Table, splits: TimeSplits | HashSplits, key: tuple[str, ...]
) -> pa.Array:
    """train, tune or test for each row; null for a row that lies in no time window.

    A hash split depends on the row's key (or `by`) and the salt alone, so a row stays where it is
    when others come or go, and rows that agree in `by` stay together.
    """
    nothing = pa.scalar(None, pa.string())
    if isinstance(splits, HashSplits):
        place_N = unit_interval(table, splits.by or key, splits.salt)
        is_tune = place_N < splits.test_share + splits.tune_share
        return pa.array(
            np.where(place_N < splits.test_share, "test", np.where(is_tune, "tune", "train")),
            pa.string(),
        )
    times = table.column(PREDICTION_TIME_COLUMN).combine_chunks()
    column = pa.nulls(len(times), pa.string())
    for name in SPLITS:
        start, stop = getattr(splits, name)
        kind = arrow_type("timestamp")
        inside = pc.and_(
            pc.greater_equal(times, pa.scalar(start, kind)), pc.less(times, pa.scalar(stop, kind))
        )
        column = pc.if_else(pc.fill_null(inside, False), name, column)
    return pc.if_else(pc.is_valid(column), column, nothing)
