"""What a gateway knows of an engine by whether it could be asked."""

from collections.abc import AsyncGenerator
from typing import Any

import pytest
from ray.exceptions import RayActorError
from ray.serve.exceptions import RayServeException

from rayapp.errors import TamperedError, Unavailable
from rayapp.schemas.language import Open
from rayapp.serve.language.client import InlineLlm, ServeLlm
from rayapp.serve.language.reached import Reached


def raising(error: Exception) -> Open:
    async def opened(*asked: Any) -> AsyncGenerator[int | bytes, None]:
        raise error
        yield 200

    return opened


async def test_one_that_fails_is_remembered() -> None:
    client = Reached(InlineLlm("engine", raising(LookupError("it is dead"))), lambda: 5.0)
    with pytest.raises(Unavailable, match="engine 'engine' failed"):
        await client.open("/v1/completions", b"{}")
    assert (
        await client.problem() == "the last request, 0 s ago, was not taken: engine 'engine' failed"
    )


@pytest.mark.parametrize(
    "error",
    [Unavailable("all places are in use", "try again"), TamperedError("it is another", "restore")],
)
async def test_an_adapter_that_it_cannot_hold_says_nothing_of_the_engine(error: Exception) -> None:
    client = Reached(InlineLlm("engine", raising(error)))
    with pytest.raises(Unavailable):
        await client.open("/v1/completions", b"{}")
    assert await client.problem() is None


@pytest.mark.parametrize("error", [RayServeException("not deployed"), RayActorError()])
async def test_one_whose_handle_cannot_be_found_is_not_there(error: Exception) -> None:
    """It is not deployed, or Serve's controller is away."""

    def find() -> Any:
        raise error

    client = Reached(ServeLlm("small", find))
    with pytest.raises(Unavailable, match="the replicas of engine 'small' are not there"):
        await client.open("/v1/completions", b"{}")
    assert not await client.is_there()
