"""A snapshot's training and tune rows, encoded once for every family, run and trial."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rayapp.errors import DataError
from rayapp.families.base import Problem
from rayapp.families.bundle import bundle_inputs
from rayapp.families.encoding import Encode, fit_encoding
from rayapp.schemas.data import Profile, Snapshot
from rayapp.schemas.model import EncodedFeature, Feature

Rows = Any  # ray.data.Dataset, which only the data rooms import


@dataclass(frozen=True)
class EncodedSplits:
    """train and tune are materialised datasets with the columns x [F] and y, both float32."""

    features: tuple[EncodedFeature, ...]
    profile: Profile
    train: Rows
    tune: Rows

    @property
    def num_rows(self) -> int:
        """Training rows."""
        return self.profile.num_rows

    def problem(self, snapshot: Snapshot, seed: int, num_rows: int | None = None) -> Problem:
        """num_rows: where only a part of the training rows is used."""
        return Problem(
            task=snapshot.task,
            num_classes=len(snapshot.classes),
            features=self.features,
            seed=seed,
            num_rows=num_rows or self.num_rows,
        )


def encode_splits(
    snapshot: Snapshot, features: Sequence[Feature], train: Rows, tune: Rows
) -> EncodedSplits:
    """Learn the encoding on the training rows and apply it once to both splits, in order.

    Raises DataError where a split has no rows.
    """
    columns = snapshot.view.columns
    for rows in (train, tune):
        rows.context.execution_options.preserve_order = True  # decides which rows a tree samples
        rows.context.enable_progress_bars = False  # the stage shows its own
        rows.context.print_on_execution_start = False
    inputs = [column.name for column in bundle_inputs(features, columns)]
    fitted, profile = fit_encoding(train.select_columns(inputs), features, columns)
    encode = Encode(fitted, snapshot.label, snapshot.task, snapshot.classes)
    train_rows, tune_rows = (
        rows.select_columns([*inputs, snapshot.label])
        .map_batches(encode, batch_format="pyarrow", batch_size=None)
        .materialize()
        for rows in (train, tune)
    )
    if not tune_rows.count():
        raise DataError("the tune split has no rows", "check the snapshot's splits")
    return EncodedSplits(fitted, profile, train_rows, tune_rows)
