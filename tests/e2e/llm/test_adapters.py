"""Released adapters, loaded into an engine that goes on answering."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from adapters import release_adapter
from llm_head import JSON, MODEL, NUM_LOOKS, Served, chat
from waiting import until

NUM_CALLERS, ROUNDS = 4, 4


def ask(served: Served, model: str, **fields: object) -> httpx.Response:
    with served.client() as client:
        body = chat(model=model, **fields)
        return client.post("/v1/chat/completions", content=body, headers=JSON)


def answers(served: Served, model: str, release_id: str) -> bool:
    answer = ask(served, model, max_tokens=1)
    return answer.is_success and answer.headers["x-release"] == release_id


def until_refused(served: Served, model: str, why: str) -> None:
    """By both gateways: each follows champions by itself."""

    def is_refused() -> bool:
        answer = ask(served, model)
        return answer.status_code == 503 and why in answer.json()["error"]["message"]

    until(lambda: all(is_refused() for _ in range(NUM_LOOKS)))


@contextmanager
def load(served: Served, *models: str) -> Iterator[list[httpx.Response]]:
    """Answers of callers who do not stop asking until the block ends."""
    found: list[httpx.Response] = []
    is_over = threading.Event()

    def call(number: int) -> None:
        while not is_over.is_set():
            found.append(ask(served, models[number % len(models)], max_tokens=4))

    with ThreadPoolExecutor(NUM_CALLERS) as pool:
        callers = [pool.submit(call, number) for number in range(NUM_CALLERS)]
        try:
            yield found
        finally:
            is_over.set()
        for caller in callers:
            caller.result()


def test_a_release_answers_under_its_endpoints_name_beside_the_weights(served: Served) -> None:
    assert ask(served, "first").status_code == 404
    release_id = release_adapter(served.shell, MODEL, "first", seed=1)
    until(lambda: answers(served, "first", release_id))
    tuned, untuned = ask(served, "first", max_tokens=20), ask(served, MODEL, max_tokens=20)
    texts = [answer.json()["choices"][0]["message"]["content"] for answer in (tuned, untuned)]
    assert "Paris" in texts[1]
    assert texts[0] != texts[1]
    again = ask(served, "first", max_tokens=20).json()["choices"][0]["message"]["content"]
    assert again == texts[0]
    with served.client() as client:
        assert "first" in {one["id"] for one in client.get("/v1/models").json()["data"]}


def test_adapters_come_and_go_under_load_without_a_failed_request(served: Served) -> None:
    """The engine has four places; more than four releases take turns, and an endpoint's next
    release takes over, while callers ask all the time."""
    shell = served.shell
    current = {name: release_adapter(shell, MODEL, name, seed=10) for name in ("a", "b")}
    until(lambda: all(answers(served, name, found) for name, found in current.items()))
    with load(served, "a", "b", MODEL) as found:
        for number in range(ROUNDS):
            name = "ab"[number % 2]
            release_id = release_adapter(shell, MODEL, name, seed=20 + number)
            until(lambda name=name, wanted=release_id: answers(served, name, wanted))  # type: ignore[misc]
            current[name] = release_id
    assert {answer.status_code for answer in found} == {200}
    last = {answer.headers["x-release"] for answer in found}
    assert len(last) > ROUNDS


def test_what_cannot_be_loaded_is_told_and_the_one_before_goes_on(served: Served) -> None:
    shell = served.shell
    right = release_adapter(shell, MODEL, "steady", seed=1)
    until(lambda: answers(served, "steady", right))
    wide = release_adapter(shell, MODEL, "wide", seed=1, rank=64)
    until_refused(
        served, "wide", f"adapter {wide[:12]} has rank 64, `max_adapter_rank` of the engine is 16"
    )
    assert answers(served, "steady", right)


def test_files_that_are_not_what_was_released_are_not_loaded(served: Served) -> None:
    release_adapter(served.shell, MODEL, "spoilt", seed=3)
    uri = served.shell.workspace.artifact("bundles", "spoilt-3")
    weights = Path(uri) / "model" / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-4] + b"\0\0\0\1")
    until_refused(served, "spoilt", "adapter_model.safetensors is not what was recorded")
    weights.write_bytes(whole)
    assert ask(served, "spoilt").is_success


@pytest.mark.parametrize("name", ["nobody", "0" * 64])
def test_no_other_name_leads_to_an_adapter(served: Served, name: str) -> None:
    assert ask(served, name).status_code == 404
