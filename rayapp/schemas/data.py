"""Nouns of the data room: columns, tables, the snapshot, and the profile of what a model saw."""

from datetime import datetime
from typing import Literal

from rayapp.schemas.record import Record

ColumnType = Literal["string", "integer", "number", "boolean", "timestamp"]
Task = Literal["binary", "multiclass", "regression", "text"]
KnownAt = Literal["prediction", "outcome"]
SPLIT_COLUMN = "_split"
ROW_ID_COLUMN = "_row_id"
PREDICTION_TIME_COLUMN = "_prediction_time"


class Column(Record):
    """One column as its contract describes it. Limits are inclusive; None means no limit."""

    name: str
    type: ColumnType
    nullable: bool = False
    minimum: float | None = None
    maximum: float | None = None
    allowed: tuple[str, ...] | None = None
    known_at: KnownAt = "prediction"
    classification: str = ""
    """As the contract states it, for example personal; empty where it states none."""
    description: str = ""


class ContractRef(Record):
    """Which contract, by content."""

    id: str
    version: str
    digest: str


class TableVersion(Record):
    """One version of one Delta table. digest covers every row and does not depend on their
    order."""

    name: str
    uri: str
    version: int
    digest: str
    num_rows: int
    num_quarantined: int
    columns: tuple[Column, ...]
    watermark: datetime | None
    contract: ContractRef | None


class SplitSize(Record):
    name: str
    num_rows: int


class Snapshot(Record):
    """What a model may be trained on: contract-checked tables and the point-in-time view over them.

    `view` has one row per prediction: a row id, the prediction time (where the data has time), the
    split, the label, and every column a feature may use.
    """

    name: str
    task: Task
    tables: tuple[TableVersion, ...]
    view: TableVersion
    label: str
    classes: tuple[str, ...]
    """Class names in the order of a model's probabilities; empty for a regression and for text."""
    time_column: str | None
    splits: tuple[SplitSize, ...]
    config_digest: str


class ColumnProfile(Record):
    """How one input column was distributed in training. counts has one more entry than edges has
    inner cuts for a number (bins between consecutive edges), or one per value for a category; the
    last entry of `values` is the rest of the world."""

    name: str
    type: Literal["number", "category"]
    edges: tuple[float, ...] = ()
    values: tuple[str, ...] = ()
    counts: tuple[int, ...]
    num_missing: int


class Profile(Record):
    """The training distribution that drift is measured against: inputs and predicted scores."""

    num_rows: int
    columns: tuple[ColumnProfile, ...]
