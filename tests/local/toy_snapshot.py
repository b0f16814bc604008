"""A snapshot whose rows are only in memory, for what takes rows and snapshot apart."""

from collections.abc import Sequence

from rayapp.schemas.data import Column, Snapshot, TableVersion


def toy_snapshot(columns: Sequence[Column], label: str) -> Snapshot:
    view = TableVersion(
        name="views/toy",
        uri="unused",
        version=0,
        digest="0",
        num_rows=0,
        num_quarantined=0,
        columns=tuple(columns),
        watermark=None,
        contract=None,
    )
    return Snapshot(
        name="toy",
        task="binary",
        tables=(),
        view=view,
        label=label,
        classes=("no", "yes"),
        time_column=None,
        splits=(),
        config_digest="0",
    )
