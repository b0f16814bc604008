"""Names for which several models answer: a split between the weights and a released adapter, and a
small model before another one."""

from typing import Any

import httpx
import pytest
from adapters import release_adapter
from llm_head import JSON, MODEL, SPLIT, SURE, UNSURE, Served, chat
from waiting import until

from rayapp.schemas.release import Estimate

CALIBRATED = Estimate(
    metric="calibration_error", value=0.02, low=0.0, high=0.04, num_rows=500, confidence=0.95
)
NUM_USERS = 12


def ask(served: Served, model: str, request_id: str | None = None, **fields: Any) -> httpx.Response:
    headers = JSON | ({} if request_id is None else {"x-request-id": request_id})
    with served.client() as client:
        body = chat(model=model, **fields)
        answer = client.post("/v1/chat/completions", content=body, headers=headers)
    assert answer.is_success, answer.text
    return answer


def explained(served: Served, request_id: str) -> Any:
    until(lambda: served.shell.rayapp("explain", request_id).returncode == 0)
    (answer,) = served.shell.rayapp_json("explain", request_id)["answers"]
    return answer


def test_users_are_divided_between_the_weights_and_an_adapter(served: Served) -> None:
    tuned = release_adapter(served.shell, MODEL, "split-tuned", seed=40)

    def found() -> dict[str, str]:
        """By user, who answered; an arm without its adapter would fail."""
        users = [f"user-{number}" for number in range(NUM_USERS)]
        with served.client() as client:
            answers = {
                user: client.post(
                    "/v1/chat/completions", content=chat(model=SPLIT, user=user), headers=JSON
                )
                for user in users
            }
        return {user: answer.headers.get("x-release", "") for user, answer in answers.items()}

    until(lambda: tuned in found().values() and "" not in found().values())
    first = found()
    assert len({*first.values()}) == 2
    assert found() == first
    user = next(user for user, release in first.items() if release == tuned)
    ask(served, SPLIT, "by-an-arm", user=user)
    (part,) = explained(served, "by-an-arm")["parts"]
    assert (part["arm"], part["unit"], part["propensity"]) == ("tuned", user, 0.5)
    assert part["release_id"] == tuned


@pytest.fixture(scope="module")
def small(served: Served) -> str:
    release_id = release_adapter(served.shell, MODEL, "small", seed=41, estimates=(CALIBRATED,))

    def is_first() -> bool:
        """For all gateways, each of which follows champions by itself."""
        asked = [ask(served, SURE, max_tokens=1) for _ in range(6)]
        return {answer.headers["x-release"] for answer in asked} == {release_id}

    until(is_first)
    return release_id


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_sure_answer_is_the_small_models(served: Served, small: str, is_stream: bool) -> None:
    request_id = f"sure-{is_stream}"
    answer = ask(served, SURE, request_id, max_tokens=1, stream=is_stream)
    assert answer.headers["x-release"] == small
    assert '"logprob"' not in answer.text
    whole = explained(served, request_id)
    (part,), (stage,) = whole["parts"], whole["stages"]
    assert (part["arm"], part["num_output_tokens"]) == ("first", 1)
    assert (stage["release_id"], whole["max_error"]) == (small, 0.9999)
    assert 0.0001 <= stage["confidence"] <= 1
    assert part["cost_nano_usd"] == 1000 * (part["num_prompt_tokens"] + 1)


@pytest.mark.parametrize("is_stream", [False, True])
def test_an_unsure_one_is_paid_and_the_names_own_is_given(
    served: Served, small: str, is_stream: bool
) -> None:
    request_id = f"unsure-{is_stream}"
    answer = ask(served, UNSURE, request_id, max_tokens=20, stream=is_stream)
    assert answer.headers["x-release"] not in ("", small)
    plain = ask(served, MODEL, max_tokens=20).json()["choices"][0]["message"]["content"]
    if not is_stream:
        assert answer.json()["choices"][0]["message"]["content"] == plain
        assert answer.json()["usage"]["first_model"]["completion_tokens"] > 0
    assert '"logprob"' not in answer.text
    whole = explained(served, request_id)
    first, *rest = whole["parts"]
    assert (first["arm"], first["release_id"], first["output"]) == ("first", small, None)
    assert {(part["arm"], part["release_id"]) for part in rest} == {
        ("champion", answer.headers["x-release"])
    }
    tokens = [part["num_prompt_tokens"] + part["num_output_tokens"] for part in whole["parts"]]
    costs = [1000 * tokens[0], 5000 * sum(tokens[1:])]
    assert whole["cost_nano_usd"] == sum(costs)
    asked_first, own = whole["stages"]
    assert [asked_first["cost_nano_usd"], own["cost_nano_usd"]] == costs
    assert asked_first["confidence"] < 1 - whole["max_error"]
    assert own["confidence"] is None
    told = served.shell.rayapp("explain", request_id).stdout
    for release in (small, answer.headers["x-release"]):  # each is led back to its weights
        assert release in told


def test_the_engine_tells_how_likely_every_token_is_with_the_one_that_ends(
    served: Served, small: str
) -> None:
    """Without that a first model would never be sure."""
    told = ask(served, MODEL, max_tokens=40, logprobs=True).json()
    (choice,) = told["choices"]
    assert choice["finish_reason"] == "stop"
    assert len(choice["logprobs"]["content"]) == told["usage"]["completion_tokens"]
    with served.client() as client:
        asked = {"model": MODEL, "prompt": "Paris is", "max_tokens": 5, "temperature": 0}
        document = client.post("/v1/completions", json=asked | {"logprobs": 0}).json()
    assert len(document["choices"][0]["logprobs"]["token_logprobs"]) == 5
