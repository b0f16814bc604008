"""A release that a pool cannot load is the pool's trouble, so that others stand in for it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from serving_case import Case, make_bundle

from rayapp.config.replicas import PoolConfig
from rayapp.config.serving import ServingConfig
from rayapp.errors import TamperedError, Unavailable
from rayapp.schemas.model import BundleRef
from rayapp.serve.endpoints.base import is_callers_fault
from rayapp.serve.loading import Store
from rayapp.serve.meter import PoolMeter
from rayapp.serve.pool.model import Opener


class Recorded:
    def __init__(self, name: str) -> None:
        self.seen: list[float] = []

    def inc(self, amount: float, tags: dict[str, str]) -> None:
        self.seen.append(amount)

    set = inc


@pytest.fixture
def case(tmp_path: Path) -> Case:
    make_bundle(tmp_path / "1")
    return Case(ServingConfig(), releases={"r1": tmp_path / "1"})


def opener_of(case: Case, fetch: Callable[[BundleRef, Path], None]) -> Opener:
    return Opener(Store(case.read, fetch), PoolConfig(), PoolMeter("p", Recorded))


async def test_a_model_that_is_loaded_answers(case: Case) -> None:
    model = await opener_of(case, case.fetch).load("r1")
    scores_NK = await model.batcher.predict(np.zeros((1, 6), np.float32))
    assert scores_NK.shape == (1, 2)
    assert model.busy_s > 0


def nothing(ref: BundleRef, folder: Path) -> None:
    pass


def a_broken_model(ref: BundleRef, folder: Path) -> None:
    Case.fetch(ref, folder)
    (folder / "model" / "model.ubj").write_bytes(b"no model")


def what_was_changed(ref: BundleRef, folder: Path) -> None:
    raise TamperedError("a file was changed", "restore it")


@pytest.mark.parametrize("fetch", [nothing, a_broken_model, what_was_changed])
async def test_whatever_is_wrong_with_a_release_is_not_the_callers_fault(
    case: Case, fetch: Callable[[BundleRef, Path], None]
) -> None:
    with pytest.raises(Unavailable, match="release r1 cannot be loaded: ") as error:
        await opener_of(case, fetch).load("r1")
    assert not is_callers_fault(error.value)
