"""Reading a snapshot's view: as a Ray Dataset, as a sample, and its label rate over time."""

import logging
import warnings
from collections.abc import Sequence
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import ray.data
from ray.util.annotations import RayDeprecationWarning

from rayapp.data.delta import files_of
from rayapp.data.sources import open_uri
from rayapp.errors import ConfigError, DataError
from rayapp.schemas.data import SPLIT_COLUMN, Snapshot
from rayapp.schemas.release import LabelShare
from rayapp.transforms import arrow_type


def speak_only_of_trouble() -> None:
    """For this process: Ray Data shows no bars and logs warnings only; stages show their own."""
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # "bars are off"
    warnings.filterwarnings("ignore", category=RayDeprecationWarning)  # what Ray says to itself
    # that no CPU is free: flows say so with who holds them
    logging.getLogger("ray.data.dataset").addFilter(lambda told: "will hang" not in str(told.msg))


def read_view(
    snapshot: Snapshot,
    split: str | None = None,
    columns: Sequence[str] | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    num_blocks: int = 4,
) -> ray.data.Dataset:
    """Exactly the rows of the snapshot's view, whatever the table holds by now.

    since is included, until is not; both speak of the prediction time.
    """
    wanted = _condition(snapshot, split, since, until)
    context = ray.data.DataContext.get_current().copy()
    context.use_datasource_v2 = False  # the new Parquet reader was far slower on few cores
    context.execution_options.preserve_order = True
    with ray.data.DataContext.current(context):
        dataset = ray.data.read_parquet(
            files_of(snapshot.view),
            filter=wanted,
            columns=list(columns) if columns is not None else None,
            override_num_blocks=num_blocks,
        )
    return dataset


def sample_view(
    snapshot: Snapshot, split: str | None, columns: Sequence[str] | None, max_rows: int
) -> pa.Table:
    """At most max_rows rows of a split, evenly spaced over it, so in time order where it has
    time."""
    rows = read_rows(snapshot, split, columns)
    if rows.num_rows > max_rows:
        step = rows.num_rows / max_rows
        rows = rows.take(pa.array([int(i * step) for i in range(max_rows)]))
    return rows


def label_shares(snapshot: Snapshot) -> tuple[LabelShare, ...]:
    """The label's mean per month and split; for several classes, the share of the most frequent.

    Without time there is one period, "all".
    """
    times = [snapshot.time_column] if snapshot.time_column else []
    rows = read_rows(snapshot, None, [snapshot.label, SPLIT_COLUMN, *times])
    values = rows.column(snapshot.label)
    if snapshot.task == "multiclass":
        values = pc.cast(pc.equal(values, _most_frequent(values)), pa.int8())
    period = pc.strftime(rows.column(times[0]), "%Y-%m") if times else pa.repeat("all", len(rows))
    grouped = (
        pa.table(
            {
                "period": period,
                "split": rows.column(SPLIT_COLUMN),
                "value": pc.cast(values, pa.float64()),
            }
        )
        .group_by(["period", "split"])
        .aggregate([("value", "mean"), ("value", "count")])
        .sort_by([("period", "ascending"), ("split", "ascending")])
    )
    return tuple(
        LabelShare(
            period=row["period"],
            split=row["split"],
            value=row["value_mean"],
            num_rows=row["value_count"],
        )
        for row in grouped.to_pylist()
    )


def _most_frequent(values: pa.ChunkedArray) -> str:
    counted = values.value_counts().to_pylist()
    return str(min(counted, key=lambda e: (-e["counts"], e["values"]))["values"])


def read_rows(
    snapshot: Snapshot,
    split: str | None,
    columns: Sequence[str] | None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> pa.Table:
    """As `read_view`, into the memory of this process, which needs no CPU of the cluster for it.
    Raises DataError where there is no row."""
    wanted = _condition(snapshot, split, since, until)
    parts = []
    for uri in files_of(snapshot.view):
        filesystem, path = open_uri(uri)
        file = pads.dataset(path, filesystem=filesystem, format="parquet")
        parts.append(
            file.to_table(columns=list(columns) if columns is not None else None, filter=wanted)
        )
    rows = pa.concat_tables(parts)
    if not rows.num_rows:
        raise DataError(f"view {snapshot.name}: split {split!r} has no rows", "see its splits")
    return rows


def _condition(
    snapshot: Snapshot, split: str | None, since: datetime | None, until: datetime | None
) -> pc.Expression | None:
    conditions = []
    if split is not None:
        names = [s.name for s in snapshot.splits]
        if split not in names:
            raise ConfigError(f"split {split!r} is not one of {names}", "choose one of them")
        conditions.append(pc.field(SPLIT_COLUMN) == split)
    if since is not None or until is not None:
        if snapshot.time_column is None:
            raise ConfigError(
                f"snapshot {snapshot.name!r} has no prediction time", "leave out since and until"
            )
        time, kind = pc.field(snapshot.time_column), arrow_type("timestamp")
        if since is not None:
            conditions.append(time >= pa.scalar(since, kind))
        if until is not None:
            conditions.append(time < pa.scalar(until, kind))
    combined = None
    for condition in conditions:
        combined = condition if combined is None else combined & condition
    return combined
