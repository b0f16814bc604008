"""Language models as callers meet them: clients of OpenAI's interface as they are published."""

import json
import subprocess
from typing import Any, Literal

import numpy as np
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike
from llm_head import CITY, EMBEDDER, MESSAGES, MODEL, WEATHER, Served
from openai import OpenAI

from rayapp.llm.environment import runtime_env


def test_models_are_listed(openai: OpenAI) -> None:
    assert {model.id for model in openai.models.list()} >= {MODEL, EMBEDDER}
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
