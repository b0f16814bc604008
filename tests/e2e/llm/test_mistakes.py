"""Requests that are wrong, and callers who go away: told in one form, and nobody else is hurt."""

import httpx
import pytest
from llm_head import EMBEDDER, JSON, MODEL, WEATHER, Served, chat
from waiting import until

TEXT = {"content-type": "text/plain"}


MISTAKES: list[tuple[bytes, int, str | None]] = [
    (
        chat(messages=[{"role": "user", "content": "so " * 5000}]),
        400,
        "context_length_exceeded",
    ),
    (chat(max_tokens=5000), 400, "context_length_exceeded"),
    (chat(messages=[{"role": "user", "content": "so " * 350_000}]), 400, None),  # 1 MB
    (chat(messages=[{"role": "user", "content": "so " * 1_500_000}]), 413, None),
    (chat(model="nobody"), 404, "model_not_found"),
    (chat(model=EMBEDDER), 400, "wrong_task"),
    (chat(tools=[{"type": "function"}]), 400, None),
    (chat(tools="weather"), 400, None),
    (chat(tools=[WEATHER], tool_choice="perhaps"), 400, None),
    (chat().replace(b"capital", b"\xff\xfe"), 400, None),
    (chat(n=1000), 400, None),
    (chat(temperature=-1), 400, None),
    (chat(max_tokens=0), 400, None),
    (chat(messages=[]), 400, None),
    (chat(messages=[{"role": "user", "content": 5}]), 400, None),
    (chat(response_format={"type": "json_schema"}), 400, None),
    (chat(logit_bias={"9999999": 1}), 400, None),
    (chat(colour="red"), 400, None),
    (b'{"messages":' * 5000, 400, None),
    (b"", 400, None),
]


@pytest.mark.parametrize(("body", "status", "code"), MISTAKES, ids=range(len(MISTAKES)))
def test_a_mistake_is_told_in_openais_form(
    served: Served, body: bytes, status: int, code: str | None
) -> None:
    with served.client() as client:
        answer = client.post("/v1/chat/completions", content=body, headers=JSON)
    assert answer.status_code == status, answer.text
    _require_form(answer)
    assert code in (None, answer.json()["error"]["code"])


def test_mistakes_hurt_nobody_else(served: Served) -> None:
    going_on = chat(stream=True, max_tokens=100, ignore_eos=True)
    with (
        served.client() as client,
        client.stream("POST", "/v1/chat/completions", content=going_on, headers=JSON) as other,
    ):
        lines = other.iter_lines()
        next(lines)
        with served.client() as mistaken:
            for body, status, _ in MISTAKES:
                answer = mistaken.post("/v1/chat/completions", content=body, headers=JSON)
                assert answer.status_code == status
        assert '"finish_reason":"length"' in "".join(lines)


def _require_form(answer: httpx.Response) -> None:
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    for inside in ("Traceback", 'File "', "site-packages", ".py", "/tmp/", "/home/", "ray::"):
        assert inside not in answer.text
    assert "x-request-id" in answer.headers


def test_other_wrong_requests_have_the_same_form(served: Served) -> None:
    with served.client() as client:
        vectors = {"model": MODEL, "input": "of a model that writes"}
        long = {"model": EMBEDDER, "input": "so " * 1000}
        for answer, status in (
            (client.get("/v1/chat/completions"), 405),
            (client.post("/v1/chat/completions", content=chat(), headers=TEXT), 415),
            (client.post("/v1/responses", json={}), 404),
            (client.get("/v1/models/nobody"), 404),
            (client.post("/v1/embeddings", json=vectors), 400),
            (client.post("/v1/embeddings", json=long), 400),
            (httpx.get(f"{served.url}/v1/models"), 401),
            (httpx.post(f"{served.url}/v1/chat/completions", content=chat()), 401),
        ):
            assert answer.status_code == status, answer.text
            _require_form(answer)


def test_an_answer_that_nobody_waits_for_ends(served: Served) -> None:
    asked = chat(stream=True, max_tokens=3500, ignore_eos=True)
    headers = JSON | {"x-request-id": "gone-away"}
    with (
        served.client() as client,
        client.stream("POST", "/v1/chat/completions", content=asked, headers=headers) as answer,
    ):
        lines = answer.iter_lines()
        next(lines)
        until(lambda: bool(next(lines)) and served.num_running() == 1)
    until(lambda: served.num_running() == 0)
    until(lambda: "client_gone" in served.shell.rayapp("explain", "gone-away").stdout)
