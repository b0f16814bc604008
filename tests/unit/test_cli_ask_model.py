"""`rayapp ask MODEL "question"`: what a gateway streams, and what of it a person is shown."""

import io
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.client import HTTPMessage
from pathlib import Path
from typing import Any

import pytest
from heads import known_head
from released import release

from rayapp.cli import head_state
from rayapp.cli.app import main
from rayapp.cli.ask import sample_requests
from rayapp.cli.ask_model import Answer, body_of, read_answer, refused
from rayapp.cli.first_chat import snippets, summary
from rayapp.errors import Unavailable, UserError
from rayapp.ledger import Ledger
from rayapp.schemas.operations import EventKind
from rayapp.storage import Workspace

HEADERS = {"x-request-id": "req-1", "x-release": "ab" * 32}


class _Response:
    """A stream of server-sent events, as urllib gives it: by line."""

    def __init__(self, *events: dict[str, Any], is_whole: bool = True) -> None:
        self.headers = HEADERS
        self._lines = [b"data: " + json.dumps(event).encode() + b"\n" for event in events]
        if is_whole:
            self._lines.append(b"data: [DONE]\n")

    def __iter__(self) -> Iterator[bytes]:
        for line in self._lines:
            yield line
            yield b"\n"


def _delta(text: str | None, finish_reason: str | None = None) -> dict[str, Any]:
    return {"choices": [{"delta": {"content": text}, "finish_reason": finish_reason}]}


USAGE = {"choices": [], "usage": {"prompt_tokens": 31, "completion_tokens": 2}}


def test_text_is_shown_as_it_comes_and_counted_afterwards() -> None:
    shown: list[str] = []
    events = (_delta(""), _delta("Pa"), _delta("ris"), _delta(None, "stop"), USAGE)
    answer = read_answer(_Response(*events), shown.append)
    assert "".join(shown) == "Paris\n"
    assert answer.first_token_ms is not None
    assert (answer.request_id, answer.release_id) == ("req-1", "ab" * 32)
    assert (answer.text, answer.finish_reason) == ("Paris", "stop")
    assert (answer.num_prompt_tokens, answer.num_output_tokens) == (31, 2)


def test_an_answer_that_breaks_off_says_why() -> None:
    error = {"error": {"message": "the budget is used up; next: raise it"}}
    with pytest.raises(Unavailable, match="req-1 broke off: the budget is used up"):
        read_answer(_Response(_delta("Pa"), error), lambda text: None)


def test_an_answer_without_an_end_is_not_taken_for_one() -> None:
    with pytest.raises(Unavailable, match="before it was complete"):
        read_answer(_Response(_delta("Pa"), is_whole=False), lambda text: None)


@pytest.mark.parametrize(
    ("status", "body", "what", "next_step"),
    [
        (404, b'{"error": {"message": "no model; next: models are []"}}', "no model", "models are"),
        (401, b'{"error": {"message": "no key; next: send one"}}', "no key", "RAYAPP_API_KEY"),
        (404, b"Not Found", "Not Found", "configs/serving/llm.yaml"),
        (503, b"", "nothing", "configs/serving/llm.yaml"),
        (404, b'{"error": {"message": "none", "next": "look"}}', "none", "llm.yaml"),
    ],
)
def test_a_refusal_is_told_in_the_gateways_words(
    status: int, body: bytes, what: str, next_step: str
) -> None:
    error = refused("http://here", status, body)
    assert f"answered {status}: " in error.what
    assert what in error.what
    assert next_step in str(error)


def test_a_question_is_one_message_and_its_counts_are_wanted() -> None:
    fields = json.loads(body_of("small", "why?", 5))
    assert fields["temperature"] == 0
    assert fields["messages"] == [{"role": "user", "content": "why?"}]
    assert (fields["max_tokens"], fields["stream"]) == (5, True)
    assert fields["stream_options"] == {"include_usage": True}
    assert "max_tokens" not in json.loads(body_of("small", "why?"))


@pytest.mark.parametrize("key", [None, "rk_1_2"])
def test_the_quickstarts_last_screen_can_be_copied(key: str | None) -> None:
    told = snippets(known_head(), "small", 'What\'s the "capital" of France?', key)
    assert ("authorization: Bearer rk_1_2" in told["From a shell"]) == (key is not None)
    compile(told["From Python"], "python", "exec")
    assert f'api_key="{key or "none"}"' in told["From Python"]
    shown = summary(known_head(), "small", Answer("req-1", "ab" * 32), 0.0001, key)
    assert dict(shown["Look at"])["URL"] == "http://127.0.0.1:2/v1"
    assert dict(shown["Look at"])["page"].startswith("http://127.0.0.1:2/v1/docs ")
    assert shown["Next"][0][0] == "rayapp explain req-1"


@pytest.mark.parametrize(
    ("model", "says"),
    [("small", "'small' is a language model: a question is missing"), ("other", "no champion")],
)
def test_a_language_model_is_asked_a_question(model: str, says: str, tmp_path: Path) -> None:
    workspace = Workspace(str(tmp_path))
    Ledger.of(workspace, "test").append(EventKind.WEIGHTS_ADDED, "small", {})
    with pytest.raises(UserError, match=says) as error:
        sample_requests(workspace, model, 3)
    assert f'rayapp ask {model} "What' in error.value.next_step


@pytest.mark.parametrize(
    ("status", "name", "says"),
    [
        (404, "flight-delay", "'flight-delay' is no language model but an endpoint for rows"),
        (404, "other", "answered 404: there is no model"),
        (429, "flight-delay", "answered 429: there is no model"),
    ],
)
def test_a_question_to_an_endpoint_of_rows_is_told_as_one(
    status: int,
    name: str,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(request: urllib.request.Request, timeout: float) -> None:
        body = b'{"error": {"message": "there is no model; next: models are []"}}'
        raise urllib.error.HTTPError(request.full_url, status, "", HTTPMessage(), io.BytesIO(body))

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr(head_state, "running_head", lambda _: known_head())
    monkeypatch.setenv("RAYAPP_WORKSPACE", release(tmp_path).workspace.uri)
    assert main(["ask", name, "Will it be late?"]) == 2
    told = capsys.readouterr().err
    assert says in told
    assert ("leave the question out: rayapp ask flight-delay" in told) == ("rows" in says)


@pytest.mark.parametrize("question", ["", " \n"])
def test_an_empty_question_is_not_sent(
    question: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("RAYAPP_WORKSPACE", str(tmp_path))
    assert main(["ask", "small", question, "--print-body"]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert f"the question is {question!r}, nothing is asked" in told.err
