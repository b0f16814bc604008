import doctest

import numpy as np
import pyarrow as pa
import pytest

from rayapp.errors import DataError
from rayapp.families.encoding import fit_encoding
from rayapp.observe import drift as module
from rayapp.observe.drift import drift
from rayapp.schemas.data import Column, ColumnProfile, Profile
from rayapp.schemas.model import Feature


class OneBlock:
    def __init__(self, rows: pa.Table) -> None:
        self._rows = rows

    def map_batches(self, fn: object, **_: object) -> "OneBlock":
        return OneBlock(fn(self._rows))  # type: ignore[operator]

    def take_all(self) -> list[dict[str, object]]:
        return self._rows.to_pylist()  # type: ignore[no-any-return]


def rows(seed: int, shift: float = 0.0, places: str = "abc", num_rows: int = 4000) -> pa.Table:
    random = np.random.default_rng(seed)
    x_N = random.normal(shift, 1.0, num_rows)
    mask_N = random.random(num_rows) < 0.1
    place_N = random.choice(list(places), num_rows)
    return pa.table({"x": pa.array(x_N, mask=mask_N), "place": pa.array(place_N, pa.string())})


@pytest.fixture(scope="module")
def profile() -> Profile:
    features = [Feature(name=name, expression=name) for name in ("x", "place")]
    columns = [
        Column(name="x", type="number", nullable=True),
        Column(name="place", type="string"),
    ]
    return fit_encoding(OneBlock(rows(1)), features, columns)[1]


def psi_of(profile: Profile, live: pa.Table) -> dict[str, float]:
    return {one.column: one.psi for one in drift(profile, live)}


def test_doctests() -> None:
    assert doctest.testmod(module).failed == 0


def test_the_same_distribution_is_stable(profile: Profile) -> None:
    found = drift(profile, rows(2))
    assert [one.column for one in found] == ["x", "place"]
    assert all(one.psi < 0.05 and one.num_rows == 4000 for one in found)


def test_a_shift_is_seen_in_its_column_only(profile: Profile) -> None:
    found = psi_of(profile, rows(2, shift=1.0))
    assert found["x"] > 0.25
    assert found["place"] < 0.05


def test_values_outside_the_training_range_count(profile: Profile) -> None:
    assert psi_of(profile, rows(2, shift=100.0))["x"] > 1.0


def test_an_unknown_category_is_drift(profile: Profile) -> None:
    assert psi_of(profile, rows(2, places="abz"))["place"] > 0.25


def test_missing_values_are_a_bin(profile: Profile) -> None:
    live = rows(2).set_column(0, "x", pa.nulls(4000, pa.float64()))
    assert psi_of(profile, live)["x"] > 1.0


def test_many_rare_categories_are_not_drift_by_themselves() -> None:
    random = np.random.default_rng(3)
    names = [f"plane{i}" for i in range(400)]
    counts = tuple(random.multinomial(100_000, [1 / 400] * 400).tolist())
    column = ColumnProfile(
        name="p", type="category", values=(*names, "(other)"), counts=(*counts, 0), num_missing=0
    )
    live = pa.table({"p": random.choice(names, 200).tolist()})
    assert drift(Profile(num_rows=100_000, columns=(column,)), live)[0].psi < 0.1


def test_a_column_that_was_always_missing() -> None:
    column = ColumnProfile(name="x", type="number", counts=(), num_missing=10)
    profile = Profile(num_rows=10, columns=(column,))
    assert drift(profile, pa.table({"x": pa.nulls(5, pa.float64())}))[0].psi == 0.0
    assert drift(profile, pa.table({"x": [1.0, 2.0]}))[0].psi > 1.0


def test_nothing_to_measure_is_refused(profile: Profile) -> None:
    with pytest.raises(DataError, match="no rows"):
        drift(profile, rows(1).slice(0, 0))
    with pytest.raises(DataError, match="'place'"):
        drift(profile, rows(1).select(["x"]))
