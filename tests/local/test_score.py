"""Batch scoring on Ray Data with a real bundle."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import ray.data
from deltalake import DeltaTable

from rayapp.errors import DataError
from rayapp.families.base import Batch, Compute, Problem, Progress, family
from rayapp.families.bundle import Bundle, write_bundle
from rayapp.schemas.data import Column, Profile
from rayapp.schemas.model import BundleSchema, EncodedFeature
from rayapp.score.batch import score_batch

pytestmark = pytest.mark.usefixtures("ray_local")

SETTINGS = {
    "num_rounds": 5,
    "max_depth": 2,
    "learning_rate": 0.3,
    "min_child_weight": 1.0,
    "subsample": 1.0,
    "colsample_bytree": 1.0,
    "reg_lambda": 1.0,
    "max_bin": 64,
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    a_N = np.random.default_rng(1).normal(size=400)
    x_NF, y_N = a_N[:, None].astype(np.float32), (a_N > 0).astype(np.float32)
    features = (EncodedFeature(name="a", expression="a", kind="number"),)
    schema = BundleSchema(
        name="small",
        family="tabular",
        task="binary",
        label="label",
        classes=("0", "1"),
        inputs=(Column(name="a", type="number", minimum=-5.0),),
        features=features,
    )

    def keep(progress: Progress) -> None:
        if progress.step == progress.total_steps:
            write_bundle(folder, schema, Profile(num_rows=400, columns=()), progress.save)

    problem = Problem("binary", 2, features, seed=1, num_rows=len(y_N))
    family("tabular").fit(
        problem, SETTINGS, lambda: iter([Batch(x_NF, y_N)]), None, 5, None, keep, Compute()
    )
    return folder


def rows(num_rows: int) -> pa.Table:
    a_N = np.random.default_rng(2).normal(size=num_rows)
    a_N[3] = np.nan
    a_N[5] = -7.0
    return pa.table({"_row_id": [f"r{i:04}" for i in range(num_rows)], "a": a_N, "other": a_N})


def test_rows_are_scored_once_and_faults_are_kept(bundle: Path, tmp_path: Path) -> None:
    table, uri = rows(200), str(tmp_path / "scores")
    for blocks in (1, 4):  # the second time is a job that runs again
        dataset = ray.data.from_arrow(table).repartition(blocks)
        result = score_batch(dataset, bundle, "release-1", uri)
        assert (result.num_rows, result.num_errors) == (200, 2)
    found = DeltaTable(uri).to_pyarrow_dataset().to_table().sort_by("_row_id")
    assert found.column("_row_id").to_pylist() == table.column("_row_id").to_pylist()
    lines = found.to_pylist()
    assert lines[3]["scores"] is None
    assert lines[3]["error"].startswith("a: missing_value")
    assert lines[5]["scores"] is None
    assert lines[5]["error"].startswith("a: range, -7.0")
    good = [i for i in range(200) if i not in (3, 5)]
    expected = Bundle.open(bundle).predict(table.take(good))
    assert np.array_equal(np.array([lines[i]["scores"] for i in good], np.float32), expected)
    assert all(lines[i]["error"] is None for i in good)

    score_batch(ray.data.from_arrow(table), bundle, "release-2", uri)
    score_batch(ray.data.from_arrow(table.slice(0, 50)), bundle, "release-1", uri)
    assert DeltaTable(uri).to_pyarrow_dataset().count_rows() == 450


def test_what_cannot_be_scored_is_refused(bundle: Path, tmp_path: Path) -> None:
    uri = str(tmp_path / "scores")
    with pytest.raises(DataError, match="no column 'a'"):
        score_batch(ray.data.from_arrow(rows(10).select(["_row_id"])), bundle, "r", uri)
    with pytest.raises(DataError, match="no rows"):
        score_batch(ray.data.from_arrow(rows(10).slice(0, 0)), bundle, "r", uri)
