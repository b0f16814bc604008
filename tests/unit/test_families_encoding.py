"""Encoding: learned the same from any blocks, applied the same to one row and to many."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from rayapp.errors import ConfigError, DataError
from rayapp.families.encoding import (
    MAX_VOCABULARY,
    OTHER,
    Encode,
    encode,
    fit_encoding,
    label_numbers,
)
from rayapp.schemas.data import Column, Task
from rayapp.schemas.model import Feature

COLUMNS = (
    Column(name="distance", type="number", nullable=True),
    Column(name="carrier", type="string", nullable=True),
    Column(name="flag", type="boolean", nullable=True),
    Column(name="at", type="timestamp"),
    Column(name="late", type="integer"),
)
FEATURES = (
    Feature(name="distance", expression="distance"),
    Feature(name="far", expression="distance * 2"),
    Feature(name="carrier", expression="carrier"),
    Feature(name="flag", expression="flag"),
)


class BlockList:
    """What fit_encoding needs of a Dataset, over tables held here."""

    def __init__(self, blocks: Sequence[pa.Table]) -> None:
        self._blocks = blocks

    def map_batches(self, fn: Callable[[pa.Table], pa.Table], **_: Any) -> "BlockList":
        return BlockList([fn(block) for block in self._blocks])

    def take_all(self) -> list[dict[str, Any]]:
        return [row for block in self._blocks for row in block.to_pylist()]


def table(num_rows: int = 500, num_carriers: int = 5) -> pa.Table:
    generator = np.random.default_rng(7)
    distance = generator.normal(1000, 300, num_rows)
    carriers = [f"C{i:04}" for i in generator.integers(0, num_carriers, num_rows)]
    return pa.table(
        {
            "distance": pa.array(distance, mask=generator.random(num_rows) < 0.1),
            "carrier": pa.array(carriers, mask=generator.random(num_rows) < 0.1),
            "flag": pa.array(generator.random(num_rows) < 0.5),
            "at": pa.array([0] * num_rows, pa.timestamp("us", "UTC")),
            "late": generator.integers(0, 2, num_rows),
        }
    )


def test_blocks_do_not_change_the_encoding() -> None:
    rows = table()
    whole = fit_encoding(BlockList([rows]), FEATURES, COLUMNS)
    parts = [rows.slice(start, 37) for start in range(0, rows.num_rows, 37)]
    assert fit_encoding(BlockList(parts[::-1]), FEATURES, COLUMNS) == whole


def test_unknown_category_has_one_place_and_null_is_missing() -> None:
    features, _ = fit_encoding(BlockList([table()]), FEATURES, COLUMNS)
    rows = pa.table(
        {
            "distance": [1.0, None, np.inf],
            "carrier": ["C0001", "ZZ", None],
            "flag": [True, None, False],
        }
    )
    x_NF = encode(features, rows)
    assert x_NF.dtype == np.float32
    assert x_NF[:2, 2].tolist() == [1.0, len(features[2].vocabulary)]
    assert np.isnan(x_NF[2, 2])
    assert x_NF[0].tolist() == [1.0, 2.0, 1.0, 1.0]
    assert np.isnan(x_NF[1, [0, 1, 3]]).all()
    assert np.isnan(x_NF[2, 0])  # infinite


def test_one_row_encodes_as_in_a_table() -> None:
    rows = table()
    features, _ = fit_encoding(BlockList([rows]), FEATURES, COLUMNS)
    single = np.concatenate([encode(features, rows.slice(i, 1)) for i in range(50)])
    np.testing.assert_array_equal(encode(features, rows)[:50], single)


def test_vocabulary_keeps_the_most_frequent() -> None:
    names = [f"n{i:04}" for i in range(MAX_VOCABULARY + 10)]
    rows = pa.table({"carrier": [*names, *names[20:]]})
    features = [Feature(name="carrier", expression="carrier")]
    (feature,), profile = fit_encoding(BlockList([rows]), features, COLUMNS)
    assert len(feature.vocabulary) == MAX_VOCABULARY
    assert set(names[20:]) < set(feature.vocabulary)
    assert list(feature.vocabulary) == sorted(feature.vocabulary)
    (column,) = profile.columns
    assert column.values[-1] == OTHER
    assert column.counts[-1] == 10
    assert sum(column.counts) == profile.num_rows == rows.num_rows


def test_a_timestamp_is_refused_with_advice() -> None:
    with pytest.raises(ConfigError, match=r"feature 'at'.*timestamp"):
        fit_encoding(BlockList([table()]), [Feature(name="at", expression="at")], COLUMNS)


def test_no_rows_is_an_error() -> None:
    with pytest.raises(DataError, match="no rows"):
        fit_encoding(BlockList([table().slice(0, 0)]), FEATURES, COLUMNS)


def test_missing_column_is_named() -> None:
    features, _ = fit_encoding(BlockList([table()]), FEATURES, COLUMNS)
    with pytest.raises(DataError, match="carrier"):
        encode(features, table().drop_columns(["carrier"]))


@pytest.mark.parametrize(
    ("values", "classes", "expected"),
    [
        ([0, 1, 1], ("on_time", "late"), [0, 1, 1]),
        ([True, False], ("no", "yes"), [1, 0]),
        (["b", "a"], ("a", "b"), [1, 0]),
        ([7, 3], ("3", "5", "7"), [2, 0]),
    ],
)
def test_labels_become_class_indices(
    values: list[Any], classes: tuple[str, ...], expected: list[float]
) -> None:
    task: Task = "binary" if len(classes) == 2 else "multiclass"
    y_N = label_numbers(pa.chunked_array([values]), task, classes)
    assert y_N.tolist() == expected


@pytest.mark.parametrize("values", [[0, 2], [0, None], ["no"]])
def test_a_label_that_is_no_class_is_refused(values: list[Any]) -> None:
    with pytest.raises(DataError, match="is not one of the classes"):
        label_numbers(pa.chunked_array([values]), "binary", ("on_time", "late"))


def test_encode_gives_what_a_family_reads() -> None:
    rows = table(20)
    features, _ = fit_encoding(BlockList([rows]), FEATURES, COLUMNS)
    made = Encode(features, "late", "binary", ("no", "yes"))(rows)
    assert made["x"].shape == (20, 4)
    assert made["y"].dtype == np.float32
