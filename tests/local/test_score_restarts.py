"""A row that kills what answers it, each time: it is started again as often as it may be."""

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray.data
from ray.exceptions import RayActorError

from rayapp.errors import DataError
from rayapp.score.language import replies_in

pytestmark = pytest.mark.usefixtures("ray_local")


class Engine:
    """Answers rows, and dies of row 3. deaths: a file with a byte for each time that it began."""

    def __init__(self, deaths: str) -> None:
        with open(deaths, "a") as file:
            file.write("x")

    def __call__(self, table: pa.Table) -> pa.Table:
        rows = table.column("row").to_pylist()
        if 3 in rows:
            os._exit(1)
        said = {"text": ["a"] * len(rows), "num_tokens": [1] * len(rows)}
        nothing = {"last_token": [0] * len(rows), "__inference_error__": [""] * len(rows)}
        return pa.table({"row": rows, **said, **nothing})


@pytest.mark.timeout(120)
@pytest.mark.filterwarnings("ignore::ray.util.annotations.RayDeprecationWarning")
def test_it_ends_after_so_many_restarts(tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    dataset: Any = ray.data.from_items([{"row": i} for i in range(6)], override_num_blocks=6)
    answered = dataset.map_batches(
        Engine,
        batch_format="pyarrow",
        fn_constructor_args=(str(begun),),
        compute=ray.data.ActorPoolStrategy(size=1),
        max_restarts=2,
    )
    with pytest.raises(RayActorError):
        list(replies_in(answered, "tiny"))
    assert begun.read_text() == "xxx"


class Unable:
    def __init__(self) -> None:
        raise ValueError("no such weights")

    def __call__(self, table: pa.Table) -> pa.Table:
        return table


@pytest.mark.timeout(120)
def test_one_that_does_not_start_is_another_matter() -> None:
    dataset: Any = ray.data.from_items([{"row": 0}])
    pool = ray.data.ActorPoolStrategy(size=1)
    answered = dataset.map_batches(Unable, batch_format="pyarrow", compute=pool)
    with pytest.raises(DataError, match=r"for tiny did not start, or did not go on: .*no such"):
        list(replies_in(answered, "tiny"))
