"""What a page of an interface shows, as a reader would use it."""

import json
import re
import shlex
from html import unescape
from typing import Any


def blocks(page: str) -> list[str]:
    return [unescape(block) for block in re.findall(r"<pre>(.*?)</pre>", page, re.DOTALL)]


def in_shell(command: str, **variables: str) -> tuple[str, dict[str, str], Any]:
    """What a curl sends: where to, its headers, its body."""
    words = shlex.split(command.replace("\\\n", " "))
    for name, value in variables.items():
        words = [word.replace(f"${name}", value) for word in words]
    headers = [words[place + 1] for place, word in enumerate(words) if word == "-H"]
    body = json.loads(words[words.index("-d") + 1])
    return words[2], dict(header.split(": ", 1) for header in headers), body
