"""What a tenant may spend ends answers, and is what was given."""

import json
from typing import Any

import httpx
import pytest
from llm_head import CUT_AFTER_TOKENS, JSON, MESSAGES, MODEL, POOR, SLOW, Served, chat
from openai import OpenAI, RateLimitError
from waiting import until


def test_a_budget_ends_a_stream_and_what_was_spent_is_what_was_logged(served: Served) -> None:
    """What the budget covers is given; then the stream says why it ends, and so does the next
    request, with a status of its own."""
    asked = chat(
        stream=True, max_tokens=1000, ignore_eos=True, stream_options={"include_usage": True}
    )
    key = served.key_of(POOR)
    headers = JSON | {"x-request-id": "too-dear"}
    with served.client(key) as client:
        answer = client.post("/v1/chat/completions", content=asked, headers=headers)
        refused = client.post("/v1/chat/completions", content=chat(max_tokens=200), headers=JSON)
    assert answer.status_code == 200
    events = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    assert events[-1] == "[DONE]"
    error = json.loads(events[-2])["error"]
    assert (error["type"], error["code"]) == ("insufficient_quota", "budget_exceeded")
    assert refused.status_code == 429
    assert refused.json()["error"]["code"] == "budget_exceeded"

    def account() -> dict[str, Any]:
        told = served.shell.rayapp_json("spending")
        return next(one for one in told if one["tenant"] == POOR)

    until(lambda: account()["lent"] == 0 and account()["logged"] > 0)
    found = account()
    assert found["spent"] == found["logged"] <= 17_000
    explained = served.shell.rayapp_json("explain", "too-dear")
    (whole,) = explained["answers"]
    assert whole["cost_nano_usd"] == found["logged"]
    assert whole["finish_reason"] == "budget_exceeded"
    assert whole["num_output_tokens"] in CUT_AFTER_TOKENS
    assert len(whole["parts"]) > 1


def test_a_budget_that_is_used_up_is_an_error_that_clients_know(served: Served) -> None:
    client = OpenAI(base_url=f"{served.url}/v1", api_key=served.key_of(POOR), max_retries=0)
    with pytest.raises(RateLimitError) as caught:
        client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=200)
    assert caught.value.code == "budget_exceeded"


def test_a_rate_in_tokens_is_one_for_all_gateways(served: Served) -> None:
    """A request asks for its prompt and all that may be answered; what it did not use is back."""
    key = served.key_of(SLOW)
    with served.client(key) as client:

        def ask(**fields: Any) -> httpx.Response:
            return client.post("/v1/chat/completions", content=chat(**fields), headers=JSON)

        assert ask(max_tokens=20, stop="Paris").is_success
        assert ask(max_tokens=1).status_code == 429  # over whichever gateway
        refused = ask(max_tokens=8)
        assert refused.json()["error"]["code"] == "rate_limited"
        assert 1 <= int(refused.headers["retry-after"]) <= 120
        too_large = ask(max_tokens=24)
        assert "at any time" in too_large.json()["error"]["message"]
        assert "retry-after" not in too_large.headers
