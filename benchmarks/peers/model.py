"""What every peer serves: the bundle by our own quickest way in, so that servers are compared and
not the code in front of the trees."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from rayapp.families.bundle import Bundle
from rayapp.serve.wire.rows import row_encoder

Row = Mapping[str, Any]


class Model:
    """The bundle in the folder that BENCHMARK_BUNDLE names."""

    def __init__(self) -> None:
        self.bundle = Bundle.open(Path(os.environ["BENCHMARK_BUNDLE"]))
        self.names = [column.name for column in self.bundle.schema.inputs]
        self._encoder = row_encoder(self.bundle.schema)

    def probabilities(self, rows: Sequence[Row]) -> list[float]:
        """P(positive) of each row."""
        columns = {name: [row[name] for row in rows] for name in self.names}
        quick = self._encoder.encode(columns, len(rows)) if self._encoder else None
        x_NF = quick.x_NF if quick else self.bundle.encode(pa.table(columns))
        found: list[float] = self.bundle.score(x_NF)[:, 1].tolist()
        return found
