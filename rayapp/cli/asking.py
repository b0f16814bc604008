"""`rayapp ask`: real rows to an endpoint, or a question to a language model."""

import sys
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from rayapp.cli.terminal import Json, emit_json, show_next
from rayapp.errors import UserError

if TYPE_CHECKING:
    from rayapp.storage import Workspace


def ask(
    endpoint: str,
    question: Annotated[str | None, Parameter(help="To a language model.")] = None,
    *,
    rows: Annotated[
        int | None,
        Parameter(help="How many rows, one request each; without a question. Default 3."),
    ] = None,
    max_tokens: Annotated[
        int | None, Parameter(help="Of the answer, at most; with a question.")
    ] = None,
    temperature: Annotated[
        float | None,
        Parameter(help="0 to 2, with a question. Default 0: the likeliest answer each time."),
    ] = None,
    json: Json = False,
    print_body: Annotated[
        bool, Parameter(help="Send nothing; print the body of one request, with all rows.")
    ] = False,
) -> None:
    """Send real rows of the champion's test split to its endpoint, or a question to a model.

    * `rayapp ask flight-delay --rows 10`
    * `rayapp ask smollm2-135m-instruct "What is the capital of France?"`

    A language model's answer is shown as it comes; then its tokens, its release, and what it cost
    by the prompt log, which takes a few seconds. Where the gateway requires a key, RAYAPP_API_KEY
    holds it.
    """
    if question is None:
        if (max_tokens, temperature) != (None, None):
            raise UserError(
                "--max-tokens and --temperature go with a question", 'rayapp ask MODEL "question"'
            )
        _ask_rows(endpoint, 3 if rows is None else rows, json, print_body)
        return
    if rows is not None:
        raise UserError("--rows and a question are both given", "keep one of them")
    if not question.strip():
        raise UserError(
            f"the question is {question!r}, nothing is asked",
            f'rayapp ask {endpoint} "question"; rows are sent without one: rayapp ask {endpoint}',
        )
    from rayapp.cli.ask_model import body_of

    body = body_of(endpoint, question, max_tokens, temperature or 0)
    _ask_model(endpoint, body, json, print_body)


def _ask_rows(endpoint: str, num_rows: int, json: bool, print_body: bool) -> None:
    from rayapp.cli.ask import ask as ask_rows
    from rayapp.cli.ask import body_of, sample_requests, show
    from rayapp.cli.head_state import running_head
    from rayapp.cli.own_ledger import own_workspace

    workspace = own_workspace()
    if print_body:
        _print(body_of(sample_requests(workspace, endpoint, num_rows)))
        return
    answers = []
    try:
        for answer in ask_rows(workspace, running_head(workspace).endpoint_url, endpoint, num_rows):
            answers.append(answer)
    finally:  # where one was refused, those before it were answered, and paid for
        if json and answers:
            emit_json([vars(answer) for answer in answers])
        elif answers:
            show(answers)
    show_next([f"rayapp explain {answers[0].request_id}"] if answers and not json else [])


def _ask_model(name: str, body: bytes, json: bool, print_body: bool) -> None:
    from rayapp.cli.ask_model import ask as ask_model
    from rayapp.cli.ask_model import cost_of, is_unknown, show
    from rayapp.cli.head_state import running_head
    from rayapp.cli.own_ledger import own_workspace

    if print_body:
        _print(body)
        return
    workspace = own_workspace()
    url = running_head(workspace).endpoint_url
    try:
        answer = ask_model(url, body, (lambda text: None) if json else _say)
    except UserError as error:
        if is_unknown(error):
            _require_no_endpoint_of_rows(workspace, name)
        raise
    cost_usd = cost_of(workspace, answer.request_id)
    if json:
        emit_json({**vars(answer), "cost_usd": cost_usd})
        return
    show(answer, cost_usd)
    show_next([f"rayapp explain {answer.request_id}"])


def _require_no_endpoint_of_rows(workspace: "Workspace", name: str) -> None:
    """Raises UserError."""
    from rayapp.cli.ask import takes_rows

    if takes_rows(workspace, name):
        raise UserError(
            f"{name!r} is no language model but an endpoint for rows, it takes no question",
            f"leave the question out: rayapp ask {name}",
        )


def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _print(body: bytes) -> None:
    sys.stdout.buffer.write(body + b"\n")
