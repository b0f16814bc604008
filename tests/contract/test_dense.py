"""The C API's call against XGBoost's own Python, bit by bit."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import xgboost as xgb

from rayapp.families.base import Floats
from rayapp.families.dense import DensePredictor

OBJECTIVES = ["binary:logistic", "multi:softprob", "reg:squarederror"]


def rows(num_rows: int) -> Floats:
    generator = np.random.default_rng(num_rows)
    x_NF = generator.normal(size=(num_rows, 5)).astype(np.float32)
    x_NF[:, 4] = generator.integers(0, 6, num_rows)  # a category, some never seen
    x_NF[generator.random((num_rows, 5)) < 0.2] = np.nan
    return x_NF


@pytest.fixture(params=OBJECTIVES)
def booster(request: pytest.FixtureRequest) -> xgb.Booster:
    x_NF = rows(400)
    y_N = np.nan_to_num(x_NF[:, 0]) + np.nan_to_num(x_NF[:, 4]) > 1
    y_N = y_N + (np.nan_to_num(x_NF[:, 1]) > 1) * (request.param == "multi:softprob")
    matrix = xgb.DMatrix(x_NF, y_N, feature_types=["q"] * 4 + ["c"], enable_categorical=True)
    params = {"objective": request.param, "max_depth": 4, "nthread": 1}
    if request.param == "multi:softprob":
        params["num_class"] = 3
    return xgb.train(params, matrix, 20)


@pytest.mark.parametrize("num_rows", [1, 2, 33, 1000])
def test_it_is_what_inplace_predict_gives(booster: xgb.Booster, num_rows: int) -> None:
    x_NF = rows(num_rows)
    expected = booster.inplace_predict(x_NF, validate_features=False)
    predictor = DensePredictor(booster)
    takes: list[Any] = [x_NF, np.asfortranarray(x_NF), x_NF.astype(np.float64)]
    for given in takes:
        found = predictor.predict(given)
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == np.float32


def test_an_answer_stays_when_the_next_one_comes(booster: xgb.Booster) -> None:
    predictor = DensePredictor(booster)
    first = predictor.predict(rows(10))
    kept = first.copy()
    predictor.predict(rows(11))
    np.testing.assert_array_equal(first, kept)


def test_threads_get_their_own_answers(booster: xgb.Booster) -> None:
    predictor = DensePredictor(booster)
    sizes = [1, 7, 50] * 40
    expected = {n: booster.inplace_predict(rows(n), validate_features=False) for n in set(sizes)}
    with ThreadPoolExecutor(4) as pool:
        for size, found in zip(sizes, pool.map(predictor.predict, map(rows, sizes)), strict=True):
            np.testing.assert_array_equal(found, expected[size])


def test_another_number_of_columns_is_an_error(booster: xgb.Booster) -> None:
    with pytest.raises(RuntimeError, match=r"(?i)feature|column"):
        DensePredictor(booster).predict(rows(3)[:, :2])
