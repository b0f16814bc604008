"""`rayapp ask MODEL "question"`: one question to a language model, its answer as it comes, and what
became of it."""

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from rayapp.cli.terminal import show_aside, waiting
from rayapp.errors import Unavailable, UserError
from rayapp.observe.prompts import find_prompts
from rayapp.schemas.record import short
from rayapp.schemas.traffic import NANO
from rayapp.storage import Workspace

LOG_WAIT_S = 20.0
"""The prompt log is committed every few seconds (`commit_every_s`)."""
_TIMEOUT_S = 300
_DATA = b"data: "
_DONE = b"[DONE]"


@dataclass(frozen=True)
class Answer:
    """One question's answer. release_id: digest of the weights that answered. degraded: why it is
    not the intended model's, or None when it is. first_token_ms: None where there was no text."""

    request_id: str
    release_id: str
    text: str = ""
    finish_reason: str | None = None
    num_prompt_tokens: int = 0
    num_output_tokens: int = 0
    first_token_ms: float | None = None
    latency_ms: float = 0
    degraded: str | None = None


def body_of(
    model: str, question: str, max_tokens: int | None = None, temperature: float = 0
) -> bytes:
    """One request by OpenAI's protocol."""
    fields: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "temperature": temperature,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if max_tokens is not None:
        fields["max_tokens"] = max_tokens
    return json.dumps(fields, ensure_ascii=False).encode()


def ask(base_url: str, body: bytes, say: Callable[[str], None], key: str | None = None) -> Answer:
    """say: is given the answer's text as it comes. key: RAYAPP_API_KEY's where it is None. Raises
    UserError for what the gateway refuses, Unavailable where there is none or it broke off."""
    url = f"{base_url}/v1/chat/completions"
    headers = {"Content-Type": "application/json"}
    if key := key or os.environ.get("RAYAPP_API_KEY"):
        headers["Authorization"] = f"Bearer {key}"
    request = urllib.request.Request(url, body, headers)
    began_s = time.monotonic()
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:
            return read_answer(response, say, began_s)
    except urllib.error.HTTPError as error:
        raise refused(url, error.code, error.read()) from error
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable(
            f"{url} does not answer ({error})",
            "rayapp submit configs/serving/llm.yaml; rayapp doctor; the dashboard's Serve page",
        ) from error


class Streamed(Protocol):
    """A response that comes line by line."""

    @property
    def headers(self) -> Mapping[str, str]: ...
    def __iter__(self) -> Iterator[bytes]: ...


def read_answer(
    response: Streamed, say: Callable[[str], None], began_s: float | None = None
) -> Answer:
    """began_s: of time.monotonic, when it was asked; now where it is None. Raises Unavailable for
    an answer that breaks off."""
    began_s = time.monotonic() if began_s is None else began_s
    answer = Answer(
        request_id=response.headers["x-request-id"],
        release_id=response.headers["x-release"],
        degraded=response.headers.get("x-degraded"),
    )
    texts: list[str] = []
    for event in _events(response):
        if "error" in event:
            say("\n")
            raise _broken_off(answer, event["error"]["message"])
        if usage := event.get("usage"):
            answer = replace(
                answer,
                num_prompt_tokens=usage["prompt_tokens"],
                num_output_tokens=usage["completion_tokens"],
            )
        for choice in event["choices"]:
            text = choice["delta"].get("content") or ""
            if text and answer.first_token_ms is None:
                answer = replace(answer, first_token_ms=_ms_since(began_s))
            texts.append(text)
            say(text)
            answer = replace(answer, finish_reason=choice.get("finish_reason"))
    say("\n")
    return replace(answer, text="".join(texts), latency_ms=_ms_since(began_s))


def _events(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    for line in lines:
        if line.startswith(_DATA):
            told = line.removeprefix(_DATA).strip()
            if told == _DONE:
                return
            yield json.loads(told)
    yield {"error": {"message": "the connection ended before it was complete"}}


def _ms_since(began_s: float) -> float:
    return (time.monotonic() - began_s) * 1000


def _broken_off(answer: Answer, why: str) -> Unavailable:
    return Unavailable(
        f"the answer to {answer.request_id} broke off: {why}",
        f"rayapp explain {answer.request_id}",
    )


def refused(url: str, status: int, body: bytes) -> UserError:
    """What the gateway says, in its own words."""
    try:
        what, _, next_step = json.loads(body)["error"]["message"].rpartition("; next: ")
    except (ValueError, KeyError, TypeError):  # no gateway of ours answered
        what = next_step = ""
    if not what:
        what = body.decode(errors="replace")[:500] or "nothing"
        next_step = "serve language models: rayapp submit configs/serving/llm.yaml"
    if status == 401:
        next_step = "export RAYAPP_API_KEY=…; a key is made by: rayapp keys create TENANT"
    return UserError(f"{url} answered {status}: {what}", next_step)


def is_unknown(error: UserError) -> bool:
    """`ask` was told that there is no such model, or nothing that answers for models at all."""
    cause = error.__cause__
    return isinstance(cause, urllib.error.HTTPError) and cause.code == 404


def cost_of(workspace: Workspace, request_id: str) -> float | None:
    """In US dollars, by the prompt log. None where the log does not have the answer in time."""
    give_up_s = time.monotonic() + LOG_WAIT_S
    with waiting("waiting for the prompt log"):
        while True:
            parts = find_prompts(workspace, request_id)
            if parts and parts[-1].finish_reason is not None:
                return sum(part.cost_nano_usd or 0 for part in parts) / NANO
            if time.monotonic() > give_up_s:
                return None
            time.sleep(0.5)  # gateways commit in the background, and tell nobody


def show(answer: Answer, cost_usd: float | None) -> None:
    """Beside the answer's text: on stderr."""
    first = "" if answer.first_token_ms is None else f"first {answer.first_token_ms:,.0f} ms, "
    pairs = {
        "ended by": answer.finish_reason or "nothing",
        "tokens": f"{answer.num_prompt_tokens:,} asked, {answer.num_output_tokens:,} answered",
        "cost": "not in the prompt log yet" if cost_usd is None else f"{cost_usd:.9f} USD",
        "time": f"{first}all {answer.latency_ms:,.0f} ms",
        "release": f"{short(answer.release_id)}, the weights' digest",
        "request": answer.request_id,
    }
    if answer.degraded is not None:
        pairs["degraded"] = f"{answer.degraded}, answered by a stand-in"
    show_aside(pairs)
