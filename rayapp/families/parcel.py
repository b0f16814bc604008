"""Python values on their way between two of our own processes, as rows of a Ray dataset.

Ray would pickle an object in a column as well, but not without a warning on every block. Only for
values that a worker of this job made a moment ago: never for bytes from a file or a store.
"""

import pickle
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

_COLUMN = "parcel"


def pack(values: Sequence[Any]) -> pa.Table:
    """One row per value."""
    return pa.table({_COLUMN: pa.array([pickle.dumps(v) for v in values], pa.large_binary())})


def unpack(row: dict[str, Any]) -> Any:
    return pickle.loads(row[_COLUMN])  # noqa: S301 - our own worker packed it
