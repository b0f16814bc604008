"""configs/snapshots/*.yaml: which tables a use case reads, and the point-in-time view over them."""

import itertools
from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rayapp.config.load import Config
from rayapp.schemas.data import Task


class SourceConfig(Config):
    """Where raw files lie: a path or URI (`uri`), or a data file inside an installed package."""

    uri: str | None = None
    """A CSV, JSON lines or Parquet file, a folder of them, or a glob; .zip and .gz are read as they
    are."""
    package: str | None = None
    path: str | None = None
    """With `package`: the file's path inside the package."""
    format: Literal["csv", "parquet", "jsonl"] = "csv"
    """`jsonl`: a JSON object on each line."""
    null_values: tuple[str, ...] = ("", "NA")
    """Texts of a CSV or JSON lines file that mean a missing value."""

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.uri is None) == (self.package is None):
            raise ValueError("set either `uri` or `package`, not both")
        if (self.package is None) != (self.path is None):
            raise ValueError("`package` and `path` go together")
        return self


class TableConfig(Config):
    contract: str
    """Path of the Open Data Contract Standard file that describes this table."""
    source: SourceConfig
    num_blocks: int = Field(default=4, ge=1)
    """Blocks that Ray Data reads in parallel. Changes neither the verdict nor the digest."""


class LabelConfig(Config):
    name: str
    expression: str | None = None
    """Over base columns, for example `arr_delay > 15`. Rows where it is null are not used."""
    fields: tuple[str, ...] = ()
    """Instead, with `task: text`: columns of which the answer is a JSON object, in this order. What
    is null in a row is null in its object."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.expression is None) == (not self.fields):
            raise ValueError("set either `expression` or `fields`")
        return self


class AsOfFeature(Config):
    """Columns of the other table's newest row that was known at the prediction time."""

    kind: Literal["as_of"]
    table: str
    on: dict[str, str]
    """Column of the base table → column of the other table that must be equal."""
    event_time: str
    """Expression over the other table: when its row became known."""
    columns: dict[str, str]
    """New column → column of the other table."""
    max_age_h: float = Field(gt=0)
    """Older rows count as missing."""


class RollingFeature(Config):
    """A statistic of earlier rows of the base table, of those whose outcome was known in time."""

    kind: Literal["rolling"]
    name: str
    key: tuple[str, ...]
    """Rows with the same values here are averaged; empty for all rows."""
    value: str
    """Expression over base columns; may use outcomes, since only known ones are read."""
    known_at: str
    """Expression: when the row's value became known."""
    window_h: float = Field(gt=0)
    statistic: Literal["mean", "count", "sum"] = "mean"


class LastFeature(Config):
    """The newest known value of earlier rows with the same key, and how old it is."""

    kind: Literal["last"]
    name: str
    key: tuple[str, ...] = Field(min_length=1)
    value: str
    known_at: str
    max_age_h: float = Field(gt=0)
    age_name: str | None = None
    """Also add the age in hours under this name."""


PointInTimeFeature = Annotated[
    AsOfFeature | RollingFeature | LastFeature, Field(discriminator="kind")
]


class TimeSplits(Config):
    kind: Literal["time"]
    train: tuple[datetime, datetime]
    """[from, to): to is not included. Compared with the prediction-time column's base."""
    tune: tuple[datetime, datetime]
    test: tuple[datetime, datetime]

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        bounds = [*self.train, *self.tune, *self.test]
        if any(bound.tzinfo is None for bound in bounds):
            raise ValueError("give every bound a time zone, for example 2013-01-01T00:00:00Z")
        if any(a > b for a, b in itertools.pairwise(bounds)):
            raise ValueError("`train`, `tune` and `test` must follow one another in time")
        return self


class HashSplits(Config):
    kind: Literal["hash"]
    tune_share: float = Field(default=0.15, gt=0, lt=1)
    test_share: float = Field(default=0.25, gt=0, lt=1)
    salt: str = "split"
    by: tuple[str, ...] = ()
    """Columns that must not be torn apart between splits (a customer, a patient); default the
    key."""

    @model_validator(mode="after")
    def _leave_some(self) -> Self:
        held_out = self.tune_share + self.test_share
        if held_out >= 1:
            raise ValueError(
                f"`tune_share` and `test_share` are {held_out:g} together, which leaves no rows to "
                "train on; less than 1 is possible"
            )
        return self


class ViewConfig(Config):
    base: str
    """The table with one row per prediction."""
    key: tuple[str, ...] = Field(min_length=1)
    """Columns that identify a row of the base table."""
    derive: dict[str, str] = Field(default={})
    """New columns as expressions over base columns and columns derived before."""
    prediction_time: str | None = None
    """Expression: when the prediction is asked for. Needed for time splits and for features
    below."""
    label: LabelConfig
    features: tuple[PointInTimeFeature, ...] = ()
    splits: Annotated[TimeSplits | HashSplits, Field(discriminator="kind")]
    max_single_feature_auc: float = Field(default=0.90, gt=0.5, le=1)
    """A column that alone ranks the label better than this on the training rows is refused as
    leakage. For a regression the same limit applies to |Spearman correlation|."""

    @model_validator(mode="after")
    def _time_where_needed(self) -> Self:
        needs = self.features or self.splits.kind == "time"
        if needs and self.prediction_time is None:
            raise ValueError("`prediction_time` is needed for time splits and for `features`")
        return self


class SnapshotConfig(Config):
    section = "snapshot"
    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    task: Task
    """`text`: what is learned is an answer in words, by a language model."""
    tables: dict[str, TableConfig]
    view: ViewConfig

    @model_validator(mode="after")
    def _tables_exist(self) -> Self:
        wanted = {self.view.base} | {f.table for f in self.view.features if f.kind == "as_of"}
        missing = sorted(wanted - set(self.tables))
        if missing:
            raise ValueError(f"`view` names table(s) {missing} that `tables` does not define")
        return self

    @model_validator(mode="after")
    def _objects_are_text(self) -> Self:
        if self.view.label.fields and self.task != "text":
            raise ValueError(
                f"`label.fields` make a text; with task {self.task!r} set `expression`"
            )
        return self
