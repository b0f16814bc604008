"""The last screen of `scripts/quickstart --with-llm`: a first question, and how others ask."""

import json
import os
import shlex
import sys
import time
import urllib.error
import urllib.request

from rayapp.cli.ask_model import Answer, ask, body_of, cost_of
from rayapp.cli.head_state import Head
from rayapp.cli.summary import activation
from rayapp.errors import Unavailable
from rayapp.govern.keys import create_key
from rayapp.ledger import Ledger
from rayapp.schemas.record import short
from rayapp.storage import Workspace

MAX_TOKENS = 60
KEY_WAIT_S = 10.0
_PYTHON = """\
from openai import OpenAI  # pip install openai

client = OpenAI(base_url="{url}", api_key="{key}")
answer = client.chat.completions.create(
    model="{model}",
    messages=[{{"role": "user", "content": {question}}}],
    temperature=0,
)
print(answer.choices[0].message.content)"""


def key_for(base_url: str, tenant: str, ledger: Ledger) -> str | None:
    """RAYAPP_API_KEY's where it is set, else one that is made for the tenant, once the gateway
    knows it; None where the gateway wants none. Raises Unavailable where there is no gateway."""
    if _status(base_url, None) != 401:
        return None
    if given := os.environ.get("RAYAPP_API_KEY"):
        return given
    key, _ = create_key(ledger, tenant, "caller")
    give_up_s = time.monotonic() + KEY_WAIT_S
    while _status(base_url, key) == 401 and time.monotonic() < give_up_s:
        time.sleep(0.1)  # gateways look for new keys a few times a second
    return key


def _status(base_url: str, key: str | None) -> int:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    request = urllib.request.Request(f"{base_url}/v1/models", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError as error:
        raise Unavailable(f"{base_url} does not answer ({error})", "rayapp doctor") from error


def chat(
    workspace: Workspace, head: Head, model: str, question: str, key: str | None
) -> tuple[Answer, float | None]:
    """The answer is written to stdout as it comes. Returns it, and its cost in US dollars."""
    sys.stdout.write(f"  {question}\n  > ")
    body = body_of(model, question, MAX_TOKENS)
    answer = ask(head.endpoint_url, body, _say, key)
    return answer, cost_of(workspace, answer.request_id)


def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def summary(
    head: Head, model: str, answer: Answer, cost_usd: float | None, key: str | None
) -> dict[str, list[tuple[str, str]]]:
    """Titled lists of (name, value), in reading order."""
    cost = "not in the prompt log yet" if cost_usd is None else f"{cost_usd:.9f} USD"
    answered = [
        ("tokens", f"{answer.num_prompt_tokens} asked, {answer.num_output_tokens} answered"),
        ("cost", f"{cost}, by the prompt log"),
        ("release", f"{short(answer.release_id)}, the weights' digest"),
    ]
    wanted = key or "none is needed; requires_key: true in the serving config asks for one"
    look = [
        ("URL", f"{head.endpoint_url}/v1"),
        ("page", f"{head.endpoint_url}/v1/docs  (for people who ask: models, fields, a curl)"),
        ("key", wanted),
        ("dashboard", f"{head.dashboard_url}  (token: {head.token_path})"),
        ("commands", activation()),
    ]
    following = [
        (f"rayapp explain {answer.request_id}", "from that answer back to the weights"),
        (f'rayapp ask {model} "…"', "another question"),
        ("docs/how-to/serve-language-models.md", "streams, tools, keys, budgets, GPUs, your model"),
        ("rayapp down", "stop what was started; state stays"),
    ]
    return {"Answer": answered, "Look at": look, "Next": following}


def snippets(head: Head, model: str, question: str, key: str | None) -> dict[str, str]:
    """Titled texts to copy."""
    url = f"{head.endpoint_url}/v1"
    messages = [{"role": "user", "content": question}]
    fields = {"model": model, "messages": messages, "temperature": 0}
    authorization = f" -H 'authorization: Bearer {key}'" if key else ""
    curl = (
        f"curl -s {url}/chat/completions -H 'content-type: application/json'{authorization} \\\n"
        f"  -d {shlex.quote(json.dumps(fields))}"
    )
    python = _PYTHON.format(url=url, key=key or "none", model=model, question=json.dumps(question))
    return {"From a shell": curl, "From Python": python}
