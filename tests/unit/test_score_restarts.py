"""An engine that dies with the same rows each time ends the job, with the rows by name."""

from types import SimpleNamespace
from typing import Any

import pytest

from rayapp.config.operations import AnswersConfig
from rayapp.errors import DataError
from rayapp.score.language import died


def asking(**settings: Any) -> Any:
    weights = SimpleNamespace(name="tiny")
    return SimpleNamespace(weights=weights, config=AnswersConfig.model_validate(settings))


@pytest.mark.parametrize(("batch_rows", "named"), [(1, "8 rows"), (64, "100 rows")])
def test_the_rows_that_it_had_in_hand_are_named(batch_rows: int, named: str) -> None:
    error = died(asking(batch_rows=batch_rows, max_restarts=2), [f"r{i}" for i in range(100)])
    assert isinstance(error, DataError)
    for text in ("tiny died 3 times, max_restarts is 2", named, "from 'r0' on"):
        assert text in str(error)
